"""What is between the config and the optimiser: the wrapper behind --amp, and learning rates that fall with depth."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from gmscavp.errors import UserError, near_names
from gmscavp.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

# What MMEngine's own constructor reads.
_PARAMWISE_KEYS = {
    'custom_keys',
    'bias_lr_mult',
    'bias_decay_mult',
    'norm_decay_mult',
    'dwconv_decay_mult',
    'flat_decay_mult',
    'dcn_offset_lr_mult',
    'bypass_duplicate',
}


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """bfloat16 autocast on CPU and GPU, and no gradient scaler: bfloat16 has float32's range.

    MMEngine's own AmpOptimWrapper refuses to run without a GPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass under autocast."""
        with super().optim_context(model), torch.autocast(get_device(), dtype=torch.bfloat16):
            yield


def depth_factors(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """decay^(n - d) for the parameters of part d = 0 .. n - 1 of every backbone in the model.

    A backbone is a module that names its parts from the input to the output (`by_depth`); what is in none is not listed
    and keeps the full rate, decay^0. Clark et al. 2020 (ELECTRA), Bao et al. 2022 (BEiT). Raises UserError for a
    backbone whose parts leave parameters out.
    """
    factors: dict[nn.Parameter, float] = {}
    for backbone in model.modules():
        by_depth: Any = getattr(backbone, 'by_depth', None)
        if not callable(by_depth):
            continue
        parts: list[nn.Module] = by_depth()
        for d, part in enumerate(parts):
            factors |= dict.fromkeys(part.parameters(), decay ** (len(parts) - d))
        for name, parameter in backbone.named_parameters():
            if parameter not in factors:
                raise UserError(f'{type(backbone).__name__}: by_depth() leaves out {name}; add it to one of the parts.')
    return factors


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that fall with the distance from the output: lr * layer_decay^(n - d) for part d of n.

    paramwise_cfg: layer_decay in (0, 1], beside MMEngine's own keys (custom_keys, norm_decay_mult, bias_decay_mult, ...),
    whose multipliers count as well. See depth_factors for what the parts are. Parameters that are frozen are left out,
    and those with equal settings share a group. Raises UserError for a key that nothing reads.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: Mapping[str, Any] | None = None) -> None:
        settings = dict(paramwise_cfg or {})
        for key in settings.keys() - _PARAMWISE_KEYS - {'layer_decay'}:
            near = near_names(key, [*_PARAMWISE_KEYS, 'layer_decay'])
            raise UserError(f"optim_wrapper.paramwise_cfg.{key}: LayerDecayConstructor has no setting '{key}'.{near}")
        decay = settings.get('layer_decay')
        if not isinstance(decay, int | float) or not 0 < decay <= 1:
            raise UserError(
                f'optim_wrapper.paramwise_cfg.layer_decay must be above 0 and at most 1, for example 0.75; it is {decay}.'
            )
        super().__init__(optim_wrapper_cfg, settings)
        if self.base_lr is None:
            raise UserError('LayerDecayConstructor needs a rate that it can decay: set optim_wrapper.optimizer.lr.')
        self.layer_decay, self.rate = float(decay), float(self.base_lr)

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: int | float | None = None
    ) -> None:
        """Fill `params` with groups; MMEngine's rules first, then the decay over the model as a whole."""
        super().add_params(params, module, prefix, is_dcn_module)
        # MMEngine calls this for every module within as well.
        if not prefix:
            params[:] = self._decayed(params, depth_factors(module, self.layer_decay))

    def _decayed(self, params: list[dict], factors: Mapping[nn.Parameter, float]) -> list[dict]:
        """Groups of one parameter each -> groups of equal settings, rates decayed."""
        joint: dict[tuple, dict] = {}
        for group in params:
            (parameter,) = group['params']
            rate = group.get('lr', self.rate) * factors.get(parameter, 1.0)
            options = {name: value for name, value in group.items() if name != 'params'} | {'lr': rate}
            joint.setdefault(tuple(sorted(options.items())), {'params': [], **options})['params'].append(parameter)
        return list(joint.values())
