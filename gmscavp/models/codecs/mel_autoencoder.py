"""A trained codec of the log-mel."""

import math
from collections.abc import Sequence

from torch import Tensor

from gmscavp.models.codecs.base import Codec, divided
from gmscavp.models.codecs.convolutional import Decoder, Encoder, begin_certain, checked_stages
from gmscavp.models.codecs.statistics import LatentStatistics
from gmscavp.registry import CODECS


@CODECS.register_module()
class MelAutoencoder(Codec):
    """Convolutional KL autoencoder of the log-mel: (B, 1, F, M) in [0, 1] <-> (B, C, F / S_f, M / S_m).

    channels: C. strides, widths: (frames, bands) and channels of every stage; S is the product of the strides. blocks:
    residual blocks a stage. memory: see LatentStatistics. Kingma and Welling 2014; that diffusion works in such latents,
    Rombach et al. 2022. It is trained by models.Autoencoder.
    """

    side = 'audio'

    def __init__(
        self,
        channels: int = 4,
        strides: Sequence[tuple[int, int]] = ((2, 2), (2, 2)),
        widths: Sequence[int] = (32, 64),
        blocks: int = 1,
        memory: int = 100,
    ) -> None:
        super().__init__()
        stages = checked_stages('MelAutoencoder', strides, widths)
        self.channels = channels
        self.strides = [math.prod(stride[axis] for stride in stages) for axis in (0, 1)]
        self.encoder = Encoder(1, 2 * channels, stages, widths, blocks)
        begin_certain(self.encoder)
        self.decoder = Decoder(channels, 1, stages, widths, blocks)
        self.statistics = LatentStatistics(channels, memory)

    def places(self, signal: Sequence[int]) -> list[int]:
        """(F, M) -> [F / S_f, M / S_m]."""
        mend = 'change clip.duration_s, or hop and bands of the preprocessor, or strides of the codec'
        return divided(signal, self.strides, ('mel frames', 'mel bands'), mend)

    def posterior(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, F, M) -> mean and log variance (B, C, F / S_f, M / S_m), not standardised."""
        self.places(signal.shape[2:])
        mean, log_variance = self.encoder(signal).chunk(2, dim=1)
        return mean, log_variance

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Latents that are not standardised -> (B, 1, F, M) that may leave [0, 1]."""
        return self.decoder(latents)

    def observe(self, mean: Tensor) -> None:
        """Let the statistics follow the means of a batch."""
        self.statistics.update(mean)

    def encode(self, signal: Tensor) -> Tensor:
        """(B, 1, F, M) -> (B, C, F / S_f, M / S_m)."""
        return self.statistics.standardise(self.posterior(signal)[0])

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, F / S_f, M / S_m) -> (B, 1, F, M) in [0, 1]."""
        return self.reconstruct(self.statistics.restore(latents)).clamp(0, 1)
