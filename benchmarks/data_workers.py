"""What benchmarks/data.py asks of worker processes: how loading grows with them, and whether their memory does."""

import os
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from measuring import exponent, proportional_mib
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from gmscavp.datasets import StreamShuffle
from gmscavp.errors import UserError

BATCH = 4
# Of a worker's memory: while libraries are loaded and allocators fill, nothing is said by it.
WARM_SHARE = 0.25
BLOCKS = 20


class Repeated(Dataset):
    """`length` clips of a data set, each with the process that read it and its resident memory in KiB afterwards."""

    def __init__(self, data: Any, length: int) -> None:
        self.data, self.length = data, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        sample = self.data[index % len(self.data)]
        return sample, os.getpid(), resident_kib()


def resident_kib() -> int:
    """Memory of this process that is in RAM. UserError where the system does not tell."""
    try:
        pages = int(Path('/proc/self/statm').read_text().split()[1])
    except OSError as error:
        raise UserError('the memory of workers is read from /proc, which this system has not; use Linux.') from error
    return pages * os.sysconf('SC_PAGE_SIZE') // 1024


def loader_of(data: Dataset, workers: int) -> DataLoader:
    """As training has it."""
    # More workers than cores are a choice here.
    warnings.filterwarnings('ignore', 'This DataLoader will create')
    return DataLoader(data, BATCH, sampler=StreamShuffle(data), num_workers=workers, drop_last=True)  # type: ignore[arg-type]


@dataclass
class Loading:
    """With a number of workers, of every repeat: clips a second by the clock, MiB of all workers at the end."""

    rates: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Clips a second, the median."""
        return statistics.median(self.rates)

    @property
    def megabytes(self) -> float:
        """Of all workers, the median."""
        return statistics.median(self.mib) * 2**20 / 1e6


def loadings(data: Any, workers: Sequence[int], clips: int, repeats: int) -> dict[int, Loading]:
    """So many clips read with each number of workers, from the first batch on, so that their start does not count."""
    found = {count: Loading() for count in workers}
    for _ in track(range(repeats), 'loading with workers', transient=True):
        for count, loading in found.items():
            loader = loader_of(Repeated(data, clips + BATCH * max(1, 2 * count)), count)
            batches = iter(loader)
            readers = set(next(batches)[1].tolist())
            started = time.perf_counter()
            for _ in range(len(loader) - 1):
                readers.update(next(batches)[1].tolist())
            loading.rates.append(BATCH * (len(loader) - 1) / (time.perf_counter() - started))
            # Workers end once they are asked for more than there is.
            loading.mib.append(sum(map(proportional_mib, readers)))
    return found


def growth(found: Mapping[int, Loading], most: int) -> tuple[float, float]:
    """b of rate = a * workers^b for 1 to `most` workers, and of memory for all from 1 on; nan for fewer than two."""
    counts = [count for count in found if count]
    busy = [count for count in counts if count <= most]
    return (
        exponent(busy, [found[count].rate for count in busy]),
        exponent(counts, [found[count].megabytes for count in counts]),
    )


def soak(data: Any, clips: int, workers: int) -> dict[int, list[int]]:
    """Process -> KiB after each of its clips."""
    memory: dict[int, list[int]] = {}
    total = clips // BATCH
    for _, pids, sizes in track(loader_of(Repeated(data, clips), workers), 'soaking', total=total, transient=True):
        for pid, kib in zip(pids.tolist(), sizes.tolist(), strict=True):
            memory.setdefault(pid, []).append(kib)
    return memory


def slope(memory: Sequence[int]) -> tuple[float, float]:
    """(KiB a clip, its standard error), by least squares over means of blocks, as neighbouring clips are no independent
    measurements, after the warm part."""
    warm = np.asarray(memory[int(WARM_SHARE * len(memory)) :], float)
    width = max(1, len(warm) // BLOCKS)
    blocks = warm[: len(warm) // width * width].reshape(-1, width).mean(1)
    clips = width * np.arange(len(blocks))
    fit, residuals, *_ = np.polyfit(clips, blocks, 1, full=True)
    left = float(residuals[0]) if len(residuals) else 0.0
    return float(fit[0]), float(np.sqrt(left / max(1, len(blocks) - 2) / ((clips - clips.mean()) ** 2).sum()))
