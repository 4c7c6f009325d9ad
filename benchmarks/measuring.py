"""What benchmarks of cost share: repeats in turn, medians and spreads, how cost grows, tables."""

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

# M_MMAP_THRESHOLD of malloc.h.
_MAPPED_FROM = -3


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


def give_memory_back() -> None:
    """From now on this process gives back what it frees; else the C library keeps it, and it counts as if in use.

    It costs time: in a process of its own. Linux.
    """
    library = ctypes.CDLL(None)
    library.mallopt(_MAPPED_FROM, 65_536)
    library.malloc_trim(0)


def extra_memory(way: Callable[[], object], device: str = 'cpu') -> float:
    """Bytes that a way takes at the most, beyond what was in use before: resident ones, or of a GPU's allocator.

    On a CPU from then on as after give_memory_back.
    """
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return torch.cuda.max_memory_allocated() - before
    give_memory_back()
    before = reset_peak()
    way()
    return max(0, peak() - before)


def reset_peak() -> int:
    """Resident bytes of this process now, from where its highest are counted anew (Linux)."""
    # proc(5).
    Path('/proc/self/clear_refs').write_text('5')
    return _status('VmRSS')


def peak() -> int:
    """The most resident bytes that this process has had since reset_peak."""
    return _status('VmHWM')


def proportional_mib(pid: int) -> float:
    """Memory of a process that is in RAM, what several share divided among them (Linux). ProcessLookupError: ended."""
    rollup = Path(f'/proc/{pid}/smaps_rollup').read_text()
    if not rollup:
        raise ProcessLookupError(f'{pid} has ended')
    return int(rollup.partition('\nPss:')[2].split()[0]) / 1024


def matrix_rate(dtype: torch.dtype, device: str = 'cpu', repeats: int = 7) -> float:
    """The most floating-point operations that a device does in a second, in one large matrix product."""
    side = 8192 if device == 'cuda' else 1024
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / _fastest(lambda: torch.mm(one, other), device, repeats)


def copy_rate(device: str = 'cpu', repeats: int = 7) -> float:
    """The most bytes that a device reads and writes in a second, in one copy too large for its caches."""
    source = torch.zeros(2**30 if device == 'cuda' else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _fastest(lambda: target.copy_(source), device, repeats)


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


def _fastest(way: Callable[[], object], device: str, repeats: int) -> float:
    """Seconds by the clock of the fastest of all repeats; the first, which also pays for loading, left out."""
    found = []
    for _ in range(repeats + 1):
        _wait(device)
        started = time.perf_counter()
        way()
        _wait(device)
        found.append(time.perf_counter() - started)
    return min(found[1:])


def _status(name: str) -> int:
    """Bytes of an entry of /proc/self/status."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{name}:'))


def _wait(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()
