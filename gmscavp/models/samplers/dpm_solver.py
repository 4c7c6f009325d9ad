"""DPM-Solver++ 2M: second order at one evaluation a step, by what the step before has seen."""

from itertools import pairwise

import torch
from torch import Tensor

from gmscavp.models.samplers.base import Denoise, Levels, NoisePath, Sampler, finished, flow_step, noise_in
from gmscavp.registry import SAMPLERS


def extrapolated(x0: Tensor, x0_before: Tensor, before: Levels, here: Levels, there: Levels) -> Tensor:
    """D = (1 + 1/(2r)) x0 - 1/(2r) x0_before, r = h_before / h. Lu et al. 2022, algorithm 2.

    h is the step in ln(alpha / sigma). A step from pure noise is infinitely long, so 1/(2r) = 0 after it.
    """
    h_before, h = _log_ratio(here) - _log_ratio(before), _log_ratio(there) - _log_ratio(here)
    return x0 + h / (2 * h_before) * (x0 - x0_before)


def _log_ratio(levels: Levels) -> Tensor:
    alpha, sigma = levels
    return torch.log(alpha) - torch.log(sigma)


@SAMPLERS.register_module()
class DPMSolver2M(Sampler):
    """DPM-Solver++ 2M, Lu et al. 2022, algorithm 2; one evaluation a step.

    Its update sigma'/sigma x - alpha' (e^-h - 1) D is the first-order step with D in the place of x0. The first step, and
    the one to the clean signal, where h is infinite, are first order. A step much longer than the one before it makes the
    extrapolation overshoot, as near the end of rectified flow's linspace grid: there spacing 'trailing' or 'karras' serves.
    """

    def __call__(self, denoise: Denoise, x: Tensor, grid: Tensor, scheduler: NoisePath) -> Tensor:
        """See Sampler."""
        seen: tuple[Tensor, Levels] | None = None
        for t, later in pairwise(grid):
            here, there = scheduler.alpha_sigma(t), scheduler.alpha_sigma(later)
            x0 = denoise(x, t)
            clean = x0 if seen is None or there[1] == 0 else extrapolated(x0, *seen, here, there)
            x = flow_step(x, clean, noise_in(x, clean, here), here, there)
            seen = x0, here
        return finished(denoise, x, grid, scheduler)
