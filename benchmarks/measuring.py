"""What benchmarks of cost share: repeats in turn, medians and spreads, how cost grows, what was measured on, tables."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gmscavp import __version__


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


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """How cost grows with size: the slope of log cost over log size by least squares; 1 is in proportion."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def machine(device: str = 'cpu') -> str:
    """What was measured on, in a line."""
    what = torch.cuda.get_device_name() if device == 'cuda' else f'CPU {_processor()}'
    return (
        f'{what}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.system()}, Python '
        f'{platform.python_version()}, torch {torch.__version__}, gmscavp {__version__}'
    )


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [f'| {" | ".join(row)} |' for row in (headings, ['---'] * len(headings), *rows)]


def _wait(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


def _processor() -> str:
    """Its name, where the system tells it."""
    facts = Path('/proc/cpuinfo')
    lines = facts.read_text().splitlines() if facts.is_file() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
