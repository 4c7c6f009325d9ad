"""Retrieval figures as pure functions of embeddings."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gmscavp.evaluation.reranking import FirstPlaces, reranked

# Equal items must tie although matrix products round differently at different places of a block.
TIE = 1e-6
RECALLS = (1, 5, 10)
DIRECTIONS = ('v2a', 'a2v')
CHUNK = 512

Similarity = Callable[[Tensor, Tensor], Tensor]
"""Embeddings of videos (N, E) and of audios (M, E) -> (N, M), greater for what is more alike."""


def inner_product(video: Tensor, audio: Tensor) -> Tensor:
    """(N, E), (M, E) -> (N, M)."""
    return video @ audio.T


def retrieval_ranks(
    query: Tensor, gallery: Tensor, chunk: int = CHUNK, similarity: Similarity = inner_product
) -> Tensor:
    """The place of the right item when the gallery is sorted by similarity to each query; query i belongs to item i.

    (N, E), (N, E) -> (N,) int64 from 1. A tie (within 1e-6) counts against the query. Holds `chunk` rows of the
    similarity matrix at a time. Raises ValueError for embeddings that are not finite, which would otherwise win every
    comparison.
    """
    _demand_pairs(query, gallery)
    return torch.cat([ranks_of_rows(similarity(query[i : i + chunk], gallery), i) for i in range(0, len(query), chunk)])


def ranks_of_rows(scores: Tensor, first: int) -> Tensor:
    """Ranks of the right items in rows first, first + 1, ... of a similarity matrix: (B, N) -> (B,) int64 from 1."""
    own = scores.diagonal(first)[:, None]
    return torch.count_nonzero(scores >= own - TIE, dim=1)


def two_way_ranks(
    video: Tensor, audio: Tensor, chunk: int = CHUNK, similarity: Similarity = inner_product
) -> tuple[Tensor, Tensor]:
    """`retrieval_ranks` of both directions, v2a and a2v, from one pass over the similarity matrix: (N,), (N,)."""
    _demand_pairs(video, audio)
    # Of small blocks on the diagonal: a column is compared with its own item before the pass has come to that row.
    own = torch.cat([similarity(v, a).diagonal() for v, a in zip(video.split(64), audio.split(64), strict=True)])
    v2a, a2v = torch.zeros_like(own, dtype=torch.int64), torch.zeros_like(own, dtype=torch.int64)
    for start in range(0, len(video), chunk):
        rows = slice(start, start + chunk)
        scores = similarity(video[rows], audio)
        # Blocks of another size round otherwise; the right item is never behind itself.
        scores.diagonal(start).copy_(own[rows])
        v2a[rows] = torch.count_nonzero(scores >= own[rows, None] - TIE, dim=1)
        a2v += torch.count_nonzero(scores >= own - TIE, dim=0)
    return v2a, a2v


def _demand_pairs(query: Tensor, gallery: Tensor) -> None:
    if len(query) != len(gallery):
        raise ValueError(f'every query needs its item: {tuple(query.shape)} queries, {tuple(gallery.shape)} items.')
    if not (torch.isfinite(query).all() and torch.isfinite(gallery).all()):
        raise ValueError('embeddings are not finite.')


def recall_at(ranks: Tensor, k: int) -> float:
    """Percent of the queries whose right item is among the first k."""
    return 100 * (ranks <= k).double().mean().item()


def chance_recall(items: int, k: int) -> float:
    """Percent that a random order reaches at k."""
    return 100 * min(k, items) / items


def direction_figures(ranks: Tensor) -> dict[str, float]:
    """R1, R5, R10 in percent, MedR (the mean of the two middle ranks for an even number) and MeanR."""
    recalls = {f'R{k}': recall_at(ranks, k) for k in RECALLS}
    return recalls | {'MedR': ranks.double().quantile(0.5).item(), 'MeanR': ranks.double().mean().item()}


def rank_figures(v2a: Tensor, a2v: Tensor) -> dict[str, float]:
    """All figures of the ranks of both directions: v2a_*, a2v_*, mean_R1, N and what chance gives."""
    figures = {f'v2a_{name}': value for name, value in direction_figures(v2a).items()}
    figures |= {f'a2v_{name}': value for name, value in direction_figures(a2v).items()}
    figures |= {'mean_R1': (figures['v2a_R1'] + figures['a2v_R1']) / 2, 'N': len(v2a)}
    return figures | {f'chance_R{k}': chance_recall(len(v2a), k) for k in RECALLS}


@dataclass(frozen=True)
class Gallery:
    """The clips of an evaluation with their embeddings (N, E) of both sides; clip i's video belongs to clip i's audio.

    score: the model's own similarity of embeddings. video_query, audio_query: (N, E), what is searched with where that
    is not the embedding itself. first_places: direction -> candidates that were ranked anew.
    """

    clip_ids: list[str]
    video: Tensor
    audio: Tensor
    score: Similarity = inner_product
    video_query: Tensor | None = None
    audio_query: Tensor | None = None
    first_places: Mapping[str, FirstPlaces] = field(default_factory=dict)

    def rows(self, direction: str, start: int, stop: int) -> Tensor:
        """What queries start..stop of a direction score all items: (stop - start, N)."""
        if direction == 'v2a':
            query = self.video if self.video_query is None else self.video_query
            scores = self.score(query[start:stop], self.audio)
        else:
            query = self.audio if self.audio_query is None else self.audio_query
            scores = self.score(self.video, query[start:stop]).T
        first = self.first_places.get(direction)
        return scores if first is None else reranked(scores, first.candidates[start:stop], first.error[start:stop])

    def ranks(self, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
        """Ranks of the right items, v2a and a2v: (N,), (N,)."""
        if self.video_query is None and self.audio_query is None and not self.first_places:
            v2a, a2v = two_way_ranks(self.video, self.audio, chunk, self.score)
        else:
            starts = range(0, len(self.video), chunk)
            v2a, a2v = (
                torch.cat([ranks_of_rows(self.rows(way, start, start + chunk), start) for start in starts])
                for way in DIRECTIONS
            )
        return v2a.cpu(), a2v.cpu()

    def similarity(self, most: int | None = None) -> np.ndarray:
        """(N, N) rows video, columns audio, before any ranking anew; with `most` at most (most, most) means of blocks."""
        total = len(self.clip_ids)
        if most is None or total <= most:
            parts = [self.score(part, self.audio).float().cpu().numpy() for part in self.video.split(CHUNK)]
            return np.concatenate(parts)
        edges = np.linspace(0, total, most + 1).astype(int)
        means = np.empty((most, most), np.float32)
        for row, (start, stop) in enumerate(itertools.pairwise(edges)):
            column_means = self.score(self.video[start:stop], self.audio).float().mean(dim=0).cpu().numpy()
            means[row] = np.add.reduceat(column_means, edges[:-1]) / np.diff(edges)
        return means

    def ordered(self, order: Tensor) -> 'Gallery':
        """The embeddings of the clips `order` (numbers of clips) alone, in that order; for pictures."""
        clip_ids = [self.clip_ids[int(number)] for number in order]
        return Gallery(clip_ids, self.video[order], self.audio[order], self.score)


def retrieval_figures(gallery: Gallery) -> dict[str, float]:
    """All figures of both directions: v2a_*, a2v_*, mean_R1, N and what chance gives."""
    return rank_figures(*gallery.ranks())
