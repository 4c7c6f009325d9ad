"""BatchNorm in backbones that are tuned: kept at its statistics, or moved once though a stage runs twice."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def _norms(module: nn.Module) -> Iterator[_BatchNorm]:
    return (each for each in module.modules() if isinstance(each, _BatchNorm))


def freeze_statistics(module: nn.Module) -> None:
    """Let every BatchNorm in `module` use and keep the statistics it has; its weight and bias still learn."""
    for norm in _norms(module):
        norm.eval()


@contextmanager
def _keep_statistics(module: nn.Module) -> Iterator[None]:
    """Normalise by the batch as before, without moving the running statistics."""
    before = []
    for norm in _norms(module):
        count = norm.num_batches_tracked
        if norm.training and count is not None:
            before.append((norm, norm.momentum, count, count.clone()))
            norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count, counted in before:
            norm.momentum = momentum
            count.copy_(counted)


def run_checkpointed(module: nn.Module, x: Tensor) -> Tensor:
    """module(x), whose activations are computed again in the backward pass instead of being kept. Chen et al. 2016.

    The second run leaves the running statistics of BatchNorm alone, which plain checkpointing moves twice.
    """
    if not torch.is_grad_enabled():
        return module(x)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _keep_statistics(module)

    result: Tensor = checkpoint(module, x, use_reentrant=False, context_fn=contexts)
    return result
