"""What all embedders share: the interface, and bringing sound to the rate that a judge was trained at."""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from gmscavp import compat
from gmscavp.compat import torchaudio
from gmscavp.errors import UserError


class Embedder(ABC):
    """A judge of sound. Weights come from local files; a constructor raises UserError where they are missing."""

    @abstractmethod
    def __call__(self, waveform: Tensor, sample_rate: int) -> tuple[Tensor, Tensor | None]:
        """Waveforms (B, S) in [-1, 1] -> features (B, D), and class scores (B, C) before softmax or sigmoid, or None.

        Features may be (B, W, D), of W windows of a clip that count one by one. All on the CPU, float32.
        """

    @abstractmethod
    def to(self, device: str | torch.device) -> None:
        """Move the network; waveforms are moved to it at every call."""


def at_rate(waveform: Tensor, sample_rate: int, wanted: int, least: int = 0) -> Tensor:
    """(B, S) at one rate -> (B, S') at another, with silence at the end up to `least` samples."""
    if sample_rate != wanted:
        waveform = torchaudio.functional.resample(waveform, sample_rate, wanted)
    return F.pad(waveform, (0, max(0, least - waveform.shape[-1])))


def released_weights(file: str, owner: str, what: str) -> dict[str, Tensor]:
    """The tensors of a released file by name, of what they are wrapped in. UserError: the file is missing or damaged."""
    if not Path(file).expanduser().is_file():
        raise UserError(f'{owner} has no file {file}; get {what} and give its path.')
    checkpoint = compat.load_checkpoint_file(file)
    return compat.weights_of(checkpoint.get('model', checkpoint))
