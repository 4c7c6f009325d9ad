"""Training by epochs that may be stopped at any step: resumed, it goes on bit by bit as if it had never been.

A checkpoint holds, beside what MMEngine keeps, how far its epoch has come and where the random numbers of every rank stand.
The batches that are done are left out by the sampler and not read again. What is random about a clip follows from seed,
epoch and clip alone (structures.Draw), so that neither data workers nor what they had fetched ahead have any state to keep;
beginning an epoch and validating leave the random numbers of training where they were.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.utils.data import BatchSampler, Sampler

from gmscavp.distributed import HighestOfRanks, gather_objects, world
from gmscavp.engine.accumulation import has_updated
from gmscavp.engine.checkpoints import SafeCheckpointHook
from gmscavp.engine.random_states import apart, random_states, set_random_states
from gmscavp.engine.stopping import Signals, Stopped, name_of
from gmscavp.errors import UserError
from gmscavp.structures import Draw


class Draws(Sampler[Any]):
    """A sampler's indices as Draws.

    seed: (seed of the run, epoch). first: how many of the next epoch, and no later one, are left out, unread.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.seed, self.first = sampler, (0, 0), 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        first, self.first = self.first, 0
        seed = self.seed
        if hasattr(self.sampler, 'skip'):
            self.sampler.skip(first)
            first = 0
        # Some samplers draw their order from torch's generator when the first index is asked for.
        with apart(*seed):
            indices = islice(iter(self.sampler), first, None)
            begun = list(islice(indices, 1))
        for part in (begun, indices):
            yield from (Draw(index, seed) if isinstance(index, int) else index for index in part)


