"""Cnn14 of PANNs over the log-mel, with as many steps of time as CAVP needs."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.backbones.base import Backbone
from gmscavp.models.backbones.batch_norm import freeze_statistics, run_checkpointed
from gmscavp.registry import BACKBONES
from gmscavp.structures import Features

_BLOCKS = 6
_CAVP_POOLS = ((2, 2), (2, 2), (2, 2), (2, 2), (1, 2), (1, 1))


class _ConvBlock(nn.Module):
    """Two 3 x 3 convolutions, then average pooling and dropout. (B, C, F, M) -> (B, C', F/p, M/q)."""

    def __init__(self, channels: int, out_channels: int, pool: tuple[int, int], dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.pool, self.dropout = pool, dropout
        for conv in (self.conv1, self.conv2):
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        return F.dropout(F.avg_pool2d(x, self.pool), self.dropout, self.training)


@BACKBONES.register_module()
class Cnn14(Backbone):
    """Cnn14 of PANNs: the audio side of CAVP.

    (B, 1, F, bands) in [0, 1] -> one (B, F_i, M_i, C_i) per block, C = 64, 128, 256, 512, 1024, 2048; with CAVP's pools
    256 frames of 128 bands end in 16 steps. 79,673,920 parameters; the 80,723,008 of the released encoder hold the
    projection to 512 as well, which is the pyramid's here. Kong et al. 2020, with the pools of CAVP (Luo et al. 2023).

    bands: M, which BatchNorm normalises one by one. pools: (time, frequency) divisors of the six blocks; PANNs' own are
    (2, 2) five times, then (1, 1). summary: the last entry is CAVP's, (B, T, 1, 2048): mean over bands, sum of maximum
    and average over three steps, one linear layer with ReLU used twice over. Without it the last block keeps its bands,
    for pyramids that pool them in grids. dropout: after every block; summary_dropout: before the linear layer.
    width: channels of the first block; released weights have 64. frozen_norm: keep BatchNorm's statistics.
    gradient_checkpointing: less memory, one more forward pass.
    """

    def __init__(
        self,
        bands: int = 128,
        pools: Sequence[tuple[int, int]] = _CAVP_POOLS,
        summary: bool = True,
        dropout: float = 0.2,
        summary_dropout: float = 0.5,
        width: int = 64,
        frozen_norm: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if len(pools) != _BLOCKS:
            raise UserError(
                f'Cnn14: pools takes one (time, frequency) pair for each of {_BLOCKS} blocks, got {len(pools)}.'
            )
        self.bands, self.summary_dropout = bands, summary_dropout
        self.frozen_norm, self.gradient_checkpointing = frozen_norm, gradient_checkpointing
        self.least_frames = math.prod(pool[0] for pool in pools)
        self.norm = nn.BatchNorm2d(bands)
        self.out_channels = [width * 2**i for i in range(_BLOCKS)]
        self.blocks = nn.ModuleList(
            _ConvBlock(a, b, (pool[0], pool[1]), dropout)
            for (a, b), pool in zip(pairwise([1, *self.out_channels]), pools, strict=True)
        )
        self.fc = nn.Linear(self.out_channels[-1], self.out_channels[-1]) if summary else None

    def by_depth(self) -> list[nn.Module]:
        """The norm over bands, the blocks, and the linear layer where there is one."""
        return [self.norm, *self.blocks, *([self.fc] if self.fc else [])]

    def train(self, mode: bool = True) -> Self:
        """As in every module; with frozen_norm BatchNorm stays as in evaluation."""
        super().train(mode)
        if self.frozen_norm:
            freeze_statistics(self)
        return self

    def forward(self, mel: Tensor) -> Features:
        """(B, 1, F, bands) -> [(B, F_i, M_i, C_i)]."""
        frames, bands = mel.shape[2:]
        if bands != self.bands:
            raise UserError(
                f'audio: the mel has {bands} bands, Cnn14 expects {self.bands}; give data_preprocessor.bands and '
                'audio_backbone.bands the same number.'
            )
        if frames < self.least_frames:
            raise UserError(
                f'audio: {frames} mel frames are fewer than the {self.least_frames} that Cnn14 pools into one step; '
                'take longer clips.'
            )
        x = self.norm(mel.transpose(1, 3)).transpose(1, 3)
        features: Features = []
        for block in self.blocks:
            x = run_checkpointed(block, x) if self.gradient_checkpointing else block(x)
            features.append(rearrange(x, 'b c t m -> b t m c'))
        if self.fc is not None:
            features[-1] = self._summarise(x, self.fc)
        return features

    def _summarise(self, x: Tensor, fc: nn.Linear) -> Tensor:
        """(B, C, T, M) -> (B, T, 1, C)."""
        x = x.mean(dim=3)
        x = F.max_pool1d(x, 3, stride=1, padding=1) + F.avg_pool1d(x, 3, stride=1, padding=1)
        x = F.dropout(x.transpose(1, 2), self.summary_dropout, self.training)
        # Twice with the same weights: so the released code does, and so its weights were trained.
        return fc(fc(x).relu()).relu()[:, :, None]
