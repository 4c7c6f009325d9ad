"""Contrastive losses tile by tile: no (B, B) matrix is held, in either pass, and between ranks only features travel.

For every scale the logits are z_ij = f <v_i, a_j>, f = logit scale / steps. Forward keeps features and sums of exponentials
of rows and columns; backward computes the tiles again. Rows are this rank's videos and columns the sounds of all ranks, so
that each pair is computed once, on one rank, and serves both directions. Milakov and Gimelshein 2018 (running sums), Cheng
et al. 2024 (contrastive loss in tiles, over a ring of ranks).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gmscavp.distributed import Blocks, batch_sizes, every_rank, summed_exponentials, world
from gmscavp.errors import UserError

GATHER = ('all', 'ring')


def check_tiling(tile: int | None, gather: str) -> None:
    """Raise UserError for settings of a head that cannot be followed."""
    if tile is not None and (not isinstance(tile, int) or isinstance(tile, bool) or tile < 1):
        raise UserError(f'head: tile must be a number of clips from 1 on, or None for whole blocks; it is {tile!r}.')
    if gather not in GATHER:
        raise UserError(f"head: gather must be one of {', '.join(GATHER)}, not '{gather}'.")


def tiled_nce(
    video: Sequence[Tensor],
    audio: Sequence[Tensor],
    factors: Tensor,
    tile: int | None = None,
    ring: bool = False,
    ignore_within: int = 1,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """Match clips across the global batch, both directions, at every scale, as `semantic_nce` does: (S,).

    video, audio: of this rank, [(B_r, E_s)], a scale's unit tokens side by side. factors: logit scale / steps, (S,), above
    0. tile: rows and columns computed at once, None for all of a rank. ring: blocks travel between ranks instead of being
    gathered. ignore_within: of so many rows in succession the others are left out of a row's candidates. sizes: rows of
    every rank, where `batch_sizes` was asked before; they may differ, the mean over ranks is the mean over all rows.
    """
    plan = _Plan(sizes or batch_sizes(len(video[0])), tile, ring, ignore_within)
    return _TiledNCE.apply(plan, factors, *video, *audio)


def tiled_sigmoid(
    video: Sequence[Tensor],
    audio: Sequence[Tensor],
    factors: Tensor,
    biases: Tensor,
    tile: int | None = None,
    ring: bool = False,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """A yes-or-no question for every pair of this rank's videos and all ranks' sounds, as `sigmoid_loss`: (S,).

    Logits are z_ij + bias, biases (S,); the other arguments are those of `tiled_nce`.
    """
    plan = _Plan(sizes or batch_sizes(len(video[0])), tile, ring, ignore_within=1)
    return _TiledSigmoid.apply(plan, factors, biases, *video, *audio)


class _Tile(NamedTuple):
    """Logits of some rows and columns at one scale."""

    s: int
    i: slice  # rows, among this rank's
    j: slice  # columns, in their block
    column: slice  # the same columns, among all
    logits: Tensor
    right: bool  # the right pairs of these rows are its diagonal


class _Plan:
    """Which rows this rank has, and in what pieces it meets the others."""

    def __init__(self, sizes: Sequence[int], tile: int | None, ring: bool, ignore_within: int) -> None:
        self.sizes, self.ring, self.ignore_within = sizes, ring, ignore_within
        self.rank = world()[0]
        self.tile = tile or max(sizes)
        # What one row counts in this rank's loss, so that the mean over ranks is that over all rows.
        self.share = len(sizes) / sum(sizes)

    @property
    def own(self) -> slice:
        """This rank's place among all rows."""
        start = sum(self.sizes[: self.rank])
        return slice(start, start + self.sizes[self.rank])

    def tiles(self, video: Sequence[Tensor], block: Sequence[Tensor], owner: int, factors: Tensor) -> Iterator[_Tile]:
        """Every tile of this rank's rows and one rank's columns, at every scale."""
        start = sum(self.sizes[:owner])
        for i in _pieces(self.sizes[self.rank], self.tile):
            for j in _pieces(self.sizes[owner], self.tile):
                column = slice(start + j.start, start + j.stop)
                left_out = self._left_out(i, column, factors.device)
                for s, (v, a) in enumerate(zip(video, block, strict=True)):
                    logits = (v[i] @ a[j].T).mul_(factors[s])
                    if left_out is not None:
                        logits.masked_fill_(left_out, torch.finfo(logits.dtype).min)
                    yield _Tile(s, i, j, column, logits, owner == self.rank and i == j)

    def _left_out(self, i: slice, column: slice, device: torch.device) -> Tensor | None:
        """Which pairs are of one video and yet not the right ones; None for tiles far from the diagonal."""
        first, last, n = self.own.start + i.start, self.own.start + i.stop, self.ignore_within
        if n == 1 or first // n > (column.stop - 1) // n or (last - 1) // n < column.start // n:
            return None
        rows = torch.arange(first, last, device=device)[:, None]
        columns = torch.arange(column.start, column.stop, device=device)
        return (rows // n == columns // n) & (rows != columns)


def _pieces(rows: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, rows)) for start in range(0, rows, tile)]