@LOOPS.register_module()
class ExactTrainLoop(EpochBasedTrainLoop):
    """MMEngine's EpochBasedTrainLoop that resumes within an epoch, and that SIGTERM and Ctrl-C stop in order (Stopped).

    Settings are MMEngine's. On a signal the step is finished, and the accumulation it belongs to; all ranks stop after the
    same step.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval, dynamic_intervals)
        self._batch = 0
        self._signals, self._highest, self._stopping = Signals(), HighestOfRanks(), 0
        # Of training, while something else draws: a validation, or hooks before the first step of a resumed run.
        self._held: dict[str, Any] | None = None
        self._owes_validation = False
        self._draws: Draws | None = None
        # Ranks may be seeded differently, but a clip does not know its rank.
        self._seed: int = gather_objects(runner.seed)[0]
        batches = self.dataloader.batch_sampler
        # Only torch's own is known to take clips as they come.
        if type(batches) is BatchSampler:
            batches.sampler = self._draws = Draws(batches.sampler)
        runner.register_hook(_StopInValidation())

    def progress(self) -> dict[str, Any]:
        """What a checkpoint keeps of the loop; every rank calls this."""
        return {
            'batch': self._batch,
            'batch_size': self.dataloader.batch_size,
            'seed': self._seed,
            'sampler_seed': getattr(self.dataloader.sampler, 'seed', None),
            'owes_validation': self._owes_validation,
            'random': gather_objects(self._held or random_states()),
        }

    def take_up(self, progress: Mapping[str, Any] | None) -> None:
        """Go on where `progress` was taken, or, with None, with the epoch that the checkpoint names.

        UserError: batches are made by a sampler that cannot leave any out.
        """
        if progress is None:
            print_log('the checkpoint has no random numbers: this run goes on with others', logger='current')
            return
        rank, ranks = world()
        self._batch, self._seed = progress['batch'], progress['seed']
        self._owes_validation = progress['owes_validation']
        if progress['sampler_seed'] is not None and hasattr(self.dataloader.sampler, 'seed'):
            self.dataloader.sampler.seed = progress['sampler_seed']
        were = len(progress['random'])
        if ranks == were:
            self._held = progress['random'][rank]
        # A batch sampler that is no torch's has no size of its batches.
        batch, before = self.dataloader.batch_size or 1, progress['batch_size'] or 1
        if self._batch and (ranks, batch) != (were, before):
            self._batch = min(self._batch * were * before // (ranks * batch), len(self.dataloader))
            print_log(
                f'saved by {were} ranks with batches of {before} and taken up by {ranks} with {batch}: the epoch goes on '
                f'after {self._batch * ranks * batch} clips, but not bit by bit',
                logger='current',
            )
        if self._batch and not self._draws:
            raise UserError(
                f'the run stopped within an epoch, and {type(self.dataloader.batch_sampler).__name__} cannot leave out '
                'the batches that are done; resume from a checkpoint of the end of an epoch.'
            )

    def run(self) -> nn.Module:
        """Train. Raises Stopped when a signal has ended it in order."""
        with self._signals.open():
            self.runner.call_hook('before_train')
            if self._owes_validation:
                self._validate()
                self._save()
            while self._epoch < self._max_epochs and not self.stop_training:
                self.run_epoch()
                self._decide_current_val_interval()
                if self._validation_is_due():
                    self._validate()
            self._highest.settle()
            self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train on what is left of an epoch."""
        first, held, self._held = self._batch, self._held, None
        # Of a run never stopped, these hooks come before the first batch of an epoch and not before a later one.
        if held and not first:
            set_random_states(held)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if self._draws:
            self._draws.seed = self._seed, self._epoch
            self._draws.first = min(first * self.dataloader.batch_size, len(self._draws))
        # Loaders draw a number for their workers when they begin, persistent ones once and others every epoch.
        with apart(self._seed, self._epoch):
            batches = iter(self.dataloader)
        if held and first:
            set_random_states(held)
        for idx, data_batch in enumerate(batches, first):
            self._batch = idx + 1
            self.run_iter(idx, data_batch)
            self._heed()
        self._batch = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def stop_in_validation(self) -> None:
        """End at once where one process alone was told to: several end after the second step that follows."""
        if self._owes_validation and self._signals.noted and world()[1] == 1:
            for hook in self.runner.hooks:
                if isinstance(hook, EMAHook):
                    # The model holds the average while it is validated.
                    hook.after_val_epoch(self.runner)
            self._end(self._signals.noted)

    def validation_is_done(self) -> None:
        """Checkpoints from now on do not ask for it again."""
        self._owes_validation = False

    def _validation_is_due(self) -> bool:
        last = self._epoch == self._max_epochs
        on_time = self._epoch >= self.val_begin and (last or self._epoch % self.val_interval == 0)
        return self.runner.val_loop is not None and on_time

    def _validate(self) -> None:
        self._held = self._held or random_states()
        self._owes_validation = True
        self.runner.val_loop.run()
        set_random_states(self._held)
        self._held = None

    def _heed(self) -> None:
        self._stopping = self._stopping or self._highest.of(self._signals.noted)
        # Gradients on their way are in no checkpoint.
        if self._stopping and has_updated(self.runner.optim_wrapper):
            self._highest.settle()
            self._end(self._stopping)

    def _end(self, number: int) -> None:
        file = self._save()
        # A launcher ends all ranks when the first has ended, and rank 0 may still be writing.
        gather_objects(None)
        # Closes the logs.
        self.runner.call_hook('after_run')
        said = f'{name_of(number)} ended training after step {self._iter}, which is saved in {file}'
        raise Stopped(number, said if world()[0] == 0 else '')

    def _save(self) -> Path:
        """Save the run where it stands; at the end of an epoch, over the checkpoint of that epoch."""
        runner = self.runner
        meta = dict(epoch=self._epoch, iter=self._iter)
        step = f'{self._epoch}_iter_{self._iter}' if self._batch else self._epoch
        hook = next((hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)), None)
        if hook is None:
            file = Path(runner.work_dir, f'epoch_{step}.pth')
            runner.save_checkpoint(str(file.parent), file.name, meta=meta)
            return file
        return hook.save_now(runner, step if hook.by_epoch else self._iter, meta)


class _StopInValidation(Hook):
    """Tells the loop how a validation goes: ahead of the checkpoint of the best, behind what changes weights."""

    priority = 'LOW'

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        runner.train_loop.stop_in_validation()

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        runner.train_loop.validation_is_done()
