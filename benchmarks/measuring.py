"""What benchmarks of cost share: repeats in turn, medians and spreads, how cost grows, tables."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Timing:
    """Seconds of every repeat."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of all repeats."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(high - low) / 2 / self.median


def timed(ways: Mapping[str, Callable[[], object]], repeats: int, device: str = 'cpu') -> dict[str, Timing]:
    """Every way once without counting, then all in turn, `repeats` times.

    In turn, so that what else the machine does falls on all alike. On a CPU seconds are those of the processor, all
    threads together; on a GPU those of the clock, everything waited for.
    """
    clock = time.process_time if device == 'cpu' else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            _wait(device)
            started = clock()
            way()
            _wait(device)
            found[name].append(clock() - started)
    return {name: Timing(tuple(seconds)) for name, seconds in found.items()}


def exponent(sizes: ArrayLike, costs: ArrayLike) -> float:
    """How cost grows with size: the slope of log cost over log size by least squares; 1 is in proportion.

    nan for fewer than two sizes.
    """
    if np.size(sizes) < 2:
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [f'| {" | ".join(row)} |' for row in (headings, ['---'] * len(headings), *rows)]


def _wait(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()
