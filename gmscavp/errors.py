"""Errors that a user can cause and mend. The tools print them as one sentence, without a traceback."""

import difflib
import mmap
import os
import re
from collections.abc import Iterable

# What processes that read clips are at. Unlike other memory it is shared with those that are forked later; a process that
# dies of a file cannot say so itself.
_SLOTS, _SLOT_BYTES = 256, 1024
_at_work = mmap.mmap(-1, _SLOTS * _SLOT_BYTES)
_DEAD_WORKER = re.compile(r'DataLoader worker \(pid(?:\(s\))? (\d+)[^)]*\) (.*)', re.DOTALL)


class UserError(Exception):
    """What is wrong and what to do about it, in one sentence in the user's words."""


def note_reading(file: str) -> None:
    """Note what this process reads from now on, for the process that it was forked from to tell if it dies."""
    entry = f'{os.getpid()}\t{file}\0'.encode(errors='replace')[:_SLOT_BYTES]
    begin = os.getpid() % _SLOTS * _SLOT_BYTES
    _at_work[begin : begin + len(entry)] = entry


def lost_reader(error: BaseException) -> str | None:
    """What to say of a DataLoader's worker process that died, with the file that it read; None for any other error."""
    # The first of two errors has the signal, the second is raised from it.
    found = _DEAD_WORKER.match(str(error.__cause__ or '')) or _DEAD_WORKER.match(str(error))
    if found is None:
        return None
    begin = int(found[1]) % _SLOTS * _SLOT_BYTES
    pid, _, file = _at_work[begin : begin + _SLOT_BYTES].partition(b'\0')[0].decode(errors='replace').partition('\t')
    place = f'at {file}' if pid == found[1] else 'at a file that is not known'
    how = found[2].splitlines()[0].partition('. ')[0].strip(' .').removeprefix('is killed by signal: ')
    return (
        f'a process that reads clips died ({how}) {place}; leave that clip out of the '
        'manifest (tools/prepare_data.py finds such clips), or lower num_workers where memory is short, and go on with '
        '--resume.'
    )


def near_names(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """' Did you mean X?' for the known names closest to `name`, or '' when none is near."""
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=cutoff)
    return f' Did you mean {" or ".join(near)}?' if near else ''
