"""Noise schedulers: the path x_t = alpha(t) x0 + sigma(t) eps, how t is drawn in training, and the grid of inference.

What the network predicts (the parameterisation) is a name: 'epsilon', 'x0', 'v' or 'flow'.
"""

from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.registry import NOISE_SCHEDULERS

Time = TypeVar('Time', Tensor, float)
PREDICTIONS = ('epsilon', 'x0', 'v', 'flow')


def _unknown(prediction: str) -> UserError:
    return UserError(f"prediction must be one of {', '.join(PREDICTIONS)}, not '{prediction}'.")


def prediction_target(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, prediction: str) -> Tensor:
    """What the network is to predict. Shapes broadcast.

    epsilon: Ho et al. 2020; v = alpha eps - sigma x0: Salimans & Ho 2022; flow = eps - x0: Lipman et al. 2023.
    """
    match prediction:
        case 'epsilon':
            return eps
        case 'x0':
            return x0
        case 'v':
            return alpha * eps - sigma * x0
        case 'flow':
            return eps - x0
        case _:
            raise _unknown(prediction)


def predicted_x0(output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, prediction: str) -> Tensor:
    """The clean signal that a prediction at x = alpha x0 + sigma eps stands for: the inverse of prediction_target."""
    match prediction:
        case 'epsilon':
            return (x - sigma * output) / alpha
        case 'x0':
            return output
        case 'v':
            return (alpha * x - sigma * output) / (alpha**2 + sigma**2)
        case 'flow':
            return (x - sigma * output) / (alpha + sigma)
        case _:
            raise _unknown(prediction)


class NoiseScheduler(ABC):
    """prediction: the parameterisation of the network. Times t are tensors of this scheduler's own unit."""

    def __init__(self, prediction: str) -> None:
        if prediction not in PREDICTIONS:
            raise _unknown(prediction)
        self.prediction = prediction

    @abstractmethod
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise level at t, of t's shape."""

    @abstractmethod
    def sample_t(self, count: int, device: torch.device) -> Tensor:
        """Training times: (count,)."""

    @abstractmethod
    def weight(self, t: Tensor) -> Tensor:
        """Loss weight w(t), of t's shape."""

    @abstractmethod
    def grid(self, steps: int) -> Tensor:
        """Times of inference, noisiest first: (steps,) or, where it ends at the clean signal, (steps + 1,)."""

    @abstractmethod
    def unit_time(self, t: Tensor) -> Tensor:
        """t as a number in [0, 1], 1 the noisiest: what a denoiser is told."""

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ...), (B, ...), (B,) -> noisy signal x_t and the network's target, both (B, ...)."""
        alpha, sigma = (level.view(-1, *[1] * (x0.dim() - 1)) for level in self.alpha_sigma(t))
        return alpha * x0 + sigma * eps, prediction_target(x0, eps, alpha, sigma, self.prediction)

    def to_x0(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The clean signal that the network's output at (x, t) stands for: (B, ...)."""
        alpha, sigma = (level.view(-1, *[1] * (x.dim() - 1)) for level in self.alpha_sigma(t))
        return predicted_x0(output, x, alpha, sigma, self.prediction)


@NOISE_SCHEDULERS.register_module()
class ScaledLinearDDPM(NoiseScheduler):
    """Discrete times 0..steps-1; sqrt(beta) grows linearly. Rombach et al. 2022, on Ho et al. 2020 equation 4.

    x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps.
    """

    def __init__(
        self,
        steps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        prediction: str = 'epsilon',
    ) -> None:
        super().__init__(prediction)
        self.steps = steps
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
        self.alpha_bar = torch.cumprod(1 - betas, dim=0)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar), sqrt(1 - alpha_bar) at whole-number t."""
        alpha_bar = self.alpha_bar.to(t.device)[t]
        return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()

    def sample_t(self, count: int, device: torch.device) -> Tensor:
        """Evenly over 0..steps-1."""
        return torch.randint(self.steps, (count,), device=device)

    def weight(self, t: Tensor) -> Tensor:
        """1: the simple loss, Ho et al. 2020 equation 14."""
        return torch.ones_like(t, dtype=torch.float32)

    def grid(self, steps: int) -> Tensor:
        """Trailing: 999, 959, ... for 25 of 1000 steps. Lin et al. 2024, table 2."""
        return torch.arange(self.steps, 0, -self.steps / steps).round().long()[:steps] - 1

    def unit_time(self, t: Tensor) -> Tensor:
        """t / (steps - 1)."""
        return t.float() / (self.steps - 1)


@NOISE_SCHEDULERS.register_module()
class RectifiedFlow(NoiseScheduler):
    """x_t = (1 - t) x0 + t eps with t in [0, 1]. Liu et al. 2023; times drawn logit-normally, Esser et al. 2024.

    shift: moves the grid of inference towards noise, Esser et al. 2024 equation 23. mean, std: of the logit of the
    training times.
    """

    def __init__(self, prediction: str = 'flow', shift: float = 1.0, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__(prediction)
        self.shift, self.mean, self.std = shift, mean, std

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 - t, t."""
        return 1 - t, t

    def sample_t(self, count: int, device: torch.device) -> Tensor:
        """Logit-normal."""
        return torch.sigmoid(self.mean + self.std * torch.randn(count, device=device))

    def weight(self, t: Tensor) -> Tensor:
        """1: the distribution of the times already weighs."""
        return torch.ones_like(t)

    def grid(self, steps: int) -> Tensor:
        """From 1 to one thousandth, shifted, then 0: (steps + 1,)."""
        shortest = 1 / 1000
        t = self._shifted(torch.linspace(1, self._shifted(shortest), steps, dtype=torch.float64))
        return torch.cat([t, t.new_zeros(1)]).float()

    def unit_time(self, t: Tensor) -> Tensor:
        """t itself."""
        return t

    def _shifted(self, t: Time) -> Time:
        return self.shift * t / (1 + (self.shift - 1) * t)
