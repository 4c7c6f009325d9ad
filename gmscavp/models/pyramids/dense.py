"""Tokens that keep their places: where in the picture a sound comes from."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from gmscavp.errors import UserError
from gmscavp.models.pyramids.base import ScalePyramid, cell_count, chosen_stages, pool_cells, pool_time, square_side
from gmscavp.registry import PYRAMIDS
from gmscavp.structures import Features, Pyramid


@PYRAMIDS.register_module()
class DensePyramid(ScalePyramid):
    """One scale whose tokens keep their places: [(B, L, P, D)], for a head that compares cells with the sound.

    places='image': P = grid^2, one token a cell. places='bands': P = 1, a token holds the `grid` bands of its window.
    lengths: [L]. in_channels: the backbone's channels per stage, middle: where in its cell a place of it looks (both filled
    in by the model). stages: those that are summed, a coarse one repeated over the cells it covers; negative ones count
    from the last. detail: tokens hold what differs from the clip's mean in their cell, so that what stands still gives
    the same token everywhere.
    """

    keeps_places = True

    def __init__(
        self,
        in_channels: list[int],
        dim: int,
        lengths: list[int],
        places: str,
        grid: int,
        stages: list[int] = [-1],  # noqa: B006  (never written to)
        width: int | None = None,
        detail: bool = True,
        middle: float = 0.5,
    ) -> None:
        super().__init__()
        if len(lengths) != 1:
            raise UserError(f'DensePyramid has one scale; give lengths one number, not {list(lengths)}.')
        self.in_channels, self.dim, self.lengths = list(in_channels), dim, list(lengths)
        self.grid, self.places, self.detail, self.middle = grid, places, detail, middle
        self.stages = chosen_stages(stages, len(in_channels))
        width, beside = width or dim, cell_count(grid, places) if places == 'bands' else 1
        self.laterals = nn.ModuleList(nn.Linear(in_channels[i] * beside, width) for i in self.stages)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, dim))

    def forward(self, features: Features) -> Pyramid:
        """[(B, T_i, P_i, C_i)] -> [(B, L, P, D)]."""
        pooled = [self._cells(features[i]) for i in self.stages]
        x = self.norm(sum(linear(cells) for linear, cells in zip(self.laterals, pooled, strict=True)))
        return [self.project(x - x.mean(dim=1, keepdim=True) if self.detail else x)]

    def _cells(self, features: Tensor) -> Tensor:
        """(B, T, P, C) -> (B, L, grid^2, C) of an image, (B, L, 1, grid * C) of bands."""
        if self.places == 'bands':
            cells = rearrange(pool_cells(features, self.grid, self.places), 'b t g c -> b t 1 (g c)')
        else:
            side = square_side(features.shape[2])
            shares = cover_shares(side, self.grid, self.middle, features.device).to(features.dtype)
            image = rearrange(features, 'b t (h w) c -> b t h w c', h=side)
            cells = torch.einsum('gh,kw,bthwc->btgkc', shares, shares, image).flatten(2, 3)
        places = cells.shape[2]
        windows = pool_time(rearrange(cells, 'b t p c -> b t (p c)'), self.lengths[0])
        return rearrange(windows, 'b l (p c) -> b l p c', p=places)


def cover_shares(places: int, grid: int, middle: float, device: torch.device | None = None) -> Tensor:
    """Which share of every cell of a grid each place in a row covers: (grid, places), rows that add up to 1.

    Place i looks at (i + middle) / places of the row and covers what is nearest to that. With middle=0.5 it is averaging,
    or repeating where the grid is finer.
    """
    # Made where it is used: a copy from the host would be waited for.
    ends = (torch.arange(places + 1, device=device) + middle - 0.5) / places
    ends[0], ends[-1] = -math.inf, math.inf
    edges = torch.arange(grid + 1, device=device) / grid
    low = torch.maximum(edges[:-1, None], ends[:-1])
    high = torch.minimum(edges[1:, None], ends[1:])
    return grid * (high - low).clamp(min=0)
