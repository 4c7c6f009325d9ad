"""What all samplers share: the interface. They see a noise scheduler through alpha(t) and sigma(t) alone.

With D the clean signal that the denoiser sees in x and eps = (x - alpha D) / sigma, every deterministic sampler solves
dx = D d alpha + eps d sigma, the probability flow of Song et al. 2021 written for any path.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (B, ...), t ()) -> the clean signal that the denoiser sees in x, like x."""

Levels = tuple[Tensor, Tensor]
"""(alpha, sigma) of one time."""


class NoisePath(Protocol):
    """The part of a noise scheduler that a sampler needs."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise level at t, of t's shape."""


class Sampler(ABC):
    """Solves the reverse process; works with every noise scheduler and every parameterisation.

    Stochastic samplers draw from torch's own generator: seed it, or fork it, around the call.
    """

    stochastic: bool = False
    """Whether it draws fresh noise on the way, so that what it makes of a signal depends on what is beside it."""

    @abstractmethod
    def __call__(self, denoise: Denoise, x: Tensor, grid: Tensor, scheduler: NoisePath) -> Tensor:
        """Signal x (B, ...) at the noise level of grid[0] -> clean signal (B, ...).

        grid: times, noisiest first. Where its last time still has noise, a last step goes from there to the clean signal.
        """

    def evaluations(self, steps: int) -> int:
        """How often `denoise` is called for a grid of so many steps, the last to the clean signal: at most."""
        return steps


def noise_in(x: Tensor, x0: Tensor, levels: Levels) -> Tensor:
    """eps in x = alpha x0 + sigma eps."""
    alpha, sigma = levels
    return (x - alpha * x0) / sigma


def flow_step(x: Tensor, x0: Tensor, eps: Tensor, here: Levels, there: Levels) -> Tensor:
    """One step of dx = x0 d alpha + eps d sigma with both held constant."""
    return x + (there[0] - here[0]) * x0 + (there[1] - here[1]) * eps


def finished(denoise: Denoise, x: Tensor, grid: Tensor, scheduler: NoisePath) -> Tensor:
    """x at the grid's last time, taken to the clean signal if there is noise left."""
    _, left = scheduler.alpha_sigma(grid[-1])
    return denoise(x, grid[-1]) if left > 0 else x
