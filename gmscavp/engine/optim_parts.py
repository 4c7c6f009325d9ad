"""One optimiser for each part of a model, for objectives that work against each other."""

from collections.abc import Mapping
from typing import Any

from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from torch import nn

from gmscavp.errors import UserError
from gmscavp.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PartsConstructor:
    """optim_wrapper=dict(constructor=PartsConstructor, <part>=dict(type=OptimWrapper, optimizer=...), ...).

    Every trained parameter must be in one of the parts. A `type` beside them, as --amp sets it, counts for all. The
    model's train_step then gets an OptimWrapperDict.
    """

    def __init__(self, optim_wrapper_cfg: Mapping[str, Any], paramwise_cfg: Mapping[str, Any] | None = None) -> None:
        settings = dict(optim_wrapper_cfg)
        self.kind = settings.pop('type', None)
        self.parts = settings
        if paramwise_cfg:
            raise UserError('optim_wrapper.paramwise_cfg: PartsConstructor takes one in each part instead.')

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Build the optimisers."""
        children = dict(getattr(model, 'module', model).named_children())
        for part in self.parts:
            if part not in children:
                raise UserError(
                    f"optim_wrapper names '{part}', which the model has not; its parts are {', '.join(children)}."
                )
        left = [name for name, child in children.items() if name not in self.parts and _trained(child)]
        if left:
            raise UserError(
                f'optim_wrapper leaves out {", ".join(left)}; give every part that is trained an optimiser.'
            )
        kind = {'type': self.kind} if self.kind else {}
        built = {name: build_optim_wrapper(children[name], dict(cfg) | kind) for name, cfg in self.parts.items()}
        return OptimWrapperDict(**built)


def _trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())