class _Sums:
    """Running sums of exponentials, total * exp(top), for every scale and row (or column).

    Top and total stay apart: their log-sum-exp is rounded where it is large, and its error would be that of every
    probability.
    """

    def __init__(self, scales: int, rows: int, like: Tensor) -> None:
        # Finite, since what is left out may be all that a tile has, and an infinite top has no difference.
        self.top = like.new_full((scales, rows), torch.finfo(like.dtype).min)
        self.total = like.new_zeros(scales, rows)

    def add(self, s: int, rows: slice, logits: Tensor, dim: int) -> None:
        """Take in logits, summed over `dim`."""
        top, total = self.top[s, rows], self.total[s, rows]
        higher = torch.maximum(top, logits.amax(dim))
        new = (logits - higher.unsqueeze(dim)).exp_().sum(dim)
        total.mul_(torch.exp(top - higher)).add_(new)
        top.copy_(higher)


class _TiledNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, factors: Tensor, *parts: Tensor) -> Tensor:
        video, audio = parts[: len(factors)], parts[len(factors) :]
        rows, columns = (_Sums(len(factors), n, factors) for n in (len(video[0]), sum(plan.sizes)))
        right = torch.empty_like(rows.top)
        for owner, block in Blocks(audio, plan.sizes, plan.ring):
            for t in plan.tiles(video, block, owner, factors):
                rows.add(t.s, t.i, t.logits, 1)
                columns.add(t.s, t.column, t.logits, 0)
                if t.right:
                    right[t.s, t.i] = t.logits.diagonal()
        top, total = summed_exponentials(columns.top, columns.total)
        ctx.plan = plan
        ctx.save_for_backward(factors, rows.top, rows.total, top, total, *parts)
        v2a = (rows.top - right) + rows.total.log()
        a2v = (top[:, plan.own] - right) + total[:, plan.own].log()
        return (v2a + a2v).sum(1) * (plan.share / 2)

    @staticmethod
    @once_differentiable
    @torch.autocast('cuda', enabled=False)
    @torch.autocast('cpu', enabled=False)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        factors, row_top, row_total, top, total, *parts = ctx.saved_tensors
        plan, video, audio = ctx.plan, parts[: len(factors)], parts[len(factors) :]
        # A column counts in the loss of the rank that owns it.
        weights = every_rank(grad * (plan.share / 2))
        own = weights[plan.rank]
        d_video, d_factors = [torch.zeros_like(v) for v in video], torch.zeros_like(row_top)
        d_audio: list[Tensor] = []
        for owner, block, d_block in Blocks(audio, plan.sizes, plan.ring).with_gradient(d_audio):
            for s, i, j, column, z, right in plan.tiles(video, block, owner, factors):
                g = (z - row_top[s, i, None]).exp_().mul_(own[s] / row_total[s, i, None])
                g += (z - top[s, column]).exp_().mul_(weights[owner][s] / total[s, column])
                if right:
                    g.diagonal().sub_(own[s] + weights[owner][s])
                d_factors[s, i] += (g * z).sum(1)
                _spread(g.mul_(factors[s]), video[s][i], block[s][j], d_video[s][i], d_block[s][j])
        return None, d_factors.sum(1) / factors, *d_video, *d_audio


class _TiledSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, factors: Tensor, biases: Tensor, *parts: Tensor) -> Tensor:
        video, audio = parts[: len(factors)], parts[len(factors) :]
        losses = factors.new_zeros(len(factors), len(video[0]))
        for owner, block in Blocks(audio, plan.sizes, plan.ring):
            for s, i, _, _, z, right in plan.tiles(video, block, owner, factors):
                losses[s, i] += F.softplus(_questions(z, biases[s], right)).sum(1)
        ctx.plan = plan
        ctx.save_for_backward(factors, biases, *parts)
        return losses.sum(1) * plan.share

    @staticmethod
    @once_differentiable
    @torch.autocast('cuda', enabled=False)
    @torch.autocast('cpu', enabled=False)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        factors, biases, *parts = ctx.saved_tensors
        plan, video, audio = ctx.plan, parts[: len(factors)], parts[len(factors) :]
        weights = grad * plan.share
        d_video = [torch.zeros_like(v) for v in video]
        d_factors, d_biases = (factors.new_zeros(len(factors), len(video[0])) for _ in range(2))
        d_audio: list[Tensor] = []
        for owner, block, d_block in Blocks(audio, plan.sizes, plan.ring).with_gradient(d_audio):
            for s, i, j, _, z, right in plan.tiles(video, block, owner, factors):
                g = _questions(z.clone(), biases[s], right).sigmoid_().mul_(weights[s])
                if right:
                    g.diagonal().neg_()
                d_biases[s, i] += g.sum(1)
                d_factors[s, i] += (g * z).sum(1)
                _spread(g.mul_(factors[s]), video[s][i], block[s][j], d_video[s][i], d_block[s][j])
        return None, d_factors.sum(1) / factors, d_biases.sum(1), *d_video, *d_audio


def _questions(logits: Tensor, bias: Tensor, right: bool) -> Tensor:
    """-z_ij (logit_ij + bias), z = 1 for right pairs and -1 for others, in place: (N, M)."""
    logits += bias
    if right:
        logits.diagonal().neg_()
    return logits


def _spread(g: Tensor, rows: Tensor, columns: Tensor, d_rows: Tensor, d_columns: Tensor) -> None:
    """Add what the gradient g of rows @ columns.T is for both: (N, M), (N, E), (M, E)."""
    d_rows.addmm_(g, columns)
    d_columns.addmm_(g.T, rows)
