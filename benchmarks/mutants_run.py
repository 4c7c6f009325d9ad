"""Tests against one mistake after another, each in a fork of a process that has imported and collected everything.

A mutant costs the tests up to the first that fails. What the tests made when they were imported was made by the right code,
so that a mutant that survives meets the quick ones once more, imported anew. It meets the quickest tests that take a few
seconds together: long ones are left out, which can only add survivors.
"""

import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NoReturn

import pytest
from mutating import Mutant, apply

from gmscavp.errors import UserError

_OPTIONS = ('-s', '-qq', '--no-header', '--no-summary', '-p', 'no:cacheprovider', '--hypothesis-profile=first_failure')
_POLL_S = 0.002
# Seconds of the processor for all tests together, and for one that is imported anew.
_TOGETHER_S, _QUICK_S = 4.0, 0.06


def survivors(files: Sequence[Path], mutants: Sequence[Mutant], tell: Callable[[Mutant, bool], None]) -> list[Mutant]:
    """The mutants that no test of the files notices; one over which the tests hang is noticed.

    tell: is given each mutant, and whether it survived. Raises UserError where the tests fail without any mistake.
    """
    trial = _Trial(mutants, tell)
    pytest.main([*_OPTIONS, *map(str, files)], plugins=[trial])
    if not trial.done:
        raise UserError(f'the tests of {", ".join(file.name for file in files)} cannot be collected.')
    return trial.left


class _Trial:
    """A plugin of pytest that runs the tests over and over, in forks, in place of once."""

    def __init__(self, mutants: Sequence[Mutant], tell: Callable[[Mutant, bool], None]) -> None:
        self.mutants, self.tell = mutants, tell
        self.left: list[Mutant] = []
        self.done = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        seconds = self._without_mistake(session)
        quickest = _ordered(session.items, seconds, set())
        together = accumulate(seconds[item.nodeid] for item in quickest)
        items = [item for item, spent in zip(quickest, together, strict=True) if spent < _TOGETHER_S]
        # Of a clock that other processes slow down.
        limit_s = 30 + 10 * sum(seconds.values())
        caught: dict[str, set[str]] = defaultdict(set)
        for mutant in self.mutants:
            function = f'{mutant.module}.{mutant.function}'
            # A test that has noticed one mistake in a function is likely to notice the next.
            order = _ordered(items, seconds, caught[function])
            by = _forked(partial(_first_failure, session, order, mutant), limit_s)
            if by == '':
                by = _forked(partial(_anew, session, seconds, mutant), limit_s)
            if by == '':
                self.left.append(mutant)
            elif by:
                caught[function].add(by)
            self.tell(mutant, by == '')
        self.done = True
        return True

    def _without_mistake(self, session: pytest.Session) -> dict[str, float]:
        """Seconds of every test."""
        told = _forked(partial(_timed, session), 600)
        again = _forked(partial(_anew, session, {}, None), 600)
        if not told or again != '':
            raise UserError('the tests fail before any mistake is made; run them by themselves.')
        return json.loads(told)


def _ordered(items: Sequence[pytest.Item], seconds: dict[str, float], first: set[str]) -> list[pytest.Item]:
    return sorted(items, key=lambda item: (item.nodeid not in first, seconds.get(item.nodeid, 0.0)))


def _forked(work: Callable[[], str], limit_s: float) -> str | None:
    """What `work` says in a process of its own; None where it ends in any other way, or not in time."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _say(work, writing)
    os.close(writing)
    ended_by = time.monotonic() + limit_s
    # What is told may be more than a pipe holds: it is read while the child runs.
    os.set_blocking(reading, False)
    told, running = b'', True
    while running and time.monotonic() < ended_by:
        running = os.waitpid(child, os.WNOHANG)[0] == 0
        told += _read(reading)
        time.sleep(_POLL_S)
    # It may have started processes, which may all have ended with it.
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if running:
        os.waitpid(child, 0)
    os.close(reading)
    if told.startswith(b'!'):
        raise RuntimeError(told.decode())
    return told[1:].decode() if told and not running else None


def _say(work: Callable[[], str], pipe: int) -> NoReturn:
    """Write '+' and what `work` says, or '!' and its own mistake; what a test raises, pytest catches."""
    try:
        os.setsid()
        _be_silent()
        try:
            said = '+' + work()
        except Exception as error:
            said = f'!{error!r}'
        os.write(pipe, said.encode())
    finally:
        # Never back into the work of the process that was forked.
        os._exit(0)


def _read(pipe: int) -> bytes:
    found = b''
    with suppress(BlockingIOError):
        while part := os.read(pipe, 65_536):
            found += part
    return found


def _be_silent() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _timed(session: pytest.Session) -> str:
    """Seconds of every test as JSON; nothing if one fails."""
    seconds = {}
    for item in session.items:
        started = time.process_time()
        if _fails(session, item):
            return ''
        seconds[item.nodeid] = time.process_time() - started
    return json.dumps(seconds)


def _first_failure(session: pytest.Session, order: Sequence[pytest.Item], mutant: Mutant) -> str:
    """The test that notices the mistake, or nothing."""
    apply(mutant)
    return next((item.nodeid for item in order if _fails(session, item)), '')


def _fails(session: pytest.Session, item: pytest.Item) -> bool:
    # Without a next item all fixtures end with the test: tests run in any order.
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    return session.testsfailed > 0


def _anew(session: pytest.Session, seconds: dict[str, float], mutant: Mutant | None) -> str:
    """As _first_failure, with the tests imported once more; 'anew' for the test's name."""
    if mutant:
        apply(mutant)
    modules = {item.module.__name__ for item in session.items}  # type: ignore[attr-defined]
    for name in [name for name in sys.modules if name in modules or name.split('.')[0] in ('tests', 'conftest')]:
        del sys.modules[name]

    class Order:
        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            items[:] = [item for item in _ordered(items, seconds, set()) if seconds.get(item.nodeid, 0.0) < _QUICK_S]

    files = dict.fromkeys(str(item.path) for item in session.items)
    return 'anew' if pytest.main([*_OPTIONS, '-x', *files], plugins=[Order()]) else ''
