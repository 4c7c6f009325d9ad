"""A function run on many files by several processes, of which a file may hang or crash one without stopping the rest."""

import math
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from gmscavp.errors import UserError

Task = TypeVar('Task')
Answer = TypeVar('Answer')

# A process imports torch first, which takes seconds, or a minute from a busy network disk.
_START_S = 300.0


class Lost(NamedTuple):
    """A task that took its process with it. cause: 'timed out' or 'crashed'."""

    cause: str


def run_each(
    function: Callable[[Task], Answer],
    tasks: Iterable[Task],
    workers: int,
    timeout_s: Callable[[Task], float],
    memory_bytes: int | None = None,
) -> Generator[tuple[Task, Answer | Lost], None, None]:
    """Give (task, function(task)) of every task as it is done, in any order; a Lost in place of what never came back.

    A process that works on a task for longer than timeout_s(task), or that dies, is replaced. memory_bytes: the most that
    each may allocate beyond what it has when it begins (Linux); asked for more, it gets a MemoryError or dies.
    What `function` raises is raised here. function and tasks are pickled, and the calling script is imported: call this
    under `if __name__ == '__main__':`, with absolute paths. Closing the generator ends the processes.
    """
    waiting = iter(tasks)
    team: list[_Worker[Task, Answer]] = []
    try:
        while True:
            for task in islice(waiting, workers - len(team)):
                team.append(_Worker(function, task, memory_bytes))
            if not team:
                return
            _wait(team)
            for worker in [*team]:
                for answer in worker.answers(timeout_s(worker.task)):
                    done = worker.task
                    following = [] if isinstance(answer, Lost) else [*islice(waiting, 1)]
                    if following:
                        worker.give(following[0])
                    else:
                        team.remove(worker)
                        worker.end()
                    yield done, answer
    finally:
        for worker in team:
            worker.end()


class _Worker(Generic[Task, Answer]):
    """One process, and the task that it has."""

    def __init__(self, function: Callable[[Task], Answer], task: Task, memory_bytes: int | None) -> None:
        context = _context()
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, other, memory_bytes), daemon=True)
        self.process.start()
        # With the last copy of its end here closed, the death of the process shows as the end of the pipe.
        other.close()
        self.task = task
        self.started = False
        self.deadline = time.monotonic() + _START_S

    def give(self, task: Task) -> None:
        """Hand over the next task. Its time begins when this is next asked for answers."""
        self.task, self.deadline = task, math.inf
        self.pipe.send((task,))

    def answers(self, timeout_s: float) -> list[Answer | Lost]:
        """The answer to the task or that it is lost, once; nothing before."""
        now = time.monotonic()
        self.deadline = min(self.deadline, now + timeout_s) if self.started else self.deadline
        if not self.pipe.poll():
            return [self._lost('timed out')] if now >= self.deadline else []
        try:
            answered, answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            return [self._lost('crashed')]
        if not self.started:
            self.started = True
            self.give(self.task)
            return []
        if not answered:
            raise answer
        return [answer]

    def _lost(self, cause: str) -> Lost:
        if not self.started:
            raise UserError('a process that reads files could not be started; is memory left? Try fewer --workers.')
        return Lost(cause)

    def end(self) -> None:
        """Stop the process whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _context() -> Any:
    """Processes that begin without the threads and open files of this one, forked from a clean one where that is had.

    The clean process imports torch once, which takes seconds; spawned ones would each.
    """
    if 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['__main__', __name__])
    return context


def _wait(team: Sequence[_Worker[Task, Answer]]) -> None:
    """Until one of them says something or may be late."""
    soonest = min(worker.deadline for worker in team)
    wait([worker.pipe for worker in team], min(max(0.0, soonest - time.monotonic()), 1.0))


def limit_memory(more_bytes: int) -> None:
    """Let this process allocate so many bytes of address space more than it has, from now on and for good (Linux)."""
    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[0])
    most = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _serve(function: Callable[[Task], Answer], pipe: Connection, memory_bytes: int | None) -> None:
    """What a process does: say that it is there, then answer tasks until there are no more."""
    # Ctrl-C reaches every process of the terminal; only the first one decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if memory_bytes is not None:
        limit_memory(memory_bytes)
    pipe.send((True, None))
    while True:
        try:
            (task,) = pipe.recv()
        except EOFError:
            return
        try:
            answer = function(task)
        # Passed on to the caller, whatever it is.
        except Exception as error:
            pipe.send((False, error))
        else:
            pipe.send((True, answer))
