"""A trained codec of video, frame by frame."""

import math
from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn

from gmscavp.errors import UserError
from gmscavp.models.codecs.base import Codec, divided
from gmscavp.models.codecs.convolutional import Decoder, Encoder, begin_certain, checked_stages
from gmscavp.models.codecs.statistics import LatentStatistics
from gmscavp.registry import CODECS


@CODECS.register_module()
class FrameAutoencoder(Codec):
    """Convolutional KL autoencoder of every frame: (B, 3, T, H, W) in [-1, 1] <-> (B, C, T, H / S, W / S).

    channels: C. strides, widths: and channels of every stage; S is the product of the strides. blocks: residual blocks a
    stage. temporal: frames that a convolution over time joins before decoding, odd; with 1 every frame stands alone and
    training on single frames is enough, with more it must see frames in succession. memory: see LatentStatistics.
    Kingma and Welling 2014; that diffusion works in such latents, Rombach et al. 2022; the convolution over time, Blattmann
    et al. 2023. It is trained by models.Autoencoder.
    """

    side = 'video'

    def __init__(
        self,
        channels: int = 8,
        strides: Sequence[int] = (4, 2),
        widths: Sequence[int] = (64, 96),
        blocks: int = 1,
        temporal: int = 1,
        memory: int = 100,
    ) -> None:
        super().__init__()
        stages = checked_stages('FrameAutoencoder', [(stride, stride) for stride in strides], widths)
        if temporal < 1 or temporal % 2 == 0:
            raise UserError(f'FrameAutoencoder: temporal is an odd number of frames, 1 for none, not {temporal}.')
        self.channels, self.stride = channels, math.prod(strides)
        self.encoder = Encoder(3, 2 * channels, stages, widths, blocks)
        begin_certain(self.encoder)
        self.decoder = Decoder(channels, 3, stages, widths, blocks)
        self.joined = TimeMix(channels, temporal) if temporal > 1 else nn.Identity()
        self.statistics = LatentStatistics(channels, memory)

    def places(self, signal: Sequence[int]) -> list[int]:
        """(T, H, W) -> [T, H / S, W / S]."""
        mend = 'change clip.size or the crop, or strides of the codec'
        return divided(signal, [1, self.stride, self.stride], ('frames', 'rows', 'columns'), mend)

    def posterior(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W) -> mean and log variance (B, C, T, H / S, W / S), not standardised."""
        self.places(signal.shape[2:])
        coded = self.encoder(rearrange(signal, 'b c t h w -> (b t) c h w'))
        mean, log_variance = rearrange(coded, '(b t) c h w -> b c t h w', b=len(signal)).chunk(2, dim=1)
        return mean, log_variance

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Latents that are not standardised -> (B, 3, T, H, W) that may leave [-1, 1]."""
        frames = rearrange(self.joined(latents), 'b c t h w -> (b t) c h w')
        return rearrange(self.decoder(frames), '(b t) c h w -> b c t h w', b=len(latents))

    def observe(self, mean: Tensor) -> None:
        """Let the statistics follow the means of a batch."""
        self.statistics.update(mean)

    def encode(self, signal: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, C, T, H / S, W / S)."""
        return self.statistics.standardise(self.posterior(signal)[0])

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T, H / S, W / S) -> (B, 3, T, H, W) in [-1, 1]."""
        return self.reconstruct(self.statistics.restore(latents)).clamp(-1, 1)


class TimeMix(nn.Module):
    """Latents plus a convolution over time of them, which begins as nothing: (B, C, T, H, W) -> the same."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(channels, channels, (frames, 1, 1), padding=(frames // 2, 0, 0))
        for parameter in self.convolution.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, H, W)."""
        return x + self.convolution(x)
