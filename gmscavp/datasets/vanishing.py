"""A data folder that is gone for a while, as shares of a network are: waiting until it is back."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from mmengine.logging import print_log

from gmscavp.errors import UserError

_FIRST_S, _LONGEST_S = 0.5, 30.0


def is_there(root: Path) -> bool:
    """Whether a folder can be listed and holds anything: where a share is not mounted its place is an empty folder."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def wait_for(root: Path, patience_s: float, sleep: Callable[[float], None] = time.sleep) -> float:
    """Wait until a folder is there, asking after 0.5, 1, 2, ... seconds -> how long that took.

    UserError: it has been gone for patience_s seconds.
    """
    print_log(
        f'data folder {root} is gone; waiting up to {patience_s:g} s for it', logger='current', level=logging.WARNING
    )
    waited_s, pause_s = 0.0, _FIRST_S
    while not is_there(root):
        if waited_s >= patience_s:
            raise UserError(
                f'data folder {root} was there and has been gone for {waited_s:g} s; bring it back (is its share mounted?) '
                "and go on with --resume, or let BadClipHook's patience_s be longer."
            )
        pause = min(pause_s, patience_s - waited_s)
        sleep(pause)
        waited_s, pause_s = waited_s + pause, min(2 * pause_s, _LONGEST_S)
    print_log(f'data folder {root} is back after {waited_s:g} s', logger='current', level=logging.WARNING)
    return waited_s
