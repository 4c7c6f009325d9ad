"""What all pyramids share: the interface and the pooling over places and time."""

import math
from abc import ABC, abstractmethod

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.structures import Features, Pyramid


class ScalePyramid(nn.Module, ABC):
    """Features of a backbone -> tokens of every scale, fine to coarse.

    lengths: L_s, tokens a scale. dim: D, width of a token. Token l of scale s covers the l-th L_s-th of the clip.
    """

    lengths: list[int]
    dim: int

    @abstractmethod
    def forward(self, features: Features) -> Pyramid:
        """[(B, T_i, P_i, C_i)] -> [(B, L_s, D)]."""


def pool_places(features: Tensor, grid: int, places: str) -> Tensor:
    """Average the places into a coarse grid: grid x grid cells of a square image, or `grid` bands of a spectrogram.

    (B, T, P, C) -> (B, T, G * C), G = grid^2 for places='image', grid for places='bands'. Lazebnik et al. 2006.
    """
    steps, count = features.shape[1:3]
    if places == 'bands':
        plane, cells = (count, 1), (grid, 1)
    else:
        side = math.isqrt(count)
        if side * side != count:
            raise UserError(f"places='image' needs a square picture; the backbone gives {count} cells.")
        plane, cells = (side, side), (grid, grid)
    x = rearrange(features, 'b t (h w) c -> b (t c) h w', h=plane[0])
    return rearrange(F.adaptive_avg_pool2d(x, cells), 'b (t c) h w -> b t (c h w)', t=steps)


def pool_time(x: Tensor, length: int) -> Tensor:
    """Average windows of time: (B, T, C) -> (B, length, C); window l covers the l-th part of the clip."""
    if x.shape[1] < length:
        raise UserError(
            f'the backbone gives {x.shape[1]} time steps, the pyramid asks for {length}; '
            "shorten the pyramid's lengths or raise the frame rate."
        )
    return F.adaptive_avg_pool1d(x.transpose(1, 2), length).transpose(1, 2)


class SpatialPyramidPooling(nn.Module):
    """Sum over grids g of a linear map of the places pooled to g. (B, T, P, C) -> (B, T, width)."""

    def __init__(self, channels: int, width: int, grids: list[int], places: str) -> None:
        super().__init__()
        if places not in ('image', 'bands'):
            raise UserError(f"places must be 'image' or 'bands', not '{places}'.")
        self.grids, self.places = grids, places
        cells = [grid if places == 'bands' else grid * grid for grid in grids]
        self.maps = nn.ModuleList(nn.Linear(count * channels, width) for count in cells)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, P, C) -> (B, T, width)."""
        pooled = (pool_places(features, grid, self.places) for grid in self.grids)
        return torch.stack([linear(x) for linear, x in zip(self.maps, pooled, strict=True)]).sum(0)


class ToScales(nn.Module):
    """Window pooling to every length, then a linear map of its own. (B, T, C) -> [(B, L_s, D)].

    detail: tokens of a scale with several windows hold what differs from the clip's mean. What a clip shows throughout
    then stands in the coarsest scale alone, and the finer ones can only agree on when things happen.
    """

    def __init__(self, width: int, dim: int, lengths: list[int], detail: bool = False) -> None:
        super().__init__()
        self.lengths, self.detail = lengths, detail
        self.maps = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim)) for _ in lengths)

    def forward(self, x: Tensor) -> Pyramid:
        """(B, T, C) -> [(B, L_s, D)]."""
        mean = x.mean(dim=1, keepdim=True)
        pooled = (pool_time(x, length) - (mean if self.detail and length > 1 else 0) for length in self.lengths)
        return [project(tokens) for project, tokens in zip(self.maps, pooled, strict=True)]
