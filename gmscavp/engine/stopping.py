"""SIGTERM and Ctrl-C in training: the step is finished, the run is saved, and only then it ends."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gmscavp.distributed import world

_NAMES = {signal.SIGINT: 'Ctrl-C', signal.SIGTERM: 'SIGTERM'}
# torchrun passes a Ctrl-C on to ranks that the terminal has told already.
_ONE_S = 1.0


class Stopped(KeyboardInterrupt):
    """A run has ended in order on a signal; its message says where it was saved, on rank 0, and is empty on others.

    number: of the signal. code: what a process ends with, 130 for Ctrl-C and 143 for SIGTERM.
    """

    def __init__(self, number: int, said: str = '') -> None:
        super().__init__(said)
        self.number, self.code = number, 128 + number


def name_of(number: int) -> str:
    """What a user calls a signal."""
    return _NAMES.get(signal.Signals(number), signal.Signals(number).name)


class Signals:
    """Notes SIGTERM and Ctrl-C while it is open. A second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.noted = 0
        self._at_s, self._owner = 0.0, 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Catch signals; only the main thread can, in others nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._owner = os.getpid()
        before = {number: signal.signal(number, self._note) for number in _NAMES}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A data worker just forked from this process (readers.become_replaceable).
            return
        if number == signal.SIGINT and self.noted:
            if time.monotonic() - self._at_s < _ONE_S:
                return
            signal.default_int_handler(number, frame)
        self.noted, self._at_s = number, time.monotonic()
        if world()[0] == 0:
            again = '; once more ends at once, unsaved' if number == signal.SIGINT else ''
            # Not by print, which a signal may have come into.
            os.write(2, f'\n{name_of(number)}: finishes this step and saves{again}\n'.encode())
