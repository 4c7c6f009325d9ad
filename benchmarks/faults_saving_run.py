"""The run that faults_saving.py kills: a small model, saved after every step, and what its checkpoints have to hold."""

import hashlib
import os
import random
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from faults_disk import FragileDisk
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper

from gmscavp.compat import load_checkpoint_file
from gmscavp.engine.checkpoints import SafeCheckpointHook, newest_checkpoint
from gmscavp.engine.runner import PretrainRunner
from gmscavp.errors import UserError

EPOCHS, BATCHES = 8, 5
STEPS = EPOCHS * BATCHES
KEPT = 3
SAVES, SAVED = 'S', 'D'
"""What a run reports: a kind, a step and a blank, when it begins to save and when it has saved."""
NO_ROOM, UNEXPECTED = 3, 70
"""Exit codes: the disk was full and it said so; anything else went wrong."""


class Fault(NamedTuple):
    """What a run brings upon itself. moment: of a FragileDisk. room: bytes that a file may have, from the first save on."""

    moment: int | None = None
    room: int | None = None


class Drawing(BaseModel):
    """Draws random numbers at every step, so that a run not resumed exactly is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Dropout(0.3), torch.nn.Linear(256, 64))
        self.register_buffer('seen', torch.zeros(()))

    def forward(self, x: torch.Tensor, mode: str = 'loss') -> Any:
        """(B, 64) -> the loss, or how many steps it has learned."""
        if mode == 'predict':
            return [self.seen.item()]
        self.seen += 1
        return {'loss': (self.layers(x) - x).square().mean()}


class StepsLearned(BaseMetric):
    """Better after every epoch, so that the best checkpoint is replaced each time."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep them."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """Of the last clip."""
        return {'steps': results[-1]}


class _Reporting(PretrainRunner):
    """Tells when it saves."""

    def __init__(self, report: Callable[[str], None], **settings: Any) -> None:
        self.report = report
        super().__init__(**settings)

    def _log_env(self, env_cfg: Any) -> None:
        # Asking compilers for their versions takes longer than the run.
        pass

    def save_checkpoint(self, out_dir: str, filename: str, *given: Any, **more: Any) -> None:
        """As it does, and says so."""
        step = Path(filename).stem.rpartition('_')[2]
        self.report(f'{SAVES}{step} ')
        super().save_checkpoint(out_dir, filename, *given, **more)
        # The best is saved beside that of its step, and its meta data say less.
        if not filename.startswith('best_'):
            self.report(f'{SAVED}{step} ')


def _loader(clips: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    return dict(
        dataset=[dict(x=torch.randn(64, generator=draw)) for _ in range(clips)],
        batch_size=4,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )


def _runner(folder: Path, report: Callable[[str], None], kept: int) -> PretrainRunner:
    newest = newest_checkpoint(folder)
    return _Reporting(
        report,
        # Built by the runner, after it has set the seed.
        model=dict(type=Drawing),
        work_dir=str(folder),
        train_dataloader=_loader(4 * BATCHES),
        optim_wrapper=dict(type=OptimWrapper, optimizer=dict(type=torch.optim.AdamW, lr=1e-3)),
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
        val_dataloader=_loader(4),
        val_evaluator=Evaluator(StepsLearned()),
        val_cfg=dict(),
        default_hooks=dict(
            checkpoint=dict(
                type=SafeCheckpointHook,
                by_epoch=False,
                interval=1,
                max_keep_ckpts=kept,
                save_best='steps',
                rule='greater',
            ),
            logger=None,
        ),
        visualizer=dict(type='Visualizer', vis_backends=[]),
        randomness=dict(seed=0),
        log_level='ERROR',
        default_scope='gmscavp',
        resume=newest is not None,
        load_from=None if newest is None else str(newest),
    )


def _lay_out(folder: Path, fault: Fault, draw: random.Random) -> Callable[[], None]:
    """What is to be done when the first save begins."""

    def begin() -> None:
        if fault.moment is not None:
            spare = folder.with_name('spare')
            spare.mkdir(exist_ok=True)
            FragileDisk(folder, spare, fault.moment, draw)
        if fault.room is not None:
            # Writing beyond it fails as on a full disk; the run's log is shorter.
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.room, resource.RLIM_INFINITY))

    return begin


def live(folder: Path, pipe: int, fault: Fault, seed: int) -> int:
    """Train to the end or to a fault -> exit code; in a process of its own, its words in log.txt beside the folder."""
    log = os.open(folder.with_name('log.txt'), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    begin: Iterator[Callable[[], None]] = iter([_lay_out(folder, fault, random.Random(seed))])

    def report(said: str) -> None:
        for act in begin:
            act()
        os.write(pipe, said.encode())

    # Another process begins with other random numbers.
    torch.manual_seed(seed)
    try:
        _runner(folder, report, KEPT).train()
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return NO_ROOM if 'could not be saved' in str(error) and 'Free some disk' in str(error) else UNEXPECTED
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return UNEXPECTED
    return 0


class Held(NamedTuple):
    """What a checkpoint holds, as hashes. run: moments, counters and random numbers; '' where there are none."""

    step: int
    weights: str
    run: str


def held(file: Path) -> Held:
    """Read a checkpoint. UserError: it is damaged."""
    saved = load_checkpoint_file(file)
    meta = saved['meta']
    run = ''
    if 'optimizer' in saved:
        # The end of an epoch and the beginning of the next are one step: it is saved again after the validation.
        progress = {name: meta['progress'][name] for name in ('batch_size', 'seed', 'sampler_seed', 'random')}
        run = _hash([saved['optimizer'], progress, meta['epoch'] * BATCHES + meta['progress']['batch'], meta['iter']])
    return Held(meta['iter'], _hash(saved['state_dict']), run)


def _hash(value: Any) -> str:
    total = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            total.update(part.contiguous().numpy().tobytes())
        elif isinstance(part, dict):
            for name in sorted(part, key=str):
                total.update(str(name).encode())
                add(part[name])
        elif isinstance(part, list | tuple):
            for inner in part:
                add(inner)
        else:
            total.update(repr(part).encode())

    add(value)
    return total.hexdigest()


def never_stopped(folder: Path) -> dict[int, Held]:
    """Step -> what a run that nothing happens to holds after it.

    It runs in this process, so that those forked from it later have imported everything.
    """
    folder.mkdir()
    _runner(folder, lambda _: None, kept=-1).train()
    found = [held(file) for file in folder.glob('iter_*.pth')]
    return {one.step: one for one in found}
