"""What has been done so far, line by line, so that a stopped run goes on where it was."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from gmscavp.errors import UserError

_FORMAT = 1


class Journal:
    """A file of JSON lines: a first one that says what it is of, then one for each clip that is done.

    An entry belongs to a key, the clip's window of a file of this size and time of change: a file that was replaced is
    done anew. A line cut off by a crash is left out. UserError: the file cannot be written, or is something else's.
    """

    def __init__(self, file: Path, purpose: Mapping[str, Any], fresh: bool = False) -> None:
        self.file = file
        self.done: dict[str, dict[str, Any]] = {}
        head = {'format': _FORMAT, **purpose}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if fresh:
                file.unlink(missing_ok=True)
            whole = self._read(head) if file.exists() else 0
            self._lines: TextIO = file.open('a', encoding='utf-8', newline='\n')
            self._lines.truncate(whole)
        except OSError as error:
            is_file = isinstance(error, FileExistsError | NotADirectoryError)
            reason = 'it is not a folder' if is_file else error.strerror or error
            raise UserError(f'{file.parent} cannot be written to: {reason}.') from error
        if not whole:
            self._append(head)

    def _read(self, head: Mapping[str, Any]) -> int:
        """Take in all whole lines; the number of bytes they have."""
        whole = 0
        with self.file.open('rb') as lines:
            for number, line in enumerate(lines):
                entry = _parse(line)
                if number == 0 and entry is not None and entry != head:
                    differing = [name for name in {*head, *entry} if head.get(name) != entry.get(name)]
                    raise UserError(
                        f'{self.file} was begun with other settings ({", ".join(sorted(differing))}): give another '
                        'output, or --fresh to begin anew.'
                    )
                if entry is None:
                    break
                if number:
                    self.done[entry['key']] = entry
                whole += len(line)
        return whole

    def add(self, key: str, **entry: Any) -> None:
        """Note that a clip is done; in the file at once, so that a crash loses nothing."""
        self.done[key] = {'key': key, **entry}
        self._append(self.done[key])

    def _append(self, entry: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps(entry, ensure_ascii=False) + '\n')
        self._lines.flush()

    def __enter__(self) -> 'Journal':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()


def key_of(clip_id: str, file: str, start_s: float | None, end_s: float | None) -> str:
    """A clip's key: its name, its window, and the file's size and time of change (0 for a file that is gone)."""
    try:
        stat = os.stat(file)
        state = (stat.st_size, stat.st_mtime_ns)
    except OSError:
        state = (0, 0)
    return json.dumps([clip_id, file, start_s, end_s, *state], ensure_ascii=False)


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b'\n'):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
