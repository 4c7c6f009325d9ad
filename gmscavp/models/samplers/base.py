"""What all samplers share: the interface. They see a noise scheduler through alpha(t) and sigma(t) alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (B, ...), t ()) -> the clean signal that the denoiser sees in x, like x."""


class NoisePath(Protocol):
    """The part of a noise scheduler that a sampler needs."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise level at t, of t's shape."""


class Sampler(ABC):
    """Solves the reverse process; works with every noise scheduler and every parameterisation."""

    @abstractmethod
    def __call__(self, denoise: Denoise, x: Tensor, grid: Tensor, scheduler: NoisePath) -> Tensor:
        """Signal x (B, ...) at the noise level of grid[0] -> clean signal (B, ...).

        grid: times, noisiest first. Where its last time still has noise, a last step goes from there to the clean signal.
        """
