"""Processes that write shards: one shard at a time each, stopped by Ctrl-C between two clips, and by a parent's death."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gmscavp.compat import cores
from gmscavp.errors import UserError

# One shard written: (shard, called after every clip).
Write = Callable[[Any, Callable[[], None]], None]

_REFRESH_S = 0.3

# What the processes of a pool share, set when they start: the writer, the count of clips, and whether to stop.
_shared: dict[str, Any] = {}


def write_all(write: Write, shards: Sequence[Any], workers: int, *, done: int, out: Path) -> None:
    """Write every shard (each with `rows`), in `workers` processes (0: one per core), with a progress bar over clips.

    done: clips of shards that were there before. Ctrl-C stops at the next clip and passes on how to go on.
    """
    processes = min(workers or cores(), len(shards))
    columns = (TextColumn('writing'), BarColumn(), MofNCompleteColumn(), TextColumn('clips'), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task('writing', total=done + sum(len(shard.rows) for shard in shards), completed=done)
            if processes <= 1:
                for shard in shards:
                    write(shard, lambda: bar.advance(task))
            else:
                for count in _counts(write, shards, processes):
                    bar.update(task, completed=done + count)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f'stopped; finished shards are kept in {out}, and the same command goes on from there.'
        ) from None


def _counts(write: Write, shards: Sequence[Any], processes: int) -> Iterator[int]:
    """Write the shards in a pool, giving every now and then how many clips have been seen to."""
    with _pool(write, processes) as (pool, clips):
        waiting = {pool.submit(_write, shard) for shard in shards}
        while waiting:
            finished, waiting = wait(waiting, _REFRESH_S, FIRST_EXCEPTION)
            for future in finished:
                future.result()
            yield clips.value


@contextmanager
def _pool(write: Write, processes: int) -> Iterator[tuple[ProcessPoolExecutor, Any]]:
    """Spawned processes (a fork would copy the threads of libraries half-way) and their count of clips."""
    context = multiprocessing.get_context('spawn')
    clips, stop = context.Value('Q'), context.Event()
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=(write, clips, stop))
    try:
        yield pool, clips
    except BrokenProcessPool as error:
        raise UserError(
            'a writing process died, perhaps for lack of memory: run the same command with fewer --workers.'
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _start(write: Write, clips: Any, stop: Any) -> None:
    _shared.update(write=write, clips=clips, stop=stop)
    # Ctrl-C reaches every process of the terminal; only the first one decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The processes are the parallelism.
    cv2.setNumThreads(0)


def _end_with_parent() -> None:
    """A parent that was killed cannot tell its children, which would wait for work for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _write(shard: Any) -> None:
    # Shards that wait in a process's own queue can no longer be cancelled.
    _heed_stop()
    _shared['write'](shard, _count_clip)


def _count_clip() -> None:
    with _shared['clips'].get_lock():
        _shared['clips'].value += 1
    _heed_stop()


def _heed_stop() -> None:
    if _shared['stop'].is_set():
        raise KeyboardInterrupt
