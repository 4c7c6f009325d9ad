"""Euler's method, and with fresh noise at every step the sampler known as Euler ancestral."""

from itertools import pairwise

from torch import Tensor

from gmscavp.models.samplers.base import Denoise, NoisePath, Sampler, finished, flow_step, noise_in
from gmscavp.models.samplers.ddim import DDIM
from gmscavp.registry import SAMPLERS


@SAMPLERS.register_module()
class Euler(Sampler):
    """First order, one evaluation a step.

    The same numbers on every path as Euler's method in sigma / alpha (Karras et al. 2022), as Euler's method in the time
    of rectified flow, and as DDIM without fresh noise.
    """

    def __call__(self, denoise: Denoise, x: Tensor, grid: Tensor, scheduler: NoisePath) -> Tensor:
        """See Sampler."""
        for t, later in pairwise(grid):
            here, there = scheduler.alpha_sigma(t), scheduler.alpha_sigma(later)
            x0 = denoise(x, t)
            x = flow_step(x, x0, noise_in(x, x0, here), here, there)
        return finished(denoise, x, grid, scheduler)


@SAMPLERS.register_module()
class EulerAncestral(Sampler):
    """An Euler step to less noise than wanted, then fresh noise up to the level; one evaluation a step.

    With s = sigma / alpha the fresh noise is s_up = eta s' sqrt(1 - s'^2 / s^2) and the step goes to
    sqrt(s'^2 - s_up^2): DDIM's equations 12 and 16, so that this is DDIM under its other name. eta = 1 is the ancestral
    sampler of DDPM.
    """

    def __init__(self, eta: float = 1.0) -> None:
        self.solver, self.stochastic = DDIM(eta), eta > 0

    def __call__(self, denoise: Denoise, x: Tensor, grid: Tensor, scheduler: NoisePath) -> Tensor:
        """See Sampler."""
        return self.solver(denoise, x, grid, scheduler)
