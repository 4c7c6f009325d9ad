"""Convolutional encoder and decoder of pictures with any number of channels: frames, or a log-mel as a picture.

Every layer looks at a bounded neighbourhood, norms included, so that a part of a long signal is coded as the whole is,
but for the edges, and windows fit together.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.errors import UserError

Stride = tuple[int, int]


class PlaceNorm(nn.Module):
    """Root mean square over the channels of every place to one, times a learned gain: (N, C, H, W) -> the same.

    Zhang and Sennrich 2019, over channels only.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x * ((x * x).mean(1, keepdim=True) + 1e-6).rsqrt() * self.gain


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a residual: (N, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            PlaceNorm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x + self.branch(x)


class Encoder(nn.Module):
    """(N, channels, H, W) -> (N, out_channels, H / S_h, W / S_w) with S the product of all strides.

    strides, widths: (rows, columns) and channels of every stage. The first stage takes patches of its stride as they are;
    every further one halves (or what its stride says) by a convolution. blocks: residual blocks a stage. Beside all of it
    stands one linear map of whole patches, which by itself learns the principal components within a few steps.
    """

    def __init__(
        self, channels: int, out_channels: int, strides: Sequence[Stride], widths: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        self.patch = strides[0]
        layers: list[nn.Module] = [nn.Conv2d(channels * math.prod(self.patch), widths[0], 3, padding=1)]
        for stage, width in enumerate(widths):
            if stage:
                layers.append(nn.Conv2d(widths[stage - 1], width, 3, stride=strides[stage], padding=1))
            layers += [ResidualBlock(width) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, PlaceNorm(widths[-1]), nn.Conv2d(widths[-1], out_channels, 1))
        whole = product(strides)
        self.linear = nn.Conv2d(channels, out_channels, whole, stride=whole, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, out_channels, H / S_h, W / S_w)."""
        p, q = self.patch
        return self.linear(x) + self.layers(rearrange(x, 'n c (h p) (w q) -> n (c p q) h w', p=p, q=q))


class Decoder(nn.Module):
    """(N, channels, H, W) -> (N, out_channels, H S_h, W S_w): the encoder's stages backwards.

    A place is repeated and then convolved, and only the last stage gives patches: no chequerboards in between. The linear
    map stands beside it here too.
    """

    def __init__(
        self, channels: int, out_channels: int, strides: Sequence[Stride], widths: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        self.patch = strides[0]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[-1], 3, padding=1)]
        for stage in reversed(range(len(widths))):
            layers += [ResidualBlock(widths[stage]) for _ in range(blocks)]
            if stage:
                layers += [Repeat(strides[stage]), nn.Conv2d(widths[stage], widths[stage - 1], 3, padding=1)]
        last = nn.Conv2d(widths[0], out_channels * math.prod(self.patch), 3, padding=1)
        self.layers = nn.Sequential(*layers, PlaceNorm(widths[0]), nn.SiLU(), last)
        whole = product(strides)
        self.linear = nn.ConvTranspose2d(channels, out_channels, whole, stride=whole, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, out_channels, H S_h, W S_w)."""
        p, q = self.patch
        return self.linear(x) + rearrange(self.layers(x), 'n (c p q) h w -> n c (h p) (w q)', p=p, q=q)


class Repeat(nn.Module):
    """Every place as often as the stride says: (N, C, H, W) -> (N, C, H s_h, W s_w)."""

    def __init__(self, stride: Stride) -> None:
        super().__init__()
        self.factors = (float(stride[0]), float(stride[1]))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H s_h, W s_w)."""
        return F.interpolate(x, scale_factor=self.factors, mode='nearest')


@torch.no_grad()
def begin_certain(encoder: Encoder, log_variance: float = -6.0) -> None:
    """Let the second half of an encoder's channels, the log variance, begin low.

    With the unit variance of fresh weights the noise drowns the latents, and the first hundreds of steps are lost.
    """
    last: Any = encoder.layers[-1]
    half = len(last.bias) // 2
    last.bias[half:] = log_variance
    encoder.linear.weight[half:] = 0


def product(strides: Sequence[Stride]) -> Stride:
    """By how much all strides together divide rows and columns."""
    return math.prod(stride[0] for stride in strides), math.prod(stride[1] for stride in strides)


def checked_stages(owner: str, strides: Sequence[Sequence[int]], widths: Sequence[int]) -> list[Stride]:
    """The strides as pairs. UserError: not as many widths as strides, or a stride that is no pair of whole numbers."""
    pairs = [(int(stride[0]), int(stride[1])) for stride in strides if len(stride) == 2 and min(stride) >= 1]
    if not pairs or len(pairs) != len(strides) or len(widths) != len(strides):
        raise UserError(
            f'{owner}: strides are pairs of whole numbers from 1 on, and widths has as many entries; got strides '
            f'{[list(stride) for stride in strides]} and widths {list(widths)}.'
        )
    return pairs
