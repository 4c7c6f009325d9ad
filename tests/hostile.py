"""Weights with code in them, for the tests of every entry that reads weights."""

import os
from pathlib import Path

import torch


class Payload:
    """Makes the folder `mark` when it is unpickled the plain way, as torch.load without limits does."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def write_evil(file: Path, mark: Path) -> Path:
    """A run's checkpoint with code in it; `mark` must not be there after any entry has refused the file."""
    state = {'state_dict': {'w': torch.zeros(2)}, 'message_hub': {}, 'optimizer': {'x': Payload(mark)}, 'meta': {}}
    torch.save(state, file)
    return file
