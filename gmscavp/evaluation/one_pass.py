"""Ranks and best matches of both directions from one pass over the similarity matrix.

The matrix is worked out tile by tile, chunk x 4 chunk scores, each tile once, for its rows (v2a) and for its columns (a2v).
Beside embeddings and answers only one tile is held: with the usual chunk of 512, 1,048,576 scores, 6 MB for ranks and 40 MB
for best matches, whatever the number of clips. Tiles lie the same however many processes share them, so that scores,
and with them answers, are the same to the bit.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gmscavp.distributed import gather_objects, world

# Equal items must tie although matrix products round differently at different places of a block.
TIE = 1e-6
CHUNK = 512
_WIDTH = 4
# Blocks on the diagonal from which the scores of right items are taken.
_BLOCK = 64
_LOW = 2**32 - 1
_NOTHING = -(2**63)

Similarity = Callable[[Tensor, Tensor], Tensor]
"""Embeddings of videos (N, E) and of audios (M, E) -> (N, M), greater for what is more alike, each pair by itself."""


class Best(NamedTuple):
    """The best items of every query, best first: scores (N, k) float32, and numbers of items (N, k) int64."""

    scores: Tensor
    items: Tensor


def inner_product(video: Tensor, audio: Tensor) -> Tensor:
    """(N, E), (M, E) -> (N, M)."""
    return video @ audio.T


def wide(embeddings: Tensor) -> Tensor:
    """Of half precision, float32: sums of products in half precision would be coarser than a tie."""
    return embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings


def demand_pairs(query: Tensor, gallery: Tensor) -> None:
    """ValueError: not as many items as queries, or embeddings that are not finite, which would win every comparison."""
    if len(query) != len(gallery):
        raise ValueError(f'every query needs its item: {tuple(query.shape)} queries, {tuple(gallery.shape)} items.')
    if not (torch.isfinite(query).all() and torch.isfinite(gallery).all()):
        raise ValueError('embeddings are not finite.')


def two_way_ranks(
    video: Tensor, audio: Tensor, chunk: int = CHUNK, similarity: Similarity = inner_product, spread: bool = False
) -> tuple[Tensor, Tensor]:
    """`retrieval_ranks` of both directions, v2a and a2v: (N, E), (N, E) -> (N,), (N,) int64 from 1.

    spread: every process of the group calls this with the same embeddings, works out its share of the matrix's rows and
    gets the whole answer. Raises ValueError as `demand_pairs`.
    """
    demand_pairs(video, audio)
    own = _own_scores(video, audio, similarity)
    least = own - TIE
    v2a, a2v = torch.zeros_like(own, dtype=torch.int64), torch.zeros_like(own, dtype=torch.int64)
    for rows, columns, scores in _tiles(video, audio, own, chunk, similarity, spread):
        v2a[rows] += (scores >= least[rows, None]).sum(dim=1, dtype=torch.int32)
        a2v[columns] += (scores >= least[columns]).sum(dim=0, dtype=torch.int32)
    if spread:
        parts = zip(*gather_objects((v2a.cpu(), a2v.cpu())), strict=True)
        v2a, a2v = (torch.stack(part).sum(dim=0).to(own.device) for part in parts)
    return v2a, a2v


def two_way_best(
    video: Tensor,
    audio: Tensor,
    k: int,
    chunk: int = CHUNK,
    similarity: Similarity = inner_product,
    spread: bool = False,
) -> tuple[Best, Best]:
    """The min(k, N) best items of every query of both directions, v2a and a2v; query i belongs to item i.

    (N, E), (N, E) -> two of (N, min(k, N)). Ties are resolved as in the ranks: the right item stands behind all within
    1e-6 of it, so that it is found at the place that is its rank; other items that score the same stand in the order of
    their numbers. spread, ValueError: as of `two_way_ranks`; also for k below 1.
    """
    demand_pairs(video, audio)
    if k < 1:
        raise ValueError(f'k must be 1 or more, not {k}.')
    own = _own_scores(video, audio, similarity).float()
    # The right item's number is the query's, so that its low half is free to say: behind all others.
    own_keys = _high(own - TIE)
    v2a = own_keys.new_full((len(own), min(k, len(own))), _NOTHING)
    a2v = v2a.clone()
    for rows, columns, scores in _tiles(video, audio, own, chunk, similarity, spread):
        high = _high(scores.float())
        for held, queries, keys in (
            (v2a, rows, high + _low(columns, high)),
            (a2v, columns, high + _low(rows, high)[:, None]),
        ):
            _set_own(keys, own_keys, rows, columns)
            held[queries] = _merged(held[queries], keys if held is v2a else keys.T.contiguous())
    if spread:
        of_rows, of_columns = zip(*gather_objects((v2a.cpu(), a2v.cpu())), strict=True)
        # A row is one process's alone, in all others it is nothing.
        v2a = torch.stack(of_rows).amax(dim=0).to(own.device)
        a2v = torch.cat(of_columns, dim=1).topk(v2a.shape[1], dim=1).values.to(own.device)
    return _unpacked(v2a, own), _unpacked(a2v, own)


def share_of(pieces: int, spread: bool = True) -> range:
    """Which of so many pieces of work are this process's; all, where they are not spread."""
    rank, ranks = world() if spread else (0, 1)
    return range(rank * pieces // ranks, (rank + 1) * pieces // ranks)


def _own_scores(video: Tensor, audio: Tensor, similarity: Similarity) -> Tensor:
    """What every query scores with its right item: (N,)."""
    # A column is compared with its own item before the pass has come to that row.
    blocks = zip(video.split(_BLOCK), audio.split(_BLOCK), strict=True)
    return torch.cat([similarity(wide(v), wide(a)).diagonal() for v, a in blocks])


def _tiles(
    video: Tensor, audio: Tensor, own: Tensor, chunk: int, similarity: Similarity, spread: bool
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and scores of every tile of this process's rows."""
    total = len(video)
    for piece in share_of(-(-total // chunk), spread):
        rows = slice(piece * chunk, min((piece + 1) * chunk, total))
        query = wide(video[rows])
        for first in range(0, total, _WIDTH * chunk):
            columns = slice(first, min(first + _WIDTH * chunk, total))
            scores = similarity(query, wide(audio[columns]))
            # Blocks of another size round otherwise; the right item is never behind itself.
            _set_own(scores, own, rows, columns)
            yield rows, columns, scores


def _set_own(tile: Tensor, own: Tensor, rows: slice, columns: slice) -> None:
    """Put the values of right items where they stand in a tile, if any do."""
    first, last = max(rows.start, columns.start), min(rows.stop, columns.stop)
    if first < last:
        square = tile[first - rows.start : last - rows.start, first - columns.start : last - columns.start]
        square.diagonal().copy_(own[first:last])


def _high(scores: Tensor) -> Tensor:
    """Scores float32 as whole numbers in the same order, in the upper 32 bits of int64; the lower ones are zero."""
    # Zero has two signs, and one place in the order.
    bits = (scores + 0.0).view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32


def _low(items: slice, like: Tensor) -> Tensor:
    """Lower 32 bits by which items of equal scores stand in the order of their numbers: (M,) int64 from 1."""
    return _LOW - torch.arange(items.start, items.stop, device=like.device)


def _merged(held: Tensor, keys: Tensor) -> Tensor:
    """The greatest of what is held (B, k) and of keys (B, M), falling: (B, k)."""
    k = held.shape[1]
    return torch.cat([held, keys.topk(min(k, keys.shape[1]), dim=1).values], dim=1).topk(k, dim=1).values


def _unpacked(keys: Tensor, own: Tensor) -> Best:
    high, low = (keys >> 32).int(), keys & _LOW
    scores = (high ^ ((high >> 31) & 0x7FFFFFFF)).view(torch.float32)
    query = torch.arange(len(keys), device=keys.device)[:, None]
    return Best(torch.where(low == 0, own[:, None], scores), torch.where(low == 0, query, _LOW - low))
