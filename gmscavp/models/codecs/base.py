"""What all codecs share: the interface."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Codec(nn.Module, ABC):
    """Signal -> latents of about zero mean and unit variance, in which diffusion works, and back.

    Signals: log-mel (B, 1, F, M) in [0, 1] or video (B, 3, T, H, W) in [-1, 1]. Latents (B, C, *places), time first among
    the places. side: 'audio' or 'video'. channels: C.
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
