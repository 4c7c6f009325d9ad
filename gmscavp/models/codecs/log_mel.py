"""The log-mel itself as latents."""

from collections.abc import Sequence

from torch import Tensor

from gmscavp.models.codecs.base import Codec
from gmscavp.registry import CODECS


@CODECS.register_module()
class MelCodec(Codec):
    """Standardises the log-mel and changes nothing else: (B, 1, F, M) in [0, 1] <-> (B, 1, F, M).

    mean, std: of the log-mels of the data.
    """

    side = 'audio'
    channels = 1

    def __init__(self, mean: float = 0.5, std: float = 0.25) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def places(self, signal: Sequence[int]) -> list[int]:
        """The signal's own."""
        return list(signal)

    def encode(self, signal: Tensor) -> Tensor:
        """(B, 1, F, M) -> (B, 1, F, M)."""
        return (signal - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 1, F, M) -> (B, 1, F, M) in [0, 1]."""
        return (latents * self.std + self.mean).clamp(0, 1)
