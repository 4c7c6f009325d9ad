"""Processes in the order in which they need each other, some at a time."""

import concurrent.futures
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gmscavp.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Task:
    """Something to do when all of `after` that are to be done at all have ended."""

    run: Callable[[], None]
    after: Sequence[str] = ()


def run_tasks(tasks: Mapping[str, Task], jobs: int) -> dict[str, str]:
    """Do all tasks, `jobs` at a time, each when those before it have ended; what went wrong, by name."""
    waiting, ended = dict(tasks), set[str]()
    running: dict[concurrent.futures.Future[None], str] = {}
    failures: dict[str, str] = {}
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        bar = progress.add_task('runs', total=len(tasks))
        while waiting or running:
            ready = [n for n, t in waiting.items() if all(a in ended or a not in tasks for a in t.after)]
            for name in ready[: jobs - len(running)]:
                running[pool.submit(waiting.pop(name).run)] = name
            progress.update(bar, description=', '.join(running.values()))
            done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for job in done:
                name = running.pop(job)
                try:
                    job.result()
                except UserError as error:
                    failures[name] = str(error)
                    progress.print(f'{name}: {error}')
                ended.add(name)
                progress.advance(bar)
    return failures


def call(command: Sequence[Any], log: Path, what: str) -> float:
    """Run a Python program on one thread, its output in a file; minutes of the processor. UserError: it failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    with log.open('a') as output:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, env=os.environ | threads, stdout=output, stderr=output
        )
        # Of this process alone, which the module's own way of waiting does not tell.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f'{what} ended with code {process.returncode}; its output is in {log}.')
    return (usage.ru_utime + usage.ru_stime) / 60
