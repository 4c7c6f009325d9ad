"""Retrieval by class: an item is relevant when it shares a label with the query."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gmscavp.distributed import gather_objects
from gmscavp.evaluation.one_pass import CHUNK, TIE, share_of
from gmscavp.evaluation.retrieval import DIRECTIONS, Gallery

NDCG_AT = 10


def hits_in_order(scores: Tensor, relevant: Tensor) -> Tensor:
    """Which places of the sorted gallery hold a relevant item: (B, N), (B, N) bool -> (B, N) bool, best place first.

    A tie (within 1e-6) counts against the query: the relevant item stands behind.
    """
    order = (scores - TIE * relevant).argsort(dim=1, descending=True)
    return relevant.gather(1, order)


def average_precision(hits: Tensor) -> Tensor:
    """(1/R) sum over the places k of relevant items of the share of relevant ones among the first k: (B, N) -> (B,).

    R is the number of relevant items in the gallery; nan without any. Manning et al. 2008, chapter 8.
    """
    hits = hits.float()
    place = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return (hits * hits.cumsum(dim=1) / place).sum(dim=1) / hits.sum(dim=1)


def ndcg(hits: Tensor, k: int = NDCG_AT) -> Tensor:
    """DCG / ideal DCG with binary gain: DCG = sum of 1 / log2(1 + place) over relevant places <= k: (B, N) -> (B,).

    The ideal order has its min(k, R) first places relevant; nan without any. Jarvelin and Kekalainen 2002.
    """
    k = min(k, hits.shape[1])
    gain = 1 / torch.log2(torch.arange(2, k + 2, device=hits.device, dtype=torch.float32))
    ideal = torch.cat([gain.new_zeros(1), gain.cumsum(0)])[hits.sum(dim=1).clamp(max=k)]
    return (hits[:, :k] * gain).sum(dim=1) / ideal


class Relevance:
    """Which clips share a label: rows of a matrix that is never held whole."""

    def __init__(self, labels: Sequence[Sequence[str]]) -> None:
        self.labels = labels
        members: dict[str, list[int]] = defaultdict(list)
        for number, names in enumerate(labels):
            for name in set(names):
                members[name].append(number)
        self._members = {name: torch.tensor(numbers) for name, numbers in members.items()}

    def rows(self, start: int, stop: int) -> Tensor:
        """(B, N) bool for the clips start..stop."""
        part = self.labels[start:stop]
        rows = torch.zeros(len(part), len(self.labels), dtype=torch.bool)
        for row, names in zip(rows, part, strict=True):
            for name in names:
                row[self._members[name]] = True
        return rows


def class_figures(
    gallery: Gallery, labels: Mapping[str, Sequence[str]], chunk: int = CHUNK, spread: bool = False
) -> dict[str, float]:
    """mAP over the whole gallery and nDCG10, both directions, in percent, and `labelled`, the queries with a label.

    Relevant is every item that shares a label with the query, its own counterpart included. Queries without a label are
    left out (their items stay in the gallery); without any labelled query there are no figures: {}. spread: as of
    `two_way_ranks`.
    """
    own = [labels.get(clip_id, ()) for clip_id in gallery.clip_ids]
    labelled = sum(map(bool, own))
    if not labelled:
        return {}
    relevance = Relevance(own)
    figures: dict[str, float] = {}
    starts = [chunk * piece for piece in share_of(-(-len(own) // chunk), spread)]
    for direction in DIRECTIONS:
        found = [torch.empty(2, 0)]
        for start in starts:
            scores = gallery.rows(direction, start, start + chunk)
            hits = hits_in_order(scores, relevance.rows(start, start + chunk).to(scores.device))
            found.append(torch.stack([average_precision(hits), ndcg(hits)]).cpu())
        of_all = torch.cat(found, dim=1)
        precision, gain = torch.cat(gather_objects(of_all) if spread else [of_all], dim=1).double()
        figures[f'{direction}_mAP'] = 100 * precision.nanmean().item()
        figures[f'{direction}_nDCG{NDCG_AT}'] = 100 * gain.nanmean().item()
    return figures | {'labelled': labelled}


def class_order(clip_ids: Sequence[str], labels: Mapping[str, Sequence[str]]) -> tuple[list[int], list[int]]:
    """The clips' numbers by first label, then by clip_id, those without a label last; and where a new class begins."""
    first = [next(iter(labels.get(clip_id, ())), None) for clip_id in clip_ids]
    order = sorted(
        range(len(clip_ids)), key=lambda number: (first[number] is None, first[number] or '', clip_ids[number])
    )
    classes = [first[number] for number in order]
    return order, [place for place in range(1, len(order)) if classes[place] != classes[place - 1]]
