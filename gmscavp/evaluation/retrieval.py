"""Retrieval figures as pure functions of embeddings."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gmscavp.evaluation.one_pass import (
    CHUNK,
    TIE,
    Similarity,
    demand_pairs,
    inner_product,
    two_way_best,
    two_way_ranks,
    wide,
)
from gmscavp.evaluation.reranking import FirstPlaces, best_candidates, reranked

RECALLS = (1, 5, 10)
DIRECTIONS = ('v2a', 'a2v')


def retrieval_ranks(
    query: Tensor, gallery: Tensor, chunk: int = CHUNK, similarity: Similarity = inner_product
) -> Tensor:
    """The place of the right item when the gallery is sorted by similarity to each query; query i belongs to item i.

    (N, E), (N, E) -> (N,) int64 from 1. A tie (within 1e-6) counts against the query. Holds `chunk` rows of the
    similarity matrix at a time. Raises ValueError for embeddings that are not finite, which would otherwise win every
    comparison.
    """
    demand_pairs(query, gallery)
    query, gallery = wide(query), wide(gallery)
    return torch.cat([ranks_of_rows(similarity(query[i : i + chunk], gallery), i) for i in range(0, len(query), chunk)])


def ranks_of_rows(scores: Tensor, first: int) -> Tensor:
    """Ranks of the right items in rows first, first + 1, ... of a similarity matrix: (B, N) -> (B,) int64 from 1."""
    own = scores.diagonal(first)[:, None]
    return torch.count_nonzero(scores >= own - TIE, dim=1)


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

    @property
    def plain(self) -> bool:
        """Whether both directions read the same scores: no queries of their own, nothing ranked anew."""
        return self.video_query is None and self.audio_query is None and not self.first_places

    def ranks(self, chunk: int = CHUNK, spread: bool = False) -> tuple[Tensor, Tensor]:
        """Ranks of the right items, v2a and a2v: (N,), (N,). spread: as of `two_way_ranks`, where the gallery is plain."""
        if self.plain:
            v2a, a2v = two_way_ranks(self.video, self.audio, chunk, self.score, spread)
        else:
            starts = range(0, len(self.video), chunk)
            v2a, a2v = (
                torch.cat([ranks_of_rows(self.rows(way, start, start + chunk), start) for start in starts])
                for way in DIRECTIONS
            )
        return v2a.cpu(), a2v.cpu()

    def candidates(self, k: int, chunk: int = CHUNK, spread: bool = False) -> dict[str, Tensor]:
        """The numbers of the min(k, N) best items of every query, by direction: (N, min(k, N)); spread: as of `ranks`."""
        if self.plain:
            best = two_way_best(self.video, self.audio, k, chunk, self.score, spread)
            return {way: of.items.cpu() for way, of in zip(DIRECTIONS, best, strict=True)}
        starts = range(0, len(self.video), chunk)
        return {
            way: torch.cat([best_candidates(self.rows(way, start, start + chunk), k) for start in starts])
            for way in DIRECTIONS
        }

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
