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
    keeps_places: tokens are (B, L_s, P, D), which only a head that compares places can take.
    """

    lengths: list[int]
    dim: int
    keeps_places: bool = False

    @abstractmethod
    def forward(self, features: Features) -> Pyramid:
        """[(B, T_i, P_i, C_i)] -> [(B, L_s, D)]."""


def chosen_stages(stages: list[int] | None, count: int) -> list[int]:
    """Which of `count` stages of a backbone, as rising indices from 0; None is all. UserError: there is no such stage."""
    wanted = range(count) if stages is None else stages
    if not wanted or not all(-count <= stage < count for stage in wanted):
        raise UserError(f'stages: {stages} are not among the {count} stages of the backbone (0 to {count - 1}).')
    return sorted({stage % count for stage in wanted})


def cell_count(grid: int, places: str) -> int:
    """G, the places of a grid: grid^2 cells of an image, or `grid` bands of a spectrogram."""
    if places not in ('image', 'bands'):
        raise UserError(f"places must be 'image' or 'bands', not '{places}'.")
    return grid if places == 'bands' else grid * grid


def pool_cells(features: Tensor, grid: int, places: str) -> Tensor:
    """Average the places into a grid: grid x grid cells of a square image, or `grid` bands of a spectrogram.

    (B, T, P, C) -> (B, T, G, C), G = grid^2 for places='image', grid for places='bands'. Cells of a grid finer than the
    places repeat the place they lie in.
    """
    steps, count = features.shape[1:3]
    if places == 'bands':
        plane, cells = (count, 1), (grid, 1)
    else:
        side = square_side(count)
        plane, cells = (side, side), (grid, grid)
    x = rearrange(features, 'b t (h w) c -> b (t c) h w', h=plane[0])
    return rearrange(F.adaptive_avg_pool2d(x, cells), 'b (t c) h w -> b t (h w) c', t=steps)


def square_side(count: int) -> int:
    """How many cells of a square picture lie in a row. UserError: the picture is no square."""
    side = math.isqrt(count)
    if side * side != count:
        raise UserError(f"places='image' needs a square picture; the backbone gives {count} cells.")
    return side


def pool_places(features: Tensor, grid: int, places: str) -> Tensor:
    """The cells of `pool_cells` beside each other: (B, T, P, C) -> (B, T, C * G). Lazebnik et al. 2006."""
    return rearrange(pool_cells(features, grid, places), 'b t g c -> b t (c g)')


def demand_steps(steps: int, length: int) -> None:
    """Raise UserError when there are fewer time steps than tokens."""
    if steps < length:
        raise UserError(
            f'the backbone gives {steps} time steps, the pyramid asks for {length}; '
            "shorten the pyramid's lengths or raise the frame rate."
        )


def pool_time(x: Tensor, length: int) -> Tensor:
    """Average windows of time: (B, T, C) -> (B, length, C); window l covers the l-th part of the clip."""
    demand_steps(x.shape[1], length)
    return F.adaptive_avg_pool1d(x.transpose(1, 2), length).transpose(1, 2)


class SpatialPyramidPooling(nn.Module):
    """Sum over grids g of a linear map of the places pooled to g. (B, T, P, C) -> (B, T, width)."""

    def __init__(self, channels: int, width: int, grids: list[int], places: str) -> None:
        super().__init__()
        self.grids, self.places = grids, places
        self.maps = nn.ModuleList(nn.Linear(cell_count(grid, places) * channels, width) for grid in grids)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, P, C) -> (B, T, width)."""
        pooled = (pool_places(features, grid, self.places) for grid in self.grids)
        return torch.stack([linear(x) for linear, x in zip(self.maps, pooled, strict=True)]).sum(0)


class MultiResolution(nn.Module):
    """Parallel depth-wise separable convolutions over time with a residual. (B, T, C) -> (B, T, C)."""

    def __init__(self, width: int, kernels: list[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.depthwise = nn.ModuleList(nn.Conv1d(width, width, k, padding=k // 2, groups=width) for k in kernels)
        self.pointwise = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in kernels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        y = self.norm(x).transpose(1, 2)
        branches = [point(F.gelu(depth(y))) for depth, point in zip(self.depthwise, self.pointwise, strict=True)]
        return x + torch.stack(branches).sum(0).transpose(1, 2)


class ToScales(nn.Module):
    """Window pooling to every length, then a linear map of its own. (B, T, C) -> [(B, L_s, D)].

    detail: tokens of all scales but the coarsest hold what differs from the clip's mean. What a clip shows throughout then
    stands in the coarsest alone, and the finer ones can only agree on when things happen.
    """

    def __init__(self, width: int, dim: int, lengths: list[int], detail: bool = False) -> None:
        super().__init__()
        self.lengths, self.detail = lengths, detail
        self.maps = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim)) for _ in lengths)

    def forward(self, x: Tensor) -> Pyramid:
        """(B, T, C) -> [(B, L_s, D)]."""
        mean = x.mean(dim=1, keepdim=True)
        coarsest = min(self.lengths)
        pooled = (pool_time(x, length) - (mean if self.detail and length > coarsest else 0) for length in self.lengths)
        return [project(tokens) for project, tokens in zip(self.maps, pooled, strict=True)]
