"""Accumulation of gradients that is exact: several batches, one update, and everything that counts updates counts those.

k batches of a loss that is a mean over clips give, by the mean of their gradients, the update of one batch k times as
large. What cannot be exact is refused before training, with the setting that is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import EMAHook, Hook, ParamSchedulerHook
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gmscavp.engine.optim import StepOptimWrapper, wrappers_of
from gmscavp.errors import UserError
from gmscavp.registry import HOOKS


def prepare(wrapper: Any, model: nn.Module, loop: BaseLoop, hooks: Sequence[Hook]) -> None:
    """Tell an optimiser's wrapper how long an epoch is. Raises UserError where accumulation would not be exact."""
    if _counts(wrapper) > 1:
        _check_wrapper(wrapper, hooks)
        _check_model(_counts(wrapper), model, loop)
        _check_batches(loop)
    if isinstance(wrapper, StepOptimWrapper) and isinstance(loop, EpochBasedTrainLoop):
        wrapper.epoch_steps = len(loop.dataloader)


def has_updated(wrapper: Any) -> bool:
    """Whether the step that has just been made changed the weights."""
    return not isinstance(wrapper, StepOptimWrapper) or wrapper.should_update()


def skipped_update(wrapper: Any) -> Tensor | None:
    """1 where the update that has just been made was left out for its gradient, else 0: (), None where nobody looked."""
    each = [one for one in wrappers_of(wrapper) if isinstance(one, StepOptimWrapper)]
    flags = [one.skipped for one in each if one.skipped is not None]
    return torch.stack(flags).amax(0) if flags and has_updated(wrapper) else None


def in_updates(schedule: Mapping[str, Any], wrapper: Any, epoch_steps: int, max_steps: int) -> dict[str, Any]:
    """A schedule's settings with lengths in updates where they were in steps; as they are without accumulation.

    What is given in numbers (begin, end, T_max) counts updates already, since UpdateSchedulerHook steps at updates.
    """
    counts, settings = _counts(wrapper), dict(schedule)
    if counts == 1:
        return settings
    if settings.get('convert_to_iter_based'):
        settings.setdefault('epoch_length', -(-epoch_steps // counts))
    elif not settings.get('by_epoch', True):
        epochs, rest = divmod(max_steps, epoch_steps)
        settings.setdefault('end', epochs * -(-epoch_steps // counts) + -(-rest // counts))
    return settings


@HOOKS.register_module()
class UpdateSchedulerHook(ParamSchedulerHook):
    """MMEngine's, but learning rates move with updates: they are those of a batch as large as all that is accumulated."""

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Move the schedules on after an update."""
        if has_updated(runner.optim_wrapper):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)


@HOOKS.register_module()
class UpdateEMAHook(EMAHook):
    """MMEngine's, but the average takes in the weights once an update: k times the same weights would count k times.

    An update that was skipped for its gradient is none. On a GPU, where the host does not know that, the average counts
    it among its steps, which a plain ExponentialMovingAverage asks for its first step alone.
    """

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Let the average follow after an update."""
        if not has_updated(runner.optim_wrapper):
            return
        skipped, average = skipped_update(runner.optim_wrapper), self.ema_model
        if skipped is None:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
        elif skipped.is_cuda and _takes_tensors(average):
            average.momentum, momentum = average.momentum * (1 - skipped), average.momentum
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
            average.momentum = momentum
        elif not skipped.item():
            super().after_train_iter(runner, batch_idx, data_batch, outputs)


def _takes_tensors(average: Any) -> bool:
    """Whether an average's momentum may be a tensor of float32: other kinds compare it, for which the host would wait."""
    weights = average.module.parameters()
    return type(average) is ExponentialMovingAverage and all(weight.dtype == torch.float32 for weight in weights)


def _counts(wrapper: Any) -> int:
    """Batches of one update, the most that any optimiser of a model takes."""
    return max(one._accumulative_counts for one in wrappers_of(wrapper))


def _check_wrapper(wrapper: Any, hooks: Sequence[Hook]) -> None:
    if isinstance(wrapper, OptimWrapperDict):
        raise UserError(
            'accumulative_counts: several optimisers that take turns cannot accumulate; leave it out and raise '
            'train_dataloader.batch_size.'
        )
    if not isinstance(wrapper, StepOptimWrapper):
        raise UserError(
            f'accumulative_counts: {type(wrapper).__name__} loses what is left at the end of an epoch where a run is '
            'resumed; set optim_wrapper.type to StepOptimWrapper, or train with --amp.'
        )
    for kind, exact in ((ParamSchedulerHook, UpdateSchedulerHook), (EMAHook, UpdateEMAHook)):
        if any(isinstance(hook, kind) and not isinstance(hook, exact) for hook in hooks):
            raise UserError(
                f'accumulative_counts: {kind.__name__} counts batches and not updates; use {exact.__name__} in its place.'
            )


def _check_model(counts: int, model: nn.Module, loop: BaseLoop) -> None:
    batch = loop.dataloader.batch_size
    if any(getattr(module, 'compares_clips', False) for module in model.modules()):
        raise UserError(
            f'accumulative_counts={counts}: a contrastive loss would tell a clip from the {batch} of its own batch alone, '
            f'which is another loss than that of {counts * batch} clips; set train_dataloader.batch_size='
            f'{counts * batch} and model.chunk={batch} in its place, which is exact (docs/large_batches.md).'
        )
    # Frozen parts rest only once the mode has been set.
    model.train()
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise UserError(
                f'accumulative_counts: {name} is BatchNorm in training, whose statistics would be those of {batch} clips '
                f'and not of {counts * batch}; freeze it (frozen_norm=True in the backbone), use a backbone with GroupNorm '
                'or LayerNorm, or raise train_dataloader.batch_size.'
            )


def _check_batches(loop: BaseLoop) -> None:
    loader: Any = loop.dataloader
    if not loader.drop_last and len(loader.sampler) % loader.batch_size:
        raise UserError(
            f'accumulative_counts: the last batch of an epoch has {len(loader.sampler) % loader.batch_size} clips, which '
            f'would count as much as {loader.batch_size}; set train_dataloader.drop_last=True.'
        )
