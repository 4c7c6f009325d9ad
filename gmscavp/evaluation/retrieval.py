"""Retrieval figures as pure functions of embeddings."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Equal items must tie although matrix products round differently at different places of a block.
TIE = 1e-6
RECALLS = (1, 5, 10)


def retrieval_ranks(query: Tensor, gallery: Tensor, chunk: int = 1024) -> Tensor:
    """The place of the right item when the gallery is sorted by similarity to each query; query i belongs to item i.

    (N, E), (N, E) -> (N,) int64 from 1. Similarity is the inner product; a tie (within 1e-6) counts against the query.
    Holds `chunk` rows of the similarity matrix at a time. Raises ValueError for embeddings that are not finite, which
    would otherwise win every comparison.
    """
    if query.shape != gallery.shape:
        raise ValueError(f'every query needs its item: {tuple(query.shape)} queries, {tuple(gallery.shape)} items.')
    if not (torch.isfinite(query).all() and torch.isfinite(gallery).all()):
        raise ValueError('embeddings are not finite.')
    ranks = []
    for start in range(0, len(query), chunk):
        scores = query[start : start + chunk] @ gallery.T
        own = scores.diagonal(start)[:, None]
        ranks.append((scores >= own - TIE).sum(dim=1))
    return torch.cat(ranks)


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


@dataclass(frozen=True)
class Gallery:
    """The clips of an evaluation with their embeddings (N, E) of both sides; clip i's video belongs to clip i's audio."""

    clip_ids: list[str]
    video: Tensor
    audio: Tensor

    def similarity(self) -> np.ndarray:
        """(N, N) rows video, columns audio."""
        return (self.video @ self.audio.T).numpy()


def retrieval_figures(gallery: Gallery) -> dict[str, float]:
    """All figures of both directions: v2a_*, a2v_*, mean_R1, N and what chance gives."""
    items = len(gallery.clip_ids)
    figures: dict[str, float] = {}
    for direction, query, answer in (('v2a', gallery.video, gallery.audio), ('a2v', gallery.audio, gallery.video)):
        of_direction = direction_figures(retrieval_ranks(query, answer))
        figures |= {f'{direction}_{name}': value for name, value in of_direction.items()}
    figures['mean_R1'] = (figures['v2a_R1'] + figures['a2v_R1']) / 2
    figures['N'] = items
    return figures | {f'chance_R{k}': chance_recall(items, k) for k in RECALLS}
