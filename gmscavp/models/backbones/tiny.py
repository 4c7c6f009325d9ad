"""Small convolutional nets for CPU: a 3D one over frames, a 2D one over the log-mel."""

from collections.abc import Sequence
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn

from gmscavp.models.backbones.base import Backbone
from gmscavp.models.backbones.batch_norm import run_checkpointed
from gmscavp.registry import BACKBONES
from gmscavp.structures import Features


def _norm(channels: int) -> nn.GroupNorm:
    """GroupNorm, not BatchNorm: a contrastive batch leaks through batch statistics, and ranks would differ."""
    return nn.GroupNorm(min(8, channels // 4), channels)


class _Stage3d(nn.Module):
    """Halve the picture, then one residual block in space and time. (B, C, T, H, W) -> (B, C', T, H/2, W/2)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.down = nn.Conv3d(channels, out_channels, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.block = nn.Sequential(
            _norm(out_channels),
            nn.GELU(),
            nn.Conv3d(out_channels, out_channels, (3, 1, 1), padding=(1, 0, 0)),
            _norm(out_channels),
            nn.GELU(),
            nn.Conv3d(out_channels, out_channels, (1, 3, 3), padding=(0, 1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return x + self.block(x)


@BACKBONES.register_module()
class TinyVideoNet(Backbone):
    """A small 3D convolutional net for CPU; time keeps its length.

    (B, 3, T, H, W) in [-1, 1] -> one (B, T, h * w, C) per stage; stage i halves the picture after a stem that divides it
    by stem_stride. width: channels of the stem, doubled by every stage. 0.09 M parameters at width 16 and two stages.
    gradient_checkpointing: less memory, one more forward pass.
    """

    middle = 0.0

    def __init__(
        self, width: int = 16, stages: int = 2, stem_stride: int = 4, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        kernel = stem_stride + 3
        self.stem = nn.Conv3d(
            3, width, (3, kernel, kernel), stride=(1, stem_stride, stem_stride), padding=(1, kernel // 2, kernel // 2)
        )
        channels = [width * 2**i for i in range(stages + 1)]
        self.stages = nn.ModuleList(_Stage3d(a, b) for a, b in pairwise(channels))
        self.out_channels = channels[1:]

    def by_depth(self) -> list[nn.Module]:
        """The stem, then the stages."""
        return [self.stem, *self.stages]

    def forward(self, video: Tensor) -> Features:
        """(B, 3, T, H, W) -> [(B, T, P_i, C_i)]."""
        features: Features = []
        x = self.stem(video)
        for stage in self.stages:
            x = run_checkpointed(stage, x) if self.gradient_checkpointing else stage(x)
            features.append(rearrange(x, 'b c t h w -> b t (h w) c'))
        return features


class _Stage2d(nn.Module):
    """Divide time and frequency by `stride`, then one residual block. (B, C, F, M) -> (B, C', F/s, M/s)."""

    def __init__(self, channels: int, out_channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1)
        self.block = nn.Sequential(
            _norm(out_channels),
            nn.GELU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            _norm(out_channels),
            nn.GELU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return x + self.block(x)


@BACKBONES.register_module()
class TinyAudioNet(Backbone):
    """A small 2D convolutional net over the log-mel for CPU.

    (B, 1, F, M) -> one (B, F_i, M_i, C_i) per stage. strides: (time, frequency) divisors of each stage, after a stem that
    divides both by 2. width: channels of the stem, doubled by every stage. 0.49 M parameters at width 16 and three stages.
    gradient_checkpointing: less memory, one more forward pass.
    """

    def __init__(
        self,
        width: int = 16,
        strides: Sequence[tuple[int, int]] = ((2, 2), (1, 2), (1, 2)),
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.stem = nn.Conv2d(1, width, 5, stride=2, padding=2)
        channels = [width * 2**i for i in range(len(strides) + 1)]
        self.stages = nn.ModuleList(
            _Stage2d(a, b, (stride[0], stride[1])) for (a, b), stride in zip(pairwise(channels), strides, strict=True)
        )
        self.out_channels = channels[1:]

    def by_depth(self) -> list[nn.Module]:
        """The stem, then the stages."""
        return [self.stem, *self.stages]

    def forward(self, mel: Tensor) -> Features:
        """(B, 1, F, M) -> [(B, F_i, M_i, C_i)]."""
        features: Features = []
        x = self.stem(mel)
        for stage in self.stages:
            x = run_checkpointed(stage, x) if self.gradient_checkpointing else stage(x)
            features.append(rearrange(x, 'b c t m -> b t m c'))
        return features
