"""Batches from worker processes of which any may hang, crash or be killed: they are replaced, and no batch is lost.

Each worker has a limit of time for a clip (gmscavp.readers.reading) and is ended by the kernel at it. When a worker has
ended, all of its loader's are replaced, and what they had been given and not handed back is read again: which batches come,
and in what order, does not depend on when that happens.
"""

import json
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakSet

from mmengine.logging import print_log
from torch.multiprocessing import reductions
from torch.utils.data import DataLoader, IterableDataset, Sampler

from gmscavp.engine.random_states import apart
from gmscavp.errors import UserError
from gmscavp.readers import CRASHED, KILLED, TIMED_OUT, Reading, become_replaceable, cause_of, reading_of

QUARANTINE_FILE = 'quarantine.jsonl'
_WORDS = {TIMED_OUT: 'took too long', CRASHED: 'crashed', KILLED: 'was killed (perhaps for lack of memory)'}
# Waited for an end that shows by its consequences, and for queues that a worker may have died within.
_GONE_S, _END_S = 1.0, 10.0
_END = object()


class _WorkerEnded(RuntimeError):
    """Interrupts the wait for a batch."""


class _Batches(Sampler[list[Any]]):
    """Indices of batches, of which those not yet trained on are kept to be handed out again."""

    def __init__(self, batches: Any) -> None:
        self._batches, self._rest = batches, iter(())
        self.open: deque[Any] = deque()
        # Interrupted within the sampler's own iterator, there would be no next batch.
        self.drawing = False

    def begin(self) -> None:
        """Begin the sampler anew."""
        self.open.clear()
        self._rest = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        yield from tuple(self.open)
        while (batch := self._draw()) is not None:
            yield batch

    def _draw(self) -> Any:
        self.drawing = True
        try:
            batch = next(self._rest, None)
            if batch is not None:
                self.open.append(batch)
            return batch
        finally:
            self.drawing = False


