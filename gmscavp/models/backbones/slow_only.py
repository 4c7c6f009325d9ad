"""SlowOnly-R50: a residual net over frames that looks into time in its last two stages."""

from collections.abc import Sequence
from typing import Self

import torch
from einops import rearrange
from torch import Tensor, nn

from gmscavp.errors import UserError
from gmscavp.models.backbones.base import Backbone
from gmscavp.models.backbones.batch_norm import freeze_statistics, run_checkpointed
from gmscavp.registry import BACKBONES
from gmscavp.structures import Features

_BLOCKS = (3, 4, 6, 3)
# Frames that the first convolution of a block spans, by stage: no look into time before the third.
_SPANS = (1, 1, 3, 3)
_EXPANSION = 4


class _ConvNorm(nn.Module):
    """Convolution without bias, then BatchNorm. (B, C, T, H, W) -> (B, C', T, H/s, W/s)."""

    def __init__(self, channels: int, out_channels: int, kernel: tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        span, size = kernel
        self.conv = nn.Conv3d(
            channels,
            out_channels,
            (span, size, size),
            stride=(1, stride, stride),
            padding=(span // 2, size // 2, size // 2),
            bias=False,
        )
        self.norm = nn.BatchNorm3d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x))
        return normed


class _Bottleneck(nn.Module):
    """Narrow, look around, widen, add. (B, C, T, H, W) -> (B, 4 width, T, H/s, W/s). He et al. 2016, figure 5."""

    def __init__(self, channels: int, width: int, span: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(channels, width, (span, 1))
        self.conv2 = _ConvNorm(width, width, (1, 3), stride)
        self.conv3 = _ConvNorm(width, width * _EXPANSION, (1, 1))
        changes = stride > 1 or channels != width * _EXPANSION
        self.shortcut = _ConvNorm(channels, width * _EXPANSION, (1, 1), stride) if changes else nn.Identity()
        # A new block begins as its shortcut, which keeps deep nets stable at first.
        nn.init.zeros_(self.conv3.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x).relu()
        y = self.conv3(self.conv2(y).relu())
        return (y + self.shortcut(x)).relu()


@BACKBONES.register_module()
class SlowOnlyR50(Backbone):
    """SlowOnly with 50 layers and no stride in time: the video side of CAVP.

    (B, 3, T, H, W) in [-1, 1] -> (B, T, H/4 W/4, 256), (B, T, H/8 W/8, 512), (B, T, H/16 W/16, 1024),
    (B, T, H/32 W/32, 2048); at 224 x 224 the last is (B, T, 49, 2048). Time is looked into by the first convolution of
    every block of the last two stages, three frames each. Feichtenhofer et al. 2019; as in CAVP (Luo et al. 2023) the
    slow pathway alone, 31,634,496 parameters.

    mean, std: of red, green, blue in [0, 1], by which the frames are normalised. The default leaves [0, 1] as it is,
    which is what CAVP's weights were trained on; OpenMMLab's want mean=(.485, .456, .406), std=(.229, .224, .225).
    width: channels of the first stage; released weights have 64. frozen_norm: keep BatchNorm's statistics, as one does
    with small batches. gradient_checkpointing: less memory, one more forward pass.
    """

    mean: Tensor
    std: Tensor
    middle = 0.0

    def __init__(
        self,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        width: int = 64,
        frozen_norm: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        for name, values in (('mean', mean), ('std', std)):
            if len(values) != 3:
                raise UserError(
                    f'SlowOnlyR50: {name} takes one value for red, green and blue each, got {list(values)}.'
                )
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(3, 1, 1, 1), persistent=False)
        self.frozen_norm, self.gradient_checkpointing = frozen_norm, gradient_checkpointing
        self.stem = _ConvNorm(3, width, (1, 7), stride=2)
        self.pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.out_channels = [width * 2**i * _EXPANSION for i in range(len(_BLOCKS))]
        channels = [width, *self.out_channels]
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    _Bottleneck(
                        channels[i] if block == 0 else channels[i + 1],
                        width * 2**i,
                        _SPANS[i],
                        stride=2 if i and block == 0 else 1,
                    )
                    for block in range(blocks)
                )
            )
            for i, blocks in enumerate(_BLOCKS)
        )

    def by_depth(self) -> list[nn.Module]:
        """The stem, then the stages."""
        return [self.stem, *self.stages]

    def train(self, mode: bool = True) -> Self:
        """As in every module; with frozen_norm BatchNorm stays as in evaluation."""
        super().train(mode)
        if self.frozen_norm:
            freeze_statistics(self)
        return self

    def forward(self, video: Tensor) -> Features:
        """(B, 3, T, H, W) in [-1, 1] -> [(B, T, P_i, C_i)]."""
        x = ((video + 1) / 2 - self.mean) / self.std
        x = self.pool(self.stem(x).relu())
        features: Features = []
        for stage in self.stages:
            x = run_checkpointed(stage, x) if self.gradient_checkpointing else stage(x)
            features.append(rearrange(x, 'b c t h w -> b t (h w) c'))
        return features
