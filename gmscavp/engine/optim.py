"""What is between the config and the optimiser: wrappers that step, and learning rates that fall with depth."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from gmscavp.engine.skipping import (
    RunningStatistics,
    not_finite,
    one_or_nan,
    prefer_fused,
    step_unless,
    with_own_kernels,
)
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
class StepOptimWrapper(OptimWrapper):
    """MMEngine's, for which the host never waits for the device, and whose accumulation is exact.

    accumulative_counts: so many batches give one update, by the mean of their gradients; what is left at the end of an
    epoch is an update of its own, of fewer batches, so that no epoch ends, and no checkpoint is written, with gradients
    on the way. MMEngine lets such a rest run into the next epoch and loses it where a run is resumed. epoch_steps: batches
    in an epoch, where there are epochs; the runner says it (accumulation.prepare). skip_non_finite: an update whose loss
    or gradient is not finite on any rank changes nothing, on all of them; `skipped` is then 1, else 0, () on the device.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        accumulative_counts: int = 1,
        clip_grad: dict | None = None,
        skip_non_finite: bool = True,
    ) -> None:
        super().__init__(optimizer, accumulative_counts, clip_grad)
        self.epoch_steps: int | None = None
        self.skip_non_finite = skip_non_finite
        self.skipped: Tensor | None = None
        self._norm: Tensor | None = None
        self._statistics: RunningStatistics | None = None
        if skip_non_finite:
            prefer_fused(optimizer)

    @property
    def accumulative_counts(self) -> int:
        """Batches of one update."""
        return self._accumulative_counts

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Begin at a step of a run. Raises UserError for a step between two updates, whose gradients are lost."""
        super().initialize_count_status(model, init_counts, max_counts)
        place, _ = self._window(init_counts)
        if place:
            raise UserError(
                f'the run to resume stopped {place} batches into an accumulation of {self.accumulative_counts}, whose '
                'gradients no checkpoint holds; save at multiples of accumulative_counts and resume from such a one.'
            )

    def should_update(self) -> bool:
        """Whether the batch that went backward last completes an update."""
        return self._completes(self._inner_count - 1)

    def should_sync(self) -> bool:
        """Whether ranks must exchange gradients of the batch that is to come."""
        return self._completes(self._inner_count)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """What a batch counts in its update."""
        return loss / self._window(self._inner_count)[1]

    def take_norm(self) -> Tensor | None:
        """The norm of the gradients of the last update before clipping, (), once."""
        norm, self._norm = self._norm, None
        return norm

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Find the gradient; of a loss that is not finite none of it is, so that ranks agree to skip the update."""
        if self.skip_non_finite:
            kwargs.setdefault('gradient', one_or_nan(loss))
        super().backward(loss, **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Clip and update, or leave all as it is."""
        if not self.skip_non_finite:
            super().step(**kwargs)
            return
        self.skipped = None
        weights = self._with_gradient()
        if weights:
            self.skipped = not_finite(self._clipped_norm(weights))
            step_unless(self.skipped, self.optimizer, **kwargs)
        if self._statistics:
            self._statistics.settle(self.skipped)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Around the forward pass, whose running statistics are kept for the case that the update is skipped."""
        if self.skip_non_finite:
            self._statistics = self._statistics or RunningStatistics(model)
            self._statistics.remember()
        with super().optim_context(model):
            yield

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over moments and rates, but not the kernels of the run that saved them."""
        super().load_state_dict(with_own_kernels(state_dict, self.optimizer))

    def _window(self, count: int) -> tuple[int, int]:
        """Where batch number `count` stands among those of one update, and how many they are."""
        end = self.epoch_steps or (self._max_counts if self._max_counts > 0 else None)
        number = count if end is None else count % end
        place = number % self.accumulative_counts
        length = self.accumulative_counts
        return place, length if end is None else min(length, end - number + place)

    def _completes(self, count: int) -> bool:
        place, length = self._window(count)
        return place == length - 1

    def _clip_grad(self) -> None:
        # MMEngine reads the norm at once, for which the host waits in every step.
        weights = self._with_gradient()
        if weights:
            norm = self.clip_func(weights, **self.clip_grad_kwargs)
            self._norm = None if norm is None else _whole(norm)

    def _with_gradient(self) -> list[Tensor]:
        weights = [weight for group in self.optimizer.param_groups for weight in group['params']]
        return [weight for weight in weights if weight.grad is not None]

    def _clipped_norm(self, weights: list[Tensor]) -> Tensor:
        """Clip, where the settings say so; the norm before."""
        if self.clip_grad_kwargs and self.clip_func is torch.nn.utils.clip_grad_norm_:
            self._clip_grad()
            assert self._norm is not None
            return self._norm
        norm = _whole(torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None]))
        if self.clip_grad_kwargs:
            self._clip_grad()
        return norm


def _whole(norm: Tensor) -> Tensor:
    """A norm to which, of weights that are split over ranks, every rank has found a part."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(StepOptimWrapper):
    """bfloat16 autocast on CPU and GPU, and no gradient scaler: bfloat16 has float32's range.

    MMEngine's own AmpOptimWrapper refuses to run without a GPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass under autocast."""
        with super().optim_context(model), torch.autocast(get_device(), dtype=torch.bfloat16):
            yield


def wrappers_of(wrapper: Any) -> list[OptimWrapper]:
    """A run's optimisers: the one, or those of a model whose parts have their own."""
    return list(wrapper.optim_wrappers.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


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
