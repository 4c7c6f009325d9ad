"""The runner: MMEngine's, with strict loading, schedules that know how long training is, and errors in plain words."""

import argparse
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.config import Config
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from gmscavp import compat
from gmscavp.distributed import gather_objects, world
from gmscavp.engine import accumulation, speed
from gmscavp.engine.checkpoints import part_name, put_in_place
from gmscavp.engine.launching import start_processes
from gmscavp.engine.loop import ExactTrainLoop
from gmscavp.engine.optim import wrappers_of
from gmscavp.engine.sharded_checkpoints import read_sharded, spread, write_sharded
from gmscavp.engine.sharding import (
    checkpoint_of,
    folder_name,
    is_sharded,
    like_parts,
    prepare_config,
    shard_model,
    sharding_of,
)
from gmscavp.engine.watching import watched
from gmscavp.errors import UserError
from gmscavp.seals import seal

LAUNCHERS = ('none', 'pytorch', 'slurm')
# Weights, their moving average and two moments of AdamW.
_COPIES_IN_CHECKPOINT = 4


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Give a tool the arguments with which several processes are started."""
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='who started the processes')
    # Older launchers pass it; the environment says the same.
    parser.add_argument('--local-rank', type=int, default=0, help=argparse.SUPPRESS)


class PretrainRunner(Runner):
    """Runs a config's training and evaluation."""

    model: Any
    # Of the loop, in the checkpoint that was loaded last.
    _progress: Mapping[str, Any] | None = None
    # When runs of this process began, to the second.
    _begun: ClassVar[Counter[str]] = Counter()

    def setup_env(self, env_cfg: dict) -> None:
        """Prepare this process, and name the run by the time: of a second that had one before, with a number."""
        super().setup_env(env_cfg)
        # MMEngine finds counters, best score and log of a run by this name; two runs would share them.
        self._begun[self._timestamp] += 1
        if self._begun[self._timestamp] > 1:
            self._timestamp += f'_{self._begun[self._timestamp]}'

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = True,
        revise_keys: list = [(r'^module.', '')],  # noqa: B006  (MMEngine's signature)
    ) -> dict:
        """Load weights, all of them or none: a checkpoint of another model is refused with the keys that differ.

        strict and revise_keys are MMEngine's: loading is always strict, and 'module.' is always taken off.
        """
        like = like_parts(self.model, self.optim_wrapper) if is_sharded(self.model) else lambda _: None
        if Path(filename).is_dir():
            checkpoint = read_sharded(Path(filename), like, lambda part: self._resume or part in ('meta', 'state_dict'))
        else:
            checkpoint = spread(compat.load_checkpoint_file(filename, map_location), like)
        if self._resume and 'message_hub' not in checkpoint:
            raise UserError(f'{filename} holds weights alone and no run to resume; start from it with load_from.')
        # MMEngine compares it with ours by running it, and a checkpoint is not to run anything.
        checkpoint.get('meta', {}).pop('config', None)
        self._progress = checkpoint.get('meta', {}).pop('progress', None)
        # Files of bare weights have no such entry, which MMEngine's hooks look for.
        checkpoint['state_dict'] = spread(whole_weights(filename, checkpoint, self.bare_model), like, 'state_dict')
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        self.bare_model.load_state_dict(checkpoint['state_dict'])
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = 'default',
    ) -> None:
        """Go on from a checkpoint, at the batch of the epoch where it was saved. Arguments are MMEngine's."""
        super().resume(filename, resume_optimizer, resume_param_scheduler, map_location)
        if isinstance(self.train_loop, ExactTrainLoop):
            self.train_loop.take_up(self._progress)

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Save what MMEngine saves, under its name only when it is whole. UserError: the disk does not take it.

        Whatever stops this, what stood under the name before stays. A sharded model is saved as a folder.
        """
        part, file = Path(out_dir, part_name(filename)), Path(out_dir, filename)
        if save_optimizer and isinstance(self._train_loop, ExactTrainLoop):
            meta = {**(meta or {}), 'progress': self._train_loop.progress()}
        meta = {**(meta or {}), **compat.format_entries()}
        try:
            if is_sharded(self.model):
                file = file.with_name(folder_name(filename))
                write_sharded(file, checkpoint_of(self, save_optimizer, save_param_scheduler, meta, by_epoch))
                return
            super().save_checkpoint(
                out_dir, part.name, file_client_args, save_optimizer, save_param_scheduler, meta, by_epoch, backend_args
            )
            if world()[0] == 0:
                seal(part)
                put_in_place(part, file)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(
                f'{file} could not be saved ({error.strerror or error}); earlier checkpoints are whole. Free some disk '
                'space and go on with --resume.'
            ) from error

    @property
    def bare_model(self) -> nn.Module:
        """The model without the wrapper that distributes it."""
        model: Any = self.model
        return getattr(model, 'module', model)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Let a schedule without an end of its own last to the end of training."""
        steps = [scheduler] if isinstance(scheduler, dict) else scheduler
        for step in steps if isinstance(steps, list) else []:
            if isinstance(step, dict) and step.get('by_epoch', True) and 'end' not in step:
                step['end'] = self.max_epochs
            if isinstance(step, dict):
                step.update(
                    accumulation.in_updates(step, self.optim_wrapper, len(self.train_dataloader), self.max_iters)
                )
        return super().build_param_scheduler(scheduler)

    def build_model(self, model: Any) -> nn.Module:
        """Build the model, laid out in memory as `speed` says."""
        built = super().build_model(model)
        speed.prepare(built, speed.speed_of_run(self.cfg))
        return built

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimiser. Raises UserError for a fused one on the wrong device, and for accumulation not exact."""
        built = super().build_optim_wrapper(optim_wrapper)
        for wrapper in wrappers_of(built):
            speed.check_fused(wrapper.optimizer)
        accumulation.prepare(built, self.bare_model, self.train_loop, self.hooks)
        return built

    def _maybe_compile(self, target: str) -> None:
        # MMEngine would compile the whole step, optimiser and all, in many graphs. Weights and moments are loaded by now.
        for wrapper in wrappers_of(self.optim_wrapper):
            speed.match_layouts(wrapper.optimizer)
        settings = speed.speed_of_run(self.cfg)
        if settings.compile:
            names = speed.compile_parts(self.bare_model, settings.compile, settings.checkpointing)
            self.logger.info(f'compiled in the first steps, which take longer: {", ".join(names)}')

    @staticmethod
    def build_dataloader(dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False) -> Any:
        """Build a loader, a WatchedLoader where it has worker processes.

        Without worker processes there are none to keep, without a GPU none to pin batches for.
        """
        if isinstance(dataloader, dict):
            pinned = dataloader.get('pin_memory', True) and torch.cuda.is_available()
            dataloader = {**dataloader, 'pin_memory': pinned}
        if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
            dataloader = {**dataloader, 'persistent_workers': False}
        return watched(Runner.build_dataloader(dataloader, seed, diff_rank_seed))

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """Build the loop, ExactTrainLoop by default. Raises UserError when there are too few clips for one step."""
        if isinstance(loop, dict) and loop.get('by_epoch'):
            loop = {'type': ExactTrainLoop, **{name: value for name, value in loop.items() if name != 'by_epoch'}}
        built = super().build_train_loop(loop)
        if not len(built.dataloader):
            clips, batch = len(built.dataloader.dataset), built.dataloader.batch_size
            raise UserError(f'{clips} training clips do not fill one batch of {batch} per process; lower batch_size.')
        return built

    def train(self) -> nn.Module:
        """Check that the checkpoints will fit on the disk, start the parts that `init` names from files, then train."""
        self._check_disk()
        self._demand_one_checkpoint()
        # A run that is resumed has all its weights in its checkpoint.
        if not self._resume:
            self._start_parts(self.cfg.get('init') or {})
        self._shard()
        return super().train()

    def test(self) -> dict:
        """Evaluate."""
        self._shard()
        return super().test()

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Put the model on its device and under DistributedDataParallel; one to be sharded stays as it is until it runs."""
        return model if sharding_of(self.cfg) else super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        # Sharding has given all ranks the same weights; MMEngine would send parts about as if they were whole.
        if not is_sharded(self.model):
            super()._init_model_weights()

    def _shard(self) -> None:
        settings = sharding_of(self.cfg)
        if settings is None or is_sharded(self.model):
            return
        kind = self.cfg.get('optim_wrapper', {}).get('type')
        self.model = shard_model(self.model, settings, 'AutocastOptimWrapper' in str(kind))
        self.logger.info(f'weights are split over {settings.group or world()[1]} of {world()[1]} ranks')

    def _demand_one_checkpoint(self) -> None:
        """Raise UserError where ranks would go on from different checkpoints, or some from none."""
        found = gather_objects(Path(self._load_from).name if self._resume and self._load_from else 'none')
        if len({*found}) > 1:
            raise UserError(
                f'the ranks go on from different checkpoints ({", ".join(sorted({*found}))}); put --work-dir on a disk '
                'that all machines share.'
            )

    def _start_parts(self, files: Mapping[str, str]) -> None:
        for part, file in files.items():
            module = dict(self.bare_model.named_children()).get(part)
            if module is None:
                parts = ', '.join(name for name, _ in self.bare_model.named_children())
                raise UserError(f"init names '{part}', which the model has not; its parts are {parts}.")
            absent = compat.load_weights(module, file, part)
            kept = f', which leaves {len(absent)} weights at random (for example {absent[0]})' if absent else ''
            self.logger.info(f'{part} starts from {file}{kept}')

    def _check_disk(self) -> None:
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        keep = next((hook.max_keep_ckpts for hook in self.hooks if hasattr(hook, 'max_keep_ckpts')), 1)
        # One for the best and one that is being written beside those that are kept.
        needed = weights * _COPIES_IN_CHECKPOINT * (max(keep, 1) + 2)
        free = shutil.disk_usage(self.work_dir).free
        if free < needed:
            raise UserError(
                f'{self.work_dir} has {free / 1e6:.0f} MB of free disk space, the checkpoints need {needed / 1e6:.0f} MB; '
                'free some, keep fewer (default_hooks.checkpoint.max_keep_ckpts), or give another --work-dir.'
            )


def build_runner(config: Config, launcher: str = 'none') -> PretrainRunner:
    """Build all parts of a run. Raises UserError for settings that do not fit together."""
    config.launcher = launcher
    prepare_config(config)
    start_processes(config)
    try:
        return PretrainRunner.from_cfg(config)
    except TypeError as error:
        # A constructor that misses an argument, or got one it does not know: the message names class and argument.
        if 'argument' not in str(error):
            raise
        raise UserError(f'the config does not fit: {error}') from error


def whole_weights(filename: str | Path, checkpoint: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """All weights of the model, from what `compat.load_checkpoint_file` gave for a file.

    A file of weights alone may lack the filters of the mel, which follow from the config. Raises UserError where file and
    model differ otherwise in names or shapes, naming some of them.
    """
    own = model.state_dict()
    computed = {name: own[name] for name in own if name.startswith('data_preprocessor.')}
    weights = computed | compat.weights_of(checkpoint)
    said = compat.differences(own, weights)
    if said:
        raise UserError(
            f'checkpoint {Path(filename)} is of another model than the config: of {len(own)} weights {said}. '
            'Give the config that the checkpoint was trained with.'
        )
    return weights
