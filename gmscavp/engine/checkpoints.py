"""Checkpoints that are whole or not there: written beside, made sure of, renamed; and the newest whole one found again.

seals.py tells a whole file from a damaged one; sharded_checkpoints.py has the same for checkpoints that are folders.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from gmscavp.distributed import world
from gmscavp.engine.sharded_checkpoints import (
    CONTENTS,
    SUFFIX,
    is_sharded_folder,
    is_whole_folder,
    remove_sharded,
    to_disk,
)
from gmscavp.registry import HOOKS
from gmscavp.seals import is_intact

# Written by CheckpointHook for the model that was best so far; its run goes on from another one.
_BEST = 'best_'


def part_name(name: str) -> str:
    """Under which a checkpoint is written before it is whole: hidden, and no *.pth."""
    return f'.{name}.part'


def put_in_place(part: Path, file: Path) -> None:
    """Let a file that is written take its name: afterwards the name stands for the whole file, come what may.

    Until then it stands for what it stood for before. OSError: the disk does not take it.
    """
    to_disk(part)
    part.replace(file)
    # The name is kept in the folder.
    to_disk(file.parent)


def is_whole(file: Path) -> bool:
    """Whether all bytes of a checkpoint are those that were written. It is read once, and nothing in it is run."""
    return is_whole_folder(file) if file.is_dir() else is_intact(file)


def newest_checkpoint(work_dir: Path, say: Callable[[str], None] | None = None) -> Path | None:
    """The newest checkpoint of a run that is whole, wherever its folder has been moved since; None when there is none.

    say: is told of every damaged one that is passed over.
    """
    files = [file for file in work_dir.glob('*.pth') if file.is_file()]
    files += [folder for folder in work_dir.glob(f'*{SUFFIX}') if is_sharded_folder(folder)]
    files = [file for file in files if not file.name.startswith(_BEST)]
    for file in sorted(files, key=lambda file: (_stands_for(file).stat().st_mtime_ns, file.name), reverse=True):
        if is_whole(file):
            return file
        if say:
            say(f'{file} is damaged and passed over')
    return None


def _stands_for(checkpoint: Path) -> Path:
    """The file that is put in place last, and anew with every save."""
    return checkpoint / CONTENTS if checkpoint.is_dir() else checkpoint


class _RemoveLater:
    """A file backend of MMEngine that keeps what is to be removed until `settle`."""

    def __init__(self, backend: Any) -> None:
        self._backend, self._waiting = backend, dict[str, int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        """Mark a file, as it is now."""
        self._waiting[str(path)] = _stands_for(Path(path)).stat().st_ino

    def rmtree(self, path: str) -> None:
        """Mark a folder, as it is now."""
        if is_sharded_folder(Path(path)):
            self.remove(path)

    def settle(self) -> None:
        """Remove what was marked and has not been replaced since."""
        for path, number in self._waiting.items():
            file = _stands_for(Path(path))
            if not file.exists() or file.stat().st_ino != number:
                continue
            if os.path.isdir(path):
                remove_sharded(Path(path))
            else:
                self._backend.remove(path)
        self._waiting.clear()


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's hook, but an old checkpoint is removed only when the new one is whole.

    With max_keep_ckpts=1, and of the best one always, MMEngine removes the old one first.
    """

    def before_train(self, runner: Runner) -> None:
        """Set up; what is in excess from before is removed, and what a save that was cut off has left."""
        super().before_train(runner)
        if world()[0] == 0:
            for part in Path(self.out_dir).glob(part_name('*.pth')):
                part.unlink()
        self.file_backend: Any = _RemoveLater(self.file_backend)

    def save_now(self, runner: Runner, step: int | str, meta: dict[str, Any]) -> Path:
        """Save between the usual times, counted among the `max_keep_ckpts` -> the checkpoint. step: what its name says."""
        self._save_checkpoint_with_step(runner, step, meta)
        return Path(str(self.last_ckpt))

    def _save_checkpoint_with_step(self, runner: Runner, step: int | str, meta: dict[str, Any]) -> None:
        super()._save_checkpoint_with_step(runner, step, meta)
        self.file_backend.settle()
