"""Steps whose gradient is not finite, which change nothing: decided on the device, so that the host need not wait."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

# A group's settings that say by which kernels it is updated, not to what.
_KERNELS = ('fused', 'foreach', 'capturable')


def not_finite(norm: Tensor) -> Tensor:
    """1 where a gradient's norm () is infinite or no number, else 0, as torch's fused optimisers want it: () float32."""
    return 1 - norm.isfinite().float()


def one_or_nan(loss: Tensor) -> Tensor:
    """The gradient of the loss by itself, 1; no number where the loss is not finite, so that no gradient is: ()."""
    return loss.detach() * 0 + 1


def prefer_fused(optimizer: Optimizer) -> None:
    """Let Adam and AdamW on a GPU use the kernels that can leave a step out by themselves, unless the config says else."""
    for group in optimizer.param_groups if isinstance(optimizer, Adam | AdamW) else ():
        open_to_it = group.get('fused') is None and not (group.get('foreach') or group.get('differentiable'))
        if open_to_it and all(weight.is_cuda and weight.is_floating_point() for weight in group['params']):
            group['fused'] = True


def with_own_kernels(saved: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser's saved state, to be updated by the kernels of this run and not by those of the run that saved it."""
    groups = [dict(group) for group in saved['param_groups']]
    for group, own in zip(groups, optimizer.param_groups, strict=False):
        group.update({name: own[name] for name in _KERNELS if name in own and name in group})
    return {**saved, 'param_groups': groups}


def step_unless(skipped: Tensor, optimizer: Optimizer, **settings: Any) -> None:
    """Make a step, or where `skipped` () is 1 leave weights, moments and their counts as they are.

    Fused Adam and AdamW decide on the device. For other optimisers the flag is read, for which on a GPU the host waits.
    """
    any_optimizer: Any = optimizer
    # SGD's fused kernel keeps a first momentum that it has not written where the very first step is left out.
    if isinstance(optimizer, Adam | AdamW) and all(group.get('fused') for group in optimizer.param_groups):
        any_optimizer.found_inf, any_optimizer.grad_scale = skipped, None
        try:
            optimizer.step(**settings)
        finally:
            del any_optimizer.found_inf, any_optimizer.grad_scale
    elif not skipped.item():
        optimizer.step(**settings)


class RunningStatistics:
    """What a forward pass moves (BatchNorm's and other running statistics), as it was before."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(_moving(model))
        self._before: list[Tensor] = []

    def remember(self) -> None:
        """Keep what they are, until `settle`; what is kept already stays."""
        if not self._before:
            self._before = [_joined(alike) for alike in self._alike()]

    def settle(self, skipped: Tensor | None) -> None:
        """Put back what was kept where `skipped` () is 1, and keep it no longer."""
        if skipped is not None:
            for before, alike in zip(self._before, self._alike(), strict=False):
                right = torch.where(skipped.bool(), before, _joined(alike))
                parts = right.split([buffer.numel() for buffer in alike])
                torch._foreach_copy_(alike, [part.view(one.shape) for part, one in zip(parts, alike, strict=True)])
        self._before = []

    def _alike(self) -> list[list[Tensor]]:
        """Those of one type and device together, which are then few operations and not one for each."""
        groups: dict[tuple, list[Tensor]] = {}
        for buffer in self._buffers:
            groups.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        return list(groups.values())


def _joined(buffers: Sequence[Tensor]) -> Tensor:
    return torch.cat([buffer.detach().flatten() for buffer in buffers])


def _moving(model: nn.Module) -> Iterator[Tensor]:
    """Buffers that training may move: those that a checkpoint holds, of modules in training, but for filters of the mel."""
    for name, module in model.named_modules():
        if module.training and 'data_preprocessor' not in name:
            for key, buffer in module.named_buffers(recurse=False):
                if key not in module._non_persistent_buffers_set:
                    yield buffer
