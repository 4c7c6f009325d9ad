"""Ranking the best candidates anew by a second, dearer judgement, such as a denoising error."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gmscavp.structures import Pyramid

# Errors as near as this tie, and a tie counts against the query.
ERROR_TIE = 1e-6


class FirstPlaces(NamedTuple):
    """The k best items of every query, (N, k) numbers of items, and the error of each, (N, k): lower is better."""

    candidates: Tensor
    error: Tensor


def reranked(scores: Tensor, candidates: Tensor, error: Tensor) -> Tensor:
    """Scores after which the candidates stand first, by rising error, and the others as before behind them.

    (B, N) scores, (B, k) numbers of items, (B, k) errors -> (B, N). Equal errors give equal scores.
    """
    better = error[:, None, :] < error[:, :, None] - ERROR_TIE
    place = better.sum(dim=2)
    top = scores.amax(dim=1, keepdim=True)
    # Steps of one: scores of cosines leave no room in float32 for smaller ones to stay apart.
    return scores.scatter(1, candidates, top + error.shape[1] - place.to(scores.dtype))


def best_candidates(scores: Tensor, k: int) -> Tensor:
    """The numbers of the k greatest scores of each row: (B, N) -> (B, min(k, N)) int64."""
    return scores.topk(min(k, scores.shape[1]), dim=1).indices


def candidate_errors(
    matching_error: Callable[[Pyramid, Pyramid], Tensor],
    query: Pyramid,
    items: Pyramid,
    candidates: Tensor,
    batch: int = 256,
) -> Tensor:
    """How badly each query matches each of its candidates: (N, k).

    matching_error: tokens of B queries and of B items -> (B,), lower is better. query, items: [(N, L_s, D)].
    candidates: (N, k) numbers of items. Works through `batch` pairs at a time.
    """
    queries = torch.arange(len(candidates)).repeat_interleave(candidates.shape[1])
    pairs = zip(queries.split(batch), candidates.flatten().split(batch), strict=True)
    errors = [matching_error([s[i] for s in query], [s[j] for s in items]).float().cpu() for i, j in pairs]
    return torch.cat(errors).view(candidates.shape)
