"""Watching a training: steps that are not finite, and losses that jump."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.hooks import EMAHook, Hook, LoggerHook
from mmengine.runner import Runner
from torch import Tensor

from gmscavp import compat
from gmscavp.distributed import gather_objects, world
from gmscavp.engine.accumulation import has_updated, skipped_update
from gmscavp.engine.checkpoints import newest_checkpoint
from gmscavp.engine.optim import StepOptimWrapper, wrappers_of
from gmscavp.engine.sharded_checkpoints import read_sharded, spread
from gmscavp.engine.sharding import is_sharded, like_parts
from gmscavp.errors import UserError
from gmscavp.registry import HOOKS

NON_FINITE_FILE = 'non_finite.jsonl'
SPIKES_FILE = 'spikes.jsonl'
_SKIPPED = 'skipped_steps'
_ON_TOO_MANY = ('stop', 'reload')


@dataclass
class _Batch:
    """What is kept of a batch until the log is written; losses stay on the device."""

    step: int
    clip_ids: list[str]
    losses: dict[str, Any]


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Counts the updates that StepOptimWrapper skipped for a loss or gradient that is not finite, and names their clips.

    It looks where the log is written, so that no step waits for the device. Step, losses and clip ids of every rank go to
    non_finite.jsonl in the work directory. max_in_a_row: so many skipped one after the other are too many. on_too_many:
    'stop' ends the run; 'reload' goes back to weights, moments and average of the newest whole checkpoint, while data,
    steps and schedules go on, at most max_reloads times.
    """

    def __init__(self, max_in_a_row: int = 20, on_too_many: str = 'stop', max_reloads: int = 1) -> None:
        if max_in_a_row < 1:
            raise UserError(f'NonFiniteHook: max_in_a_row must be 1 or more, not {max_in_a_row}.')
        if on_too_many not in _ON_TOO_MANY:
            raise UserError(
                f"NonFiniteHook: on_too_many must be one of {', '.join(_ON_TOO_MANY)}, not '{on_too_many}'."
            )
        self.max_in_a_row, self.on_too_many, self.max_reloads = max_in_a_row, on_too_many, max_reloads
        self.total = self.in_a_row = self.reloads = 0
        self._batches: list[_Batch] = []
        self._waiting: list[tuple[Tensor, list[_Batch]]] = []

    def before_train(self, runner: Runner) -> None:
        """Go on counting where the run that is resumed left off."""
        self.total = runner.message_hub.runtime_info.get(_SKIPPED, 0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Forget the last update: of several optimisers not every one need make a step."""
        for wrapper in _wrappers(runner):
            wrapper.skipped = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Keep what there is to tell, and tell it where the log is written."""
        losses = {name: x.detach() if isinstance(x, Tensor) else x for name, x in (outputs or {}).items()}
        self._batches.append(_Batch(runner.iter + 1, _clip_ids(data_batch), losses))
        if has_updated(runner.optim_wrapper):
            flag = skipped_update(runner.optim_wrapper)
            if flag is not None:
                self._waiting.append((flag, self._batches))
            self._batches = []
        if _log_is_written(self, runner, batch_idx):
            self._read(runner)

    def _read(self, runner: Runner) -> None:
        if not self._waiting:
            return
        flags = torch.stack([flag for flag, _ in self._waiting]).tolist()
        bad, longest = [], 0
        for flag, (_, batches) in zip(flags, self._waiting, strict=True):
            self.in_a_row = self.in_a_row + 1 if flag else 0
            longest = max(longest, self.in_a_row)
            bad += batches if flag else []
        self._waiting = []
        # The flag follows from the gradient that ranks share, so that all of them come here or none.
        if bad:
            self.total += int(sum(flags))
            runner.message_hub.update_info(_SKIPPED, self.total)
            self._report(runner, bad)
            if longest >= self.max_in_a_row:
                self._too_many(runner, longest)

    def _report(self, runner: Runner, bad: Sequence[_Batch]) -> None:
        rank, _ = world()
        own = [{'step': b.step, 'rank': rank, 'losses': _figures(b.losses), 'clip_ids': b.clip_ids} for b in bad]
        lines = [line for lines in gather_objects(own) for line in lines]
        _append(runner, NON_FINITE_FILE, sorted(lines, key=lambda line: (line['step'], line['rank'])))
        runner.logger.warning(
            f'loss or gradient not finite in {_some([str(b.step) for b in bad], "step")}: skipped, nothing was changed '
            f'({self.total} skipped so far, {self.in_a_row} in a row); the clips are in {NON_FINITE_FILE}'
        )

    def _too_many(self, runner: Runner, longest: int) -> None:
        said = (
            f'{longest} steps in a row had a loss or gradient that is not finite (the clips are in '
            f'{Path(runner.work_dir, NON_FINITE_FILE)})'
        )
        advice = (
            'lower optim_wrapper.optimizer.lr or clip_grad.max_norm, or look at those clips, and go on with --resume '
            'from the last checkpoint.'
        )
        if self.on_too_many == 'stop':
            raise UserError(f'{said}; {advice}')
        if self.reloads >= self.max_reloads:
            raise UserError(f'{said}, and going back to a checkpoint {self.reloads} times did not help; {advice}')
        rank, _ = world()
        found = newest_checkpoint(Path(runner.work_dir), runner.logger.warning) if rank == 0 else None
        file = gather_objects(found)[0]
        if file is None:
            raise UserError(f'{said}, and there is no checkpoint yet to go back to; {advice}')
        go_back(runner, file)
        self.reloads, self.in_a_row = self.reloads + 1, 0
        runner.logger.warning(f'{said}; went back to the weights of {file} and goes on with other clips.')


def go_back(runner: Any, file: Path) -> None:
    """Take weights, moments and moving average of a checkpoint; learning rates, steps and data stay where they are."""
    wrapper = runner.optim_wrapper
    like = like_parts(runner.model, wrapper) if is_sharded(runner.model) else lambda _: None
    if file.is_dir():
        wanted = ('meta', 'state_dict', 'ema_state_dict', 'optimizer')
        checkpoint = read_sharded(file, like, lambda part: part in wanted)
    else:
        checkpoint = compat.load_checkpoint_file(str(file), get_device())
    checkpoint = spread(checkpoint, like)
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and 'ema_state_dict' in checkpoint:
            # A checkpoint holds the average as the weights, and the weights in the average's place.
            hook._swap_ema_state_dict(checkpoint)
            hook.ema_model.load_state_dict(checkpoint['ema_state_dict'])
    runner.bare_model.load_state_dict(checkpoint['state_dict'])
    each = wrappers_of(wrapper)
    groups = [group for one in each for group in one.optimizer.param_groups]
    # MMEngine's schedules go on from what the groups hold.
    kept = [{name: value for name, value in group.items() if name != 'params'} for group in groups]
    wrapper.load_state_dict(checkpoint['optimizer'])
    groups = [group for one in each for group in one.optimizer.param_groups]
    for group, settings in zip(groups, kept, strict=True):
        group.update(settings)


def spike_height(value: float, before: Sequence[float]) -> float:
    """How many deviations a loss lies above the median of those before; the deviation is 1.4826 times the median one.

    inf above losses that are all the same. Hampel 1974, the median absolute deviation.
    """
    middle = median(before)
    deviation = 1.4826 * median(abs(x - middle) for x in before)
    if value <= middle:
        return 0.0
    return (value - middle) / deviation if deviation else math.inf


@HOOKS.register_module()
class LossSpikeHook(Hook):
    """Notes losses that jump far above those before: a line in the log, and one with the clip ids in spikes.jsonl.

    deviations: so many robust deviations above the running median are a spike; window: losses that the median is of;
    least: so many must be there. Of the first process, whose losses the log shows.
    """

    def __init__(self, deviations: float = 10.0, window: int = 200, least: int = 50, loss: str = 'loss') -> None:
        if not 2 <= least <= window:
            raise UserError(f'LossSpikeHook: least={least} must be from 2 to window={window}.')
        self.deviations, self.window, self.least, self.loss = deviations, window, least, loss
        self._before: list[float] = []
        self._batches: list[_Batch] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Look at the losses where they have been read for the log."""
        if world()[0] != 0:
            return
        self._batches.append(_Batch(runner.iter + 1, _clip_ids(data_batch), {}))
        if not _log_is_written(self, runner, batch_idx):
            return
        history = runner.message_hub.log_scalars.get(f'train/{self.loss}')
        values = [] if history is None else history.data[0][-len(self._batches) :].tolist()
        # A loss that is not there in every step cannot be told which steps it is of.
        if len(values) == len(self._batches):
            spikes = [spike for spike in map(self._spike, values, self._batches) if spike]
            if spikes:
                self._report(runner, spikes)
        self._batches = []

    def _spike(self, value: float, batch: _Batch) -> dict[str, Any] | None:
        """What to tell of a step, None for nothing; its loss is one of those before from now on."""
        # NonFiniteHook tells of those.
        if not math.isfinite(value):
            return None
        height = spike_height(value, self._before) if len(self._before) >= self.least else 0.0
        middle = median(self._before) if self._before else value
        self._before = [*self._before, value][-self.window :]
        if height <= self.deviations:
            return None
        figures = {'step': batch.step, 'loss': value, 'median': middle, 'deviations': height}
        return _figures(figures) | {'clip_ids': batch.clip_ids}

    def _report(self, runner: Runner, spikes: Sequence[dict[str, Any]]) -> None:
        highest = max(spikes, key=lambda spike: spike['loss'])
        steps = _some([str(spike['step']) for spike in spikes], 'step')
        runner.logger.warning(
            f'the loss jumped in {steps}: up to {highest["loss"]:.4g} where the median is {highest["median"]:.4g}; the '
            f'clips are in {SPIKES_FILE}'
        )
        _append(runner, SPIKES_FILE, spikes)


def _wrappers(runner: Runner) -> list[StepOptimWrapper]:
    return [one for one in wrappers_of(runner.optim_wrapper) if isinstance(one, StepOptimWrapper)]


def _log_is_written(hook: Hook, runner: Runner, batch_idx: int) -> bool:
    """Where LossesHook reads, which comes first."""
    interval = next((other.interval for other in runner.hooks if isinstance(other, LoggerHook)), 1)
    return hook.every_n_inner_iters(batch_idx, interval) or hook.end_of_epoch(runner.train_dataloader, batch_idx)


def _clip_ids(data_batch: Any) -> list[str]:
    return list(data_batch.get('clip_id', ())) if isinstance(data_batch, Mapping) else []


def _figures(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can hold them, which has no word for what is not finite: 'nan', 'inf'."""
    floats = {name: value for name, value in values.items() if not isinstance(value, Tensor) or value.numel() == 1}
    return {
        name: value if isinstance(value, int) or math.isfinite(value) else str(value)
        for name, value in ((name, x.item() if isinstance(x, Tensor) else x) for name, x in floats.items())
    }


def _some(words: Sequence[str], kind: str) -> str:
    """'step 3', 'steps 3, 4, 5 and 17 more'."""
    words = list(dict.fromkeys(words))
    more = f' and {len(words) - 5} more' if len(words) > 5 else ''
    return f'{kind}{"s" if len(words) > 1 else ""} {", ".join(words[:5])}{more}'


def _append(runner: Runner, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines to a file in the work directory, from the first process; a disk that takes none is said, and no more."""
    if world()[0] != 0:
        return
    try:
        with Path(runner.work_dir, name).open('a') as file:
            file.writelines(json.dumps(line) + '\n' for line in lines)
    except OSError as error:
        runner.logger.warning(f'{Path(runner.work_dir, name)} could not be written ({error.strerror or error})')
