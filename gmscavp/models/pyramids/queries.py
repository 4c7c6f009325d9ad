"""Tokens that ask: learned queries with cross-attention to the features of their own window of time."""

import torch
from einops import rearrange
from torch import Tensor, nn

from gmscavp.errors import UserError
from gmscavp.models.layers import Attention, sinusoid
from gmscavp.models.pyramids.base import ScalePyramid, cell_count, demand_steps, pool_cells
from gmscavp.registry import PYRAMIDS
from gmscavp.structures import Features, Pyramid


def middles(count: int, device: torch.device) -> Tensor:
    """Where in the clip the middles of `count` equal windows lie: (count,) in (0, 1)."""
    return (torch.arange(count, device=device) + 0.5) / count


def window_mask(length: int, steps: int, device: torch.device | None = None) -> Tensor:
    """Which steps belong to which window: (length, steps) bool, the windows of `pool_time`, which share a step at odd T."""
    window, step = torch.arange(length, device=device)[:, None], torch.arange(steps, device=device)
    first = torch.div(window * steps, length, rounding_mode='floor')
    stop = -torch.div(-(window + 1) * steps, length, rounding_mode='floor')
    return (step >= first) & (step < stop)


class _Layer(nn.Module):
    """Cross-attention, then a network token by token, each with a residual. (B, N, W), (B, M, W) -> (B, N, W)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_query, self.norm_source = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, queries: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        queries = queries + self.attention(self.norm_query(queries), self.norm_source(source), mask)
        return queries + self.mlp(queries)


@PYRAMIDS.register_module()
class QueryPyramid(ScalePyramid):
    """One learned query a scale, placed at every window; each attends to the features of its own window of time.

    Jaegle et al. 2021 (Perceiver) and Li et al. 2023 (Q-Former), with the windows as mask, so that token l still covers
    the l-th L_s-th of the clip; queries do not see each other. The source are the cells of all grids over the places of
    the last stage, each with a learned embedding of its place and one of its time. in_channels: the backbone's channels
    per stage (filled in by the model). places: 'image' or 'bands'. depth: layers; heads: of the attention. detail: the
    queries of a scale with several windows see what differs from the clip's mean, as in ToScales.
    """

    def __init__(
        self,
        in_channels: list[int],
        dim: int,
        lengths: list[int],
        places: str,
        grids: list[int] = [1, 2, 4],  # noqa: B006  (never written to)
        width: int | None = None,
        depth: int = 1,
        heads: int = 4,
        detail: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.dim, self.lengths = list(in_channels), dim, list(lengths)
        self.grids, self.places, self.detail = list(grids), places, detail
        width = width or dim
        if width % heads or width % 2:
            raise UserError(f'QueryPyramid: width {width} does not divide into {heads} heads and pairs; change either.')
        self.embed_cells = nn.Linear(in_channels[-1], width)
        self.place = nn.Parameter(0.1 * torch.randn(sum(cell_count(grid, places) for grid in grids), width))
        self.queries = nn.Parameter(torch.randn(len(lengths), width))
        # Sinusoids at full size would drown what the cells hold.
        self.time_gain = nn.Parameter(torch.tensor(0.1))
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(depth))
        self.maps = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim)) for _ in lengths)

    def forward(self, features: Features) -> Pyramid:
        """[(B, T_i, P_i, C_i)] -> [(B, L_s, D)]."""
        x = features[-1]
        demand_steps(x.shape[1], max(self.lengths))
        cells = self.embed_cells(torch.cat([pool_cells(x, grid, self.places) for grid in self.grids], dim=2))
        changing = cells - cells.mean(dim=1, keepdim=True) if self.detail else cells
        tokens: Pyramid = []
        for query, length, project in zip(self.queries, self.lengths, self.maps, strict=True):
            tokens.append(project(self._ask(query, changing if length > min(self.lengths) else cells, length)))
        return tokens

    def _ask(self, query: Tensor, cells: Tensor, length: int) -> Tensor:
        """(W,), (B, T, G, W) -> (B, length, W): the answers of one scale."""
        clips, steps, places, width = cells.shape
        time = self.time_gain * sinusoid(middles(steps, cells.device), width).to(cells.dtype)
        source = rearrange(cells + self.place + time[:, None], 'b t g w -> b (t g) w')
        mask = window_mask(length, steps, cells.device).repeat_interleave(places, dim=1)
        asked = query + sinusoid(middles(length, cells.device), width).to(cells.dtype)
        answers = asked.expand(clips, -1, -1)
        for layer in self.layers:
            answers = layer(answers, source, mask)
        return answers
