"""DDIM, and with eta = 1 the ancestral sampler of DDPM."""

from itertools import pairwise

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.models.samplers.base import Denoise, Levels, NoisePath, Sampler, finished, noise_in
from gmscavp.registry import SAMPLERS


def ddim_step(x: Tensor, x0: Tensor, here: Levels, there: Levels, eta: float, noise: Tensor | None) -> Tensor:
    """One step from the levels (alpha, sigma) `here` to those `there`, given the clean signal x0 seen in x.

    x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s noise, with eps = (x - alpha x0) / sigma. Song et al. 2021, equation 12;
    s of equation 16, eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a'), written for any path: eta sigma' sqrt(1 - r^2) with
    r = alpha sigma' / (alpha' sigma).
    """
    (alpha, sigma), (alpha_next, sigma_next) = here, there
    eps = noise_in(x, x0, here)
    if noise is None:
        return alpha_next * x0 + sigma_next * eps
    ratio = (alpha * sigma_next) / (alpha_next * sigma)
    fresh = eta * sigma_next * (1 - ratio**2).clamp(min=0).sqrt()
    return alpha_next * x0 + (sigma_next**2 - fresh**2).sqrt() * eps + fresh * noise


@SAMPLERS.register_module()
class DDIM(Sampler):
    """First order in the ratio sigma / alpha; on the path of rectified flow it is Euler's method. Song et al. 2021.

    eta: 0 is deterministic, 1 draws as much fresh noise as the process that was learnt; the noise comes from torch's
    generator.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise UserError(f'DDIM: eta must lie between 0 and 1, not at {eta:g}.')
        self.eta, self.stochastic = eta, eta > 0

    def __call__(self, denoise: Denoise, x: Tensor, grid: Tensor, scheduler: NoisePath) -> Tensor:
        """See Sampler."""
        for t, later in pairwise(grid):
            noise = torch.randn_like(x) if self.eta else None
            x = ddim_step(x, denoise(x, t), scheduler.alpha_sigma(t), scheduler.alpha_sigma(later), self.eta, noise)
        return finished(denoise, x, grid, scheduler)
