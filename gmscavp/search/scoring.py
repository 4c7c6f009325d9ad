"""The maths of a search: similarity by scale with a shift in time, and windows that overlap as one answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# Windows that only touch do not overlap; times are of media clocks.
_TOUCHING_S = 1e-3


@dataclass(frozen=True)
class Answer:
    """A place in a file: seconds from its beginning, side, inner product, label, and how many windows found it."""

    file: str
    start_s: float
    end_s: float
    score: float
    modality: str
    label: str | None = None
    windows: int = 1


def shifted_similarity(query: np.ndarray, gallery: np.ndarray, lengths: Sequence[int], most: int) -> np.ndarray:
    """How well windows fit a query that begins k finest tokens later than they, k = -most..most.

    (E,), (N, E) as the model fuses them, scale after scale fine to coarse with L_s tokens each -> (N, 2 most + 1). Column
    `most` (k = 0) is the inner product. For another k the finest scale's part is the mean over the tokens that both
    have there, times their full number; those of coarser scales, which hardly tell such a shift, are as they were.
    """
    finest = lengths[0]
    if not 0 <= most < finest:
        raise ValueError(f'a shift of {most} tokens leaves none of {finest}')
    size = len(query) // sum(lengths) * finest
    tokens = query[:size].reshape(finest, -1)
    others = gallery[:, :size].reshape(len(gallery), finest, -1)
    coarse = gallery[:, size:] @ query[size:]
    columns = []
    for k in range(-most, most + 1):
        here, there = tokens[max(0, -k) : finest - max(0, k)], others[:, max(0, k) : finest - max(0, -k)]
        columns.append(np.einsum('ld,nld->n', here, there) * finest / len(here))
    return np.stack(columns, axis=1) + coarse[:, None]


def merged(hits: Sequence[Answer]) -> list[Answer]:
    """Best first, one answer for windows of the same file and side that overlap: the best of them, and how many.

    No two answers overlap, and every hit is one or overlaps one at least as good. The order of the hits does not matter.
    """
    answers: list[Answer] = []
    of_track: dict[tuple[str, str], list[int]] = {}
    for hit in sorted(hits, key=lambda hit: (-hit.score, hit.file, hit.modality, hit.start_s)):
        places = of_track.setdefault((hit.file, hit.modality), [])
        for place in places:
            best = answers[place]
            if overlap(best, hit):
                answers[place] = replace(best, windows=best.windows + hit.windows)
                break
        else:
            places.append(len(answers))
            answers.append(hit)
    return answers


def joint(parts: Sequence[Sequence[Answer]]) -> list[Answer]:
    """Answers for a query of several windows: the mean over them of the best score at the same place, 0 where none is.

    parts: for each window its hits, already moved to where the whole query would lie. Of one window: `merged`.
    """
    every: list[Answer] = []
    of_track: dict[tuple[str, str], list[tuple[int, Answer]]] = {}
    for number, part in enumerate(parts):
        for hit in merged(part):
            shared = replace(hit, score=hit.score / len(parts))
            every.append(shared)
            of_track.setdefault((hit.file, hit.modality), []).append((number, shared))
    answers = []
    for best in merged(every):
        scores: dict[int, float] = {}
        windows = 0
        for number, hit in of_track[best.file, best.modality]:
            if overlap(hit, best):
                scores[number] = max(scores.get(number, hit.score), hit.score)
                windows += hit.windows
        answers.append(replace(best, score=sum(scores.values()), windows=windows))
    return merged(answers)


def overlap(one: Answer, other: Answer) -> bool:
    """Whether two places of one file and side share more than an edge."""
    same = (one.file, one.modality) == (other.file, other.modality)
    return same and min(one.end_s, other.end_s) - max(one.start_s, other.start_s) > _TOUCHING_S
