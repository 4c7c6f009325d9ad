"""Grids of inference, noisiest first. Where a grid ends before the clean signal, the sampler's last step goes there."""

from typing import TypeVar

import torch
from torch import Tensor

Time = TypeVar('Time', Tensor, float)


def leading_times(train_steps: int, steps: int) -> Tensor:
    """960, 920, ..., 0 for 25 of 1000: (steps,) whole numbers. Song et al. 2021; it misses the noisiest times."""
    return torch.arange(steps).flip(0) * (train_steps // steps)


def trailing_times(train_steps: int, steps: int) -> Tensor:
    """999, 959, ..., 39 for 25 of 1000: (steps,) whole numbers. Lin et al. 2024, table 2."""
    return torch.arange(train_steps, 0, -train_steps / steps).round().long()[:steps] - 1


def linspace_times(train_steps: int, steps: int) -> Tensor:
    """999, 959, 919, ..., 80, 40 for 25 of 1000: (steps,) whole numbers, as DPM-Solver++ is commonly run."""
    return torch.linspace(train_steps - 1, 0, steps + 1, dtype=torch.float64)[:-1].round().long()


def karras_levels(steps: int, low: float, high: float, rho: float = 7.0) -> Tensor:
    """Noise levels sigma / alpha from high to low, evenly in sigma^(1/rho): (steps,) float64. Karras et al. 2022, eq. 5."""
    ramp = torch.linspace(high ** (1 / rho), low ** (1 / rho), steps, dtype=torch.float64)
    return ramp**rho


def shifted(t: Time, shift: float) -> Time:
    """Times of rectified flow moved towards noise, 0 and 1 kept. Esser et al. 2024, equation 23."""
    return shift * t / (1 + (shift - 1) * t)


def flow_times(steps: int, shift: float) -> Tensor:
    """From 1 to one thousandth, shifted, then 0: (steps + 1,) float64.

    The thousandth is shifted once more than the rest, as in the published figures for shift 3.
    """
    t = shifted(torch.linspace(1, shifted(1 / 1000, shift), steps, dtype=torch.float64), shift)
    return torch.cat([t, t.new_zeros(1)])


def even_times(steps: int, shift: float = 1.0) -> Tensor:
    """1, 1 - 1/steps, ..., 0, shifted: (steps + 1,) float64."""
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)
