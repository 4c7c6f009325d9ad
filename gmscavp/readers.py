"""Processes that read clips: what each is at, its limit of time, and how it ends. A clip may hang or end its process."""

import ctypes
import mmap
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

# What processes that read clips are at. Unlike other memory it is shared with those that are forked later; a process that
# dies of a file cannot say so itself.
_SLOTS, _SLOT_BYTES = 256, 1024
_at_work = mmap.mmap(-1, _SLOTS * _SLOT_BYTES)
_DEAD_WORKER = re.compile(r'DataLoader worker \(pid(?:\(s\))? (\d+)[^)]*\) (.*)', re.DOTALL)
_PARENT_DEATH_SIGNAL = 1
# This process's id, where it is one that is replaced when it ends; what is forked from it is not.
_replaceable: set[int] = set()

TIMED_OUT, CRASHED, KILLED = 'timed out', 'crashed', 'killed'


class Reading(NamedTuple):
    """What a process reads."""

    clip_id: str
    file: str


def note_reading(file: str, clip_id: str = '') -> None:
    """Note what this process reads from now on, '' for nothing, for the process that it was forked from to ask."""
    entry = f'{os.getpid()}\t{clip_id}\t{file}\0'.encode(errors='replace')[:_SLOT_BYTES]
    begin = os.getpid() % _SLOTS * _SLOT_BYTES
    _at_work[begin : begin + len(entry)] = entry


def reading_of(pid: int) -> Reading | None:
    """What a process forked from this one reads, or read when it ended; None for nothing, or where it is not known."""
    begin = pid % _SLOTS * _SLOT_BYTES
    noted = _at_work[begin : begin + _SLOT_BYTES].partition(b'\0')[0].decode(errors='replace')
    number, _, rest = noted.partition('\t')
    clip_id, _, file = rest.partition('\t')
    return Reading(clip_id, file) if number == str(pid) and file else None


@contextmanager
def reading(file: str, clip_id: str, limit_s: float) -> Iterator[None]:
    """Note what is read; where the process is one that can be replaced, it ends after limit_s seconds of it (0: never).

    The kernel ends it, whatever library it hangs in.
    """
    note_reading(file, clip_id)
    replaceable = os.getpid() in _replaceable
    if replaceable:
        signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        if replaceable:
            signal.setitimer(signal.ITIMER_REAL, 0)
        note_reading('')


def become_replaceable(parent: int, dies_with_thread: bool) -> None:
    """Begin a worker that the process `parent` replaces when it ends, and that heeds no SIGTERM and no Ctrl-C.

    These come to a whole group of processes, and the parent needs its workers to stop in order; it ends them by SIGKILL.
    dies_with_thread: the worker is killed at once when the thread that forked it has ended, as it does with a process that
    is killed (Linux).
    """
    _replaceable.add(os.getpid())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if dies_with_thread and sys.platform == 'linux':
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def cause_of(exit_code: int) -> str:
    """What an exit code of multiprocessing says of a worker: TIMED_OUT, CRASHED, or KILLED by somebody else."""
    if exit_code == -signal.SIGALRM:
        return TIMED_OUT
    return KILLED if exit_code in (-signal.SIGKILL, -signal.SIGTERM) else CRASHED


def lost_reader(error: BaseException) -> str | None:
    """What to say of a DataLoader's worker process that died, with the file that it read; None for any other error."""
    # The first of two errors has the signal, the second is raised from it.
    found = _DEAD_WORKER.match(str(error.__cause__ or '')) or _DEAD_WORKER.match(str(error))
    if found is None:
        return None
    read = reading_of(int(found[1]))
    place = f'at {read.file}' if read else 'at a file that is not known'
    how = found[2].splitlines()[0].partition('. ')[0].strip(' .').removeprefix('is killed by signal: ')
    return (
        f'a process that reads clips died ({how}) {place}; leave that clip out of the '
        'manifest (tools/prepare_data.py finds such clips), or lower num_workers where memory is short, and go on with '
        '--resume.'
    )
