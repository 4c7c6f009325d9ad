"""A disk whose power goes: what was not flushed is lost, in part or whole, and names go back to what they were."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

CUT = 9
"""Exit code of a process whose power went."""


class FragileDisk:
    """Counts what this process does to the files of a folder, and cuts the power at one of these moments.

    What POSIX promises and no more: bytes are safe after fsync of their file, names (new, replaced, removed) after fsync of
    their folder. folder: the checkpoints. spare: an empty folder on the same disk, for what the names stood for.
    moment: so many flushes, renames and removals are done before the power goes. For processes that end by it: it puts
    itself in the place of os.fsync, Path.replace and os.remove.
    """

    def __init__(self, folder: Path, spare: Path, moment: int, draw: random.Random) -> None:
        self.folder, self.spare, self.left, self.draw = folder, spare, moment, draw
        # Inode -> size and time of the last change when its bytes were flushed.
        self.flushed = {file.stat().st_ino: _state(file) for file in self._files()}
        self.names: dict[str, int] = {}
        self._keep_names()
        # What the names stand for until then.
        fsync, replace, remove = os.fsync, Path.replace, os.remove
        patched: Any = Path
        patched.replace = lambda path, target: self._counted(replace, path, target)
        os.remove = lambda path, **_: self._counted(remove, path)
        os.fsync = lambda descriptor: self._counted(self._flush, fsync, descriptor)

    def _files(self) -> list[Path]:
        return [file for file in self.folder.iterdir() if file.suffix in ('.pth', '.part')]

    def _counted(self, act: Callable[..., Any], *given: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            self.cut()
        return act(*given)

    def _flush(self, fsync: Callable[[int], None], descriptor: int) -> None:
        fsync(descriptor)
        place = Path(os.readlink(f'/proc/self/fd/{descriptor}'))
        if place == self.folder:
            self._keep_names()
        else:
            self.flushed[os.fstat(descriptor).st_ino] = _state(place)

    def _keep_names(self) -> None:
        """From now on these names are on the disk, and stand for these files."""
        self.names = {file.name: file.stat().st_ino for file in self._files()}
        for name, number in self.names.items():
            if not (self.spare / str(number)).exists():
                os.link(self.folder / name, self.spare / str(number))

    def cut(self) -> None:
        """The power goes."""
        now = {file.name: file.stat().st_ino for file in self._files()}
        for file in self._files():
            size = file.stat().st_size
            if self.flushed.get(now[file.name]) != _state(file):
                os.truncate(file, self.draw.randint(0, size))
                # Some file systems keep the length, and have zeros where nothing was written.
                os.truncate(file, self.draw.choice((size, file.stat().st_size)))
        for name in sorted({*now, *self.names}):
            if now.get(name) != self.names.get(name) and self.draw.random() < 0.5:
                (self.folder / name).unlink(missing_ok=True)
                if name in self.names:
                    os.link(self.spare / str(self.names[name]), self.folder / name)
        os._exit(CUT)


def _state(file: Path) -> tuple[int, int]:
    return file.stat().st_size, file.stat().st_mtime_ns
