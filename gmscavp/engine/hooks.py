"""Hooks: the count of bad clips, the model for metrics that ask it, and terms that fade."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from gmscavp.distributed import gather_objects, world
from gmscavp.engine.watching import QUARANTINE_FILE, WatchedLoader, innermost, read_quarantine
from gmscavp.errors import UserError
from gmscavp.registry import HOOKS

BAD_CLIPS_FILE = 'bad_clips.json'


def bare_model(runner: Runner) -> Any:
    """The model without the wrapper that distributes it."""
    return getattr(runner.model, 'module', runner.model)


@HOOKS.register_module()
class BadClipHook(Hook):
    """Counts the clips that could not be read, by cause, and stops a run in which there are too many.

    max_share: share of bad ones among the clips read in training, above which the run stops, once `min_clips` have been
    read. Every epoch the causes with their files go to the log and to bad_clips.json in the work directory. patience_s:
    how long a whole data folder that was there may be gone, in seconds, before reading gives up.

    Where worker processes read: limit_s: how long one may be at a clip, in seconds, before it is ended and replaced (0: for
    ever). max_lost: how often workers may be replaced in training, and how often in evaluation, before the run stops.
    Clips that ended one are named in quarantine.jsonl in the work directory and not tried again.
    """

    def __init__(
        self,
        max_share: float = 0.2,
        min_clips: int = 100,
        patience_s: float = 120.0,
        limit_s: float = 120.0,
        max_lost: int = 10,
    ) -> None:
        if limit_s < 0 or max_lost < 0:
            raise UserError('BadClipHook: limit_s and max_lost must be 0 or more.')
        self.max_share, self.min_clips, self.patience_s = max_share, min_clips, patience_s
        self.limit_s, self.max_lost = limit_s, max_lost
        self.causes: dict[str, set[str]] = defaultdict(set)
        self._read = self._failed = 0

    def before_train(self, runner: Runner) -> None:
        """Tell the data set how patient to be, before there are processes that read it."""
        self._set_limits(runner, runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Tell that of validation."""
        self._set_limits(runner, runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Tell that of the test."""
        self._set_limits(runner, runner.test_dataloader)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Count a training batch and stop if the share of bad clips is too high."""
        failed = self._count(data_batch['failures'])
        self._read += len(data_batch['failures']) + failed
        self._failed += failed
        if self._read >= self.min_clips and self._failed > self.max_share * self._read:
            self._report(runner)
            worst = max(self.causes, key=lambda cause: len(self.causes[cause]))
            raise UserError(
                f'{self._failed} of {self._read} clips could not be read (most often: {worst}, for example '
                f'{min(self.causes[worst])}), more than the allowed share of {self.max_share:g}; mend the data, or allow '
                "more by the hook's max_share."
            )

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Count a batch of evaluation; the metric says how many clips it left out."""
        self._count(data_batch['failures'])

    after_test_iter = after_val_iter

    def after_train_epoch(self, runner: Runner) -> None:
        """Log the causes."""
        self._report(runner)

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Log the causes."""
        self._report(runner)

    after_test_epoch = after_val_epoch

    def _set_limits(self, runner: Runner, loader: Any) -> None:
        file, dataset = Path(runner.work_dir, QUARANTINE_FILE), innermost(loader.dataset)
        if hasattr(dataset, 'quarantine'):
            dataset.patience_s, dataset.limit_s = self.patience_s, self.limit_s
            dataset.quarantine.update(read_quarantine(file))
        if isinstance(loader, WatchedLoader):
            loader.most_lost, loader.quarantine_file = self.max_lost, file

    def _count(self, failures: Sequence[str]) -> int:
        lines = [line for text in failures for line in text.splitlines()]
        for line in lines:
            cause, file = line.split('\t', 1)
            self.causes[cause].add(file)
        return len(lines)

    def _report(self, runner: Runner) -> None:
        merged: dict[str, set[str]] = defaultdict(set)
        for causes in gather_objects(dict(self.causes)):
            for cause, files in causes.items():
                merged[cause] |= files
        if world()[0] != 0:
            return
        total = sum(len(files) for files in merged.values())
        if total:
            parts = ', '.join(f'{cause}: {len(files)}' for cause, files in sorted(merged.items()))
            runner.logger.warning(f'{total} bad clips so far ({parts}); listed in {BAD_CLIPS_FILE}')
        listing = {cause: sorted(files) for cause, files in sorted(merged.items())}
        Path(runner.work_dir, BAD_CLIPS_FILE).write_text(json.dumps(listing, indent=1) + '\n')


@HOOKS.register_module()
class LendModelHook(Hook):
    """Gives the model to every metric that has an attribute `model`: some similarities are the model's own."""

    def before_val(self, runner: Runner) -> None:
        """Lend it for a validation."""
        self._lend(runner, runner.val_evaluator.metrics)

    def before_test(self, runner: Runner) -> None:
        """Lend it for a test."""
        self._lend(runner, runner.test_evaluator.metrics)

    def _lend(self, runner: Runner, metrics: Sequence[Any]) -> None:
        for metric in metrics:
            if hasattr(metric, 'model'):
                metric.model = bare_model(runner)


@HOOKS.register_module()
class FadeHook(Hook):
    """Lets a term of the objective fade: its part's `loss_weight` falls evenly to nothing at `until` of the training.

    part: a part of the model with a `loss_weight`. until: share of all steps, from 0 to 1. The weight follows from the
    step alone, so that a resumed run has the same.
    """

    def __init__(self, part: str = 'diffusion', until: float = 0.5) -> None:
        if not 0 < until <= 1:
            raise UserError(f'FadeHook: until is a share of the training, above 0 and up to 1, not {until:g}.')
        self.part, self.until = part, until
        self._full: float | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the weight of this step."""
        part: Any = getattr(bare_model(runner), self.part, None)
        if not hasattr(part, 'loss_weight'):
            raise UserError(f"FadeHook: the model has no '{self.part}' with a loss_weight to let fade.")
        if self._full is None:
            self._full = part.loss_weight
        part.loss_weight = self._full * max(0.0, 1 - runner.iter / (self.until * runner.max_iters))