class WatchedLoader:
    """A DataLoader with worker processes, whose batches it gives whatever happens to these.

    A clip that took longer than its limit, or crashed the process that read it, is put in quarantine: the data set takes it
    as one that cannot be read. So is a clip at which a process was killed by somebody else, as by the kernel for lack
    of memory, twice. quarantine_file: where such clips are written to, a line of JSON each (read_quarantine). Raises
    UserError when workers have been lost more than most_lost times.

    Everything else is asked of the DataLoader.
    """

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self._batches = _Batches(loader.batch_sampler)
        self._inner: DataLoader | None = None
        self._iterator: Any = None
        self._processes: WeakSet[BaseProcess] = WeakSet()
        self._suspects: set[str] = set()
        self.quarantine_file: Path | None = None
        self.most_lost, self.lost = 10, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        self._batches.begin()
        # Now and not with the first batch: beginning draws random numbers, which the caller may want apart.
        self._start()
        return self._each()

    def _each(self) -> Iterator[Any]:
        while True:
            try:
                with self._listening():
                    self._demand_workers()
                    batch = next(self._iterator, _END)
            except (RuntimeError, OSError, EOFError) as error:
                self._replace_lost(error)
                continue
            if batch is _END:
                return
            self._batches.open.popleft()
            yield batch

    def _start(self) -> None:
        """Begin workers, or with persistent ones an epoch of theirs."""
        self._inner = self._inner or self._build()
        if not self._inner.persistent_workers:
            self._iterator = None
        try:
            with self._listening():
                self._iterator = iter(self._inner)
        except (RuntimeError, OSError, EOFError) as error:
            self._replace_lost(error)
        self._processes.update(self._workers())

    def _build(self) -> DataLoader:
        like = self._loader
        Finalize(self, _end_processes, args=(self._processes,), exitpriority=1)
        bound = threading.current_thread() is threading.main_thread()
        return DataLoader(
            like.dataset,
            batch_sampler=self._batches,
            num_workers=like.num_workers,
            collate_fn=like.collate_fn,
            pin_memory=like.pin_memory,
            timeout=like.timeout,
            worker_init_fn=partial(_begin_worker, os.getpid(), bound, like.worker_init_fn),
            multiprocessing_context=like.multiprocessing_context,
            generator=like.generator,
            prefetch_factor=like.prefetch_factor,
            persistent_workers=like.persistent_workers,
            pin_memory_device=like.pin_memory_device,
        )

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Let the end of a worker interrupt this, which may wait for ever for half a message; and nothing else."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGCHLD, self._hear)
        try:
            yield
        finally:
            # torch's own would interrupt a training step.
            of_torch = getattr(before, '__module__', '').startswith('torch.')
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if of_torch else before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._batches.drawing and not _receives_memory(frame):
            self._demand_workers()

    def _demand_workers(self) -> None:
        if any(worker.exitcode for worker in self._workers()):
            raise _WorkerEnded

    def _workers(self) -> Sequence[BaseProcess]:
        return getattr(self._iterator, '_workers', ())

    def _replace_lost(self, error: Exception) -> None:
        """Begin again with other workers where some have ended; else the error is no matter of theirs, and is raised."""
        workers = self._workers()
        until = time.monotonic() + _GONE_S
        # Its connections are closed a moment before it counts as ended.
        while not (ended := [worker for worker in workers if worker.exitcode is not None]) and time.monotonic() < until:
            time.sleep(0.01)
        if not ended:
            raise error
        lost = [(cause_of(worker.exitcode or 0), reading_of(worker.pid or 0)) for worker in ended]
        self._drop()
        self.lost += 1
        said = '; '.join(self._judge(cause, read) for cause, read in lost)
        if self.lost > self.most_lost:
            raise UserError(
                f'processes that read clips have ended {self.lost} times, at last: {said}. Look at the clips in '
                f"{QUARANTINE_FILE}, lower num_workers where memory is short, or allow more by BadClipHook's max_lost, and "
                'go on with --resume.'
            )
        print_log(
            f'{said}. Others take over and no batch is lost (time {self.lost} of {self.most_lost})',
            logger='current',
            level=logging.WARNING,
        )
        with apart(0):
            self._start()

    def _drop(self) -> None:
        for worker in self._workers():
            worker.kill()
        # One that was killed within a queue or a lock can make torch wait for ever.
        ending = threading.Thread(target=self._iterator._shutdown_workers, daemon=True)
        ending.start()
        ending.join(_END_S)
        self._inner = self._iterator = None

    def _judge(self, cause: str, read: Reading | None) -> str:
        """Put the clip in quarantine if it is to blame -> what to say."""
        words = f'a process that reads clips {_WORDS[cause]}'
        if read is None:
            return f'{words} while it read none that is known'
        if not read.clip_id or (cause == KILLED and read.clip_id not in self._suspects):
            self._suspects.add(read.clip_id)
            return f'{words} at {read.file}, which is tried once more'
        innermost(self._loader.dataset).quarantine[read.clip_id] = cause
        if self.quarantine_file:
            line = json.dumps({'clip_id': read.clip_id, 'cause': cause, 'file': read.file})
            with self.quarantine_file.open('a', encoding='utf-8') as stream:
                stream.write(line + '\n')
        return f'{words} at {read.file}, which is put in quarantine ({self.quarantine_file or "for this run"})'


def read_quarantine(file: Path) -> dict[str, str]:
    """clip_id -> cause, of a WatchedLoader's quarantine_file; empty where there is none. UserError: it is damaged."""
    try:
        lines = [json.loads(line) for line in file.read_text(encoding='utf-8').splitlines()] if file.is_file() else []
        return {line['clip_id']: line['cause'] for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{file} is damaged ({error}); mend or delete it, whose clips are then tried again.') from error


def innermost(dataset: Any) -> Any:
    """The data set that reads, of one that may wrap others."""
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return dataset


def watched(loader: DataLoader) -> Any:
    """A loader with workers as a WatchedLoader; one without, or whose batches are no lists of indices, as it is."""
    fits = loader.num_workers and loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)
    return WatchedLoader(loader) if fits else loader


def _receives_memory(frame: FrameType | None) -> bool:
    """Whether torch is taking over a batch's memory: interrupted, it keeps it and a file descriptor for ever.

    It does not wait for ever: that a worker has ended shows there as a closed connection.
    """
    while frame and frame.f_globals.get('__name__') != reductions.__name__:
        frame = frame.f_back
    return frame is not None


def _begin_worker(parent: int, bound: bool, then: Callable[[int], None] | None, number: int) -> None:
    become_replaceable(parent, bound)
    if then:
        then(number)


def _end_processes(processes: WeakSet[BaseProcess]) -> None:
    """Workers heed no SIGTERM, by which multiprocessing would end those that hang, and then wait for them for ever."""
    for process in list(processes):
        if process.is_alive():
            process.kill()
