"""What all codecs share: the interface."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from gmscavp.errors import UserError


class Codec(nn.Module, ABC):
    """Signal -> latents of about zero mean and unit variance, in which diffusion works, and back.

    Signals: log-mel (B, 1, F, M) in [0, 1] or video (B, 3, T, H, W) in [-1, 1]. Latents (B, C, *places), time first among
    the places. side: 'audio' or 'video'. channels: C.

    A codec that models.Autoencoder can train has besides
    posterior(signal) -> mean and log variance of its own latents, before they are standardised, each (B, C, *places),
    reconstruct(own latents) -> signal that may leave its range, and
    observe(mean), which follows what standardises them.
    """

    side: str
    channels: int

    @abstractmethod
    def places(self, signal: Sequence[int]) -> list[int]:
        """Places of the latents for a signal's: (F, M) or (T, H, W). UserError: it does not divide."""

    @abstractmethod
    def encode(self, signal: Tensor) -> Tensor:
        """Signal -> latents (B, C, *places); of a probabilistic codec their mean."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, *places) -> signal within its range."""


def divided(signal: Sequence[int], strides: Sequence[int], names: Sequence[str], mend: str) -> list[int]:
    """Places of a signal divided by the strides. UserError: one leaves a remainder; `mend` says what to change."""
    for size, stride, name in zip(signal, strides, names, strict=True):
        if size < stride or size % stride:
            raise UserError(f'the codec divides {name} by {stride}, and {size} {name} leave a remainder; {mend}.')
    return [size // stride for size, stride in zip(signal, strides, strict=True)]
