"""One-to-one matching of detected to true times, and the figures that follow from it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MatchCounts:
    """How many times were detected, how many are true, how many of them are matched. Counts of clips add up."""

    matched: int
    detected: int
    true: int

    @property
    def precision(self) -> float:
        """Share of the detected that are true; 0 where nothing was detected, 1 where there was nothing to detect."""
        return self.matched / self.detected if self.detected else float(not self.true)

    @property
    def recall(self) -> float:
        """Share of the true that were detected; 1 where there are none."""
        return self.matched / self.true if self.true else 1.0

    @property
    def f1(self) -> float:
        """2 matched / (detected + true), the harmonic mean of precision and recall; 1 where there is nothing at all."""
        total = self.detected + self.true
        return 2 * self.matched / total if total else 1.0


def match_times(detected: np.ndarray, true: np.ndarray, tolerance_s: float) -> np.ndarray:
    """(N,), (M,) seconds, each rising -> (K, 2) numbers of matched detected and true times.

    The largest one-to-one matching with no pair more than tolerance_s apart. On a line the earliest pair that fits is
    always part of one (crossing pairs can be uncrossed), so that one pass finds it. Among largest matchings ties in
    size are not weighed by distance. Raises ValueError for times that do not rise.
    """
    if (np.diff(detected) < 0).any() or (np.diff(true) < 0).any():
        raise ValueError('times to match must rise.')
    pairs, i, j = [], 0, 0
    while i < len(detected) and j < len(true):
        if abs(detected[i] - true[j]) <= tolerance_s:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif detected[i] < true[j]:
            i += 1
        else:
            j += 1
    return np.array(pairs, int).reshape(-1, 2)


def pooled(counts: Iterable[MatchCounts]) -> MatchCounts:
    """The counts of several clips, or of several colours in a clip, as one."""
    parts = list(counts)
    return MatchCounts(
        matched=sum(part.matched for part in parts),
        detected=sum(part.detected for part in parts),
        true=sum(part.true for part in parts),
    )
