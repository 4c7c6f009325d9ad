"""Second-order methods with two evaluations a step: Heun's and the midpoint rule."""

from itertools import pairwise

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.models.samplers.base import Denoise, Levels, NoisePath, Sampler, finished, flow_step, noise_in
from gmscavp.registry import SAMPLERS

COORDINATES = ('path', 'ratio')


def heun_step(x: Tensor, x0: Tensor, guess: Tensor, x0_there: Tensor, here: Levels, there: Levels) -> Tensor:
    """The trapezoidal step: the mean of the slopes at x (which sees x0) and at Euler's guess (which sees x0_there)."""
    eps, eps_there = noise_in(x, x0, here), noise_in(guess, x0_there, there)
    return flow_step(x, (x0 + x0_there) / 2, (eps + eps_there) / 2, here, there)


@SAMPLERS.register_module()
class Heun(Sampler):
    """Second order; two evaluations a step, but one for the step to the clean signal. Karras et al. 2022, algorithm 1.

    coordinates: 'path' steps in alpha and sigma as they are and works everywhere; on EDM that is algorithm 1, on
    rectified flow Heun's method in t. 'ratio' steps x / alpha over sigma / alpha, as published implementations do for the
    paths of DDPM; the grid must not begin at pure noise. The two differ in their error, not in its order.
    """

    def __init__(self, coordinates: str = 'path') -> None:
        if coordinates not in COORDINATES:
            raise UserError(f"Heun: coordinates must be one of {', '.join(COORDINATES)}, not '{coordinates}'.")
        self.coordinates = coordinates

    def evaluations(self, steps: int) -> int:
        """See Sampler."""
        return 2 * steps - 1

    def __call__(self, denoise: Denoise, x: Tensor, grid: Tensor, scheduler: NoisePath) -> Tensor:
        """See Sampler."""
        for t, later in pairwise(grid):
            here, there = scheduler.alpha_sigma(t), scheduler.alpha_sigma(later)
            x0 = denoise(x, t)
            guess = flow_step(x, x0, noise_in(x, x0, here), here, there)
            x = self._corrected(x, x0, guess, denoise(guess, later), here, there) if there[1] > 0 else guess
        return finished(denoise, x, grid, scheduler)

    def _corrected(self, x: Tensor, x0: Tensor, guess: Tensor, x0_there: Tensor, here: Levels, there: Levels) -> Tensor:
        if self.coordinates == 'path':
            return heun_step(x, x0, guess, x0_there, here, there)
        (alpha, sigma), (alpha_there, sigma_there) = here, there
        if alpha == 0:
            raise UserError(
                "Heun: coordinates 'ratio' cannot begin at pure noise, where sigma / alpha is infinite; use 'path'."
            )
        one = torch.ones_like(alpha)
        scaled_here, scaled_there = (one, sigma / alpha), (one, sigma_there / alpha_there)
        return alpha_there * heun_step(x / alpha, x0, guess / alpha_there, x0_there, scaled_here, scaled_there)


@SAMPLERS.register_module()
class Midpoint(Sampler):
    """Second order; two evaluations a step, but one for a step to the clean signal from a grid's last, noisy time.

    The slope half-way in time carries the whole step, so the scheduler must know times between those of the grid.
    """

    def evaluations(self, steps: int) -> int:
        """See Sampler."""
        return 2 * steps

    def __call__(self, denoise: Denoise, x: Tensor, grid: Tensor, scheduler: NoisePath) -> Tensor:
        """See Sampler."""
        for t, later in pairwise(grid):
            middle = (t + later) / 2
            here, half, there = (scheduler.alpha_sigma(time) for time in (t, middle, later))
            x0 = denoise(x, t)
            halfway = flow_step(x, x0, noise_in(x, x0, here), here, half)
            x0 = denoise(halfway, middle)
            x = flow_step(x, x0, noise_in(halfway, x0, half), here, there)
        return finished(denoise, x, grid, scheduler)
