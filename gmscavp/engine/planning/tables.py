"""Public figures that a plan stands on: accelerators, data sets, and what it takes to read a clip."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from gmscavp.engine.planning.counting import count_pass
from gmscavp.errors import UserError, near_names

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Accelerator:
    """Peak dense rates in FLOP/s by kind of operation (counting.Op), memory in bytes, bandwidths in bytes/s.

    link: to the other accelerators of a node, one direction. launch_s: the least that an operation takes. source: where
    the figures are from.
    """

    name: str
    half: float
    convolution: float
    single: float
    memory: float
    bandwidth: float
    link: float
    source: str
    launch_s: float = 5e-6

    @property
    def waits(self) -> bool:
        """Whether an operation begins when the one before has ended, as on a CPU; GPUs are told in advance."""
        return self.name == 'cpu'

    def rate(self, kind: str) -> float:
        """Peak FLOP/s of a kind of operation."""
        return {'half': self.half, 'convolution': self.convolution, 'single': self.single}[kind]


def _gpu(
    name: str, half: float, tf32: float, single: float, memory: float, bandwidth: float, link: float
) -> Accelerator:
    """Rates in TFLOP/s without sparsity, memory in GB, bandwidths in GB/s."""
    maker = 'AMD' if name.startswith('mi') else 'NVIDIA'
    source = f"{maker}'s data sheet, without sparsity"
    rates = (half * TERA, tf32 * TERA, single * TERA)
    return Accelerator(name, *rates, memory * GIGA, bandwidth * GIGA, link * GIGA, source)


# Convolutions in float32 run as TF32 (torch's default), other products in float32. Links without NVLink are PCIe's.
_GPUS = (
    _gpu('a100', 312, 156, 19.5, 80, 2039, 300),
    _gpu('a100-40gb', 312, 156, 19.5, 40, 1555, 300),
    _gpu('h100', 989, 495, 67, 80, 3350, 450),
    _gpu('h100-pcie', 756, 378, 51, 80, 2000, 64),
    _gpu('h200', 989, 495, 67, 141, 4800, 450),
    _gpu('b200', 2250, 1100, 80, 180, 8000, 900),
    _gpu('l40s', 362, 183, 91.6, 48, 864, 32),
    _gpu('l4', 121, 60, 30.3, 24, 300, 32),
    _gpu('a10', 125, 62.5, 31.2, 24, 600, 32),
    _gpu('a6000', 155, 77.4, 38.7, 48, 768, 32),
    _gpu('rtx4090', 165, 82.6, 82.6, 24, 1008, 32),
    _gpu('rtx3090', 71, 35.6, 35.6, 24, 936, 32),
    _gpu('mi300x', 1307, 654, 163, 192, 5300, 448),
)
ACCELERATORS = {gpu.name: gpu for gpu in _GPUS}


def find_accelerator(name: str) -> Accelerator:
    """An accelerator of the table by its name, or 'cpu', measured now. Raises UserError with the near names."""
    if name.lower() == 'cpu':
        return measured_cpu()
    if name.lower() not in ACCELERATORS:
        known = ', '.join((*ACCELERATORS, 'cpu'))
        near = near_names(name.lower(), [*ACCELERATORS, 'cpu'])
        raise UserError(f"--gpu: no accelerator '{name}' is known.{near} Known are {known}.")
    return ACCELERATORS[name.lower()]


def measured_cpu() -> Accelerator:
    """This machine: a product of matrices, a convolution, what is between them, and the smallest operations; some seconds.

    In seconds of the processor, so that other programs count little, times torch's number of threads.
    """
    threads = torch.get_num_threads()
    side, channels = 768, 32
    matrix = torch.randn(side, side)
    short = matrix.bfloat16()
    pictures, filters = torch.randn(16, channels, 64, 64), torch.randn(channels, channels, 3, 3)
    products, filtered = 2 * side**3, 2 * 9 * channels * pictures.numel()
    convolution = threads * filtered / _seconds(lambda: nn.functional.conv2d(pictures, filters, padding=1), 5)
    single = threads * products / _seconds(lambda: matrix @ matrix, 5)
    half = threads * products / _seconds(lambda: short @ short, 5)
    # A core is slower at these than its memory is.
    between, moved, _ = _step_of(nn.Sequential(nn.GroupNorm(8, channels), nn.GELU()), pictures, 3)
    bandwidth = threads * moved / between
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    source = f'measured on this machine, {threads} thread(s)'
    # A net so small that there is nothing but launching.
    parts = [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.Conv1d(8, 8, 1)) for _ in range(8)]
    small, _, operations = _step_of(nn.Sequential(*parts), torch.zeros(1, 8, 4), 20)
    return Accelerator('cpu', half, convolution, single, memory, bandwidth, bandwidth, source, small / operations)


def _step_of(net: nn.Module, given: torch.Tensor, repeats: int) -> tuple[float, int, int]:
    """Seconds of a forward and backward pass, and its bytes and operations as they are counted."""
    given = given.requires_grad_()

    def forward() -> torch.Tensor:
        return net(given).sum()

    seen = count_pass(forward, list(net.parameters()))
    return _seconds(lambda: forward().backward(), repeats), seen.bytes, sum((seen.forward + seen.backward).values())


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """The least processor time of several repeats, after one that warms up."""
    work()
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return max(min(found), 1e-9)


@dataclass(frozen=True)
class Source:
    """A form in which clips lie on storage.

    rate: bytes of a second of film. cut: a clip is its own file, of which nothing is read but the window; else reading
    begins at the key frame before, so that half of `key_frames_s`, the time between them, is read too. clips_per_core:
    windows of 4 s, decoded and resized by one core in a second (docs/results/data.md).
    """

    name: str
    rate: float
    key_frames_s: float
    clips_per_core: float
    origin: str

    def bytes_of(self, window_s: float, film_s: float) -> float:
        """Bytes read for a window of a film of so many seconds."""
        return self.rate * min(film_s, window_s + self.key_frames_s / 2)

    def clips_per_core_of(self, window_s: float) -> float:
        """Windows of another length, in proportion."""
        return self.clips_per_core * 4 / window_s


_MEASURED = 'docs/results/data.md: rendered clips, PyAV, one core of an x86 server'
SOURCES = {
    'files': Source('files', 0.25e6, 10.0, 3.8, f'720p at 2 Mbit/s with the default key frames of x264; {_MEASURED}'),
    'friendly': Source('friendly', 0.155e6, 0.5, 14.2, f'short side 256, prepare_data.py --rewrite; {_MEASURED}'),
    'shards': Source(
        'shards', 0.21e6, 0.0, 79.0, f'JPEGs at 4 frames/s, prepare_data.py --shards; cropped; {_MEASURED}'
    ),
}


@dataclass(frozen=True)
class DataSet:
    """Clips that are listed, and how long one is in seconds."""

    name: str
    clips: int
    film_s: float
    origin: str


DATA_SETS = {
    'vggsound': DataSet('VGGSound', 200_000, 10.0, 'Chen et al. 2020: some 200,000 clips of 10 s'),
    'audioset': DataSet('AudioSet', 2_000_000, 10.0, 'Gemmeke et al. 2017: some 2 million segments of 10 s'),
    'panda70m': DataSet('Panda-70M', 70_000_000, 8.5, 'its download page: 70.7 million clips, 167,000 hours'),
}
