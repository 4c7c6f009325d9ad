"""What all noise schedulers share: the path x_t = alpha(t) x0 + sigma(t) eps, and four choices by name.

prediction: what the network predicts (prediction.py). weighting: the loss weight (weighting.py). times: how training
times are drawn (times.py). spacing: the grid of inference (grids.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.models.noise_schedulers.choices import check_choice
from gmscavp.models.noise_schedulers.prediction import (
    PREDICTIONS,
    input_scale,
    predicted_x0,
    prediction_target,
)
from gmscavp.models.noise_schedulers.times import TIMES, log_normal, logit_normal, uniform
from gmscavp.models.noise_schedulers.weighting import WEIGHTINGS, loss_weight


class NoiseScheduler(ABC):
    """The noise path and the choices around it. Times t are tensors of this scheduler's own unit.

    prediction: epsilon, x0, v, flow or edm. weighting: constant, min_snr (with gamma) or edm. times: uniform in this
    scheduler's unit, logit_normal in it, or log_normal in sigma / alpha, the last two with mean and std. spacing: one of
    the class's SPACINGS; rho: the exponent of the Karras spacing. data_std: standard deviation of the clean signals, for
    what EDM computes from it; signals here have about 1, the paper's 0.5 is for images in [-1, 1].
    """

    SPACINGS: Sequence[str] = ()

    def __init__(
        self,
        prediction: str,
        weighting: str = 'constant',
        gamma: float = 5.0,
        times: str = 'uniform',
        mean: float = 0.0,
        std: float = 1.0,
        spacing: str = 'karras',
        rho: float = 7.0,
        data_std: float = 1.0,
    ) -> None:
        self.prediction = check_choice('prediction', prediction, PREDICTIONS)
        self.weighting = check_choice('weighting', weighting, WEIGHTINGS)
        self.times = check_choice('times', times, TIMES)
        self.spacing = check_choice(f'{type(self).__name__}: spacing', spacing, self.SPACINGS)
        for setting, value in dict(gamma=gamma, std=std, rho=rho, data_std=data_std).items():
            if not value > 0:
                raise UserError(f'{type(self).__name__}: {setting} must be above 0, not {value:g}.')
        self.gamma, self.mean, self.std, self.rho, self.data_std = gamma, mean, std, rho, data_std

    @abstractmethod
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise level at t, of t's shape; of t's type where t is not of whole numbers."""

    @abstractmethod
    def unit_time(self, t: Tensor) -> Tensor:
        """t as a number in [0, 1], 1 the noisiest: what a denoiser is told."""

    @abstractmethod
    def time_at_unit(self, u: Tensor) -> Tensor:
        """The training time at u in [0, 1): the inverse of unit_time, up to rounding."""

    @abstractmethod
    def time_at_level(self, level: Tensor) -> Tensor:
        """The time at which sigma / alpha is `level`; the nearest end where the path does not reach it. Of its type."""

    @abstractmethod
    def spaced(self, steps: int) -> Tensor:
        """The grid of inference by self.spacing, before it is checked."""

    def sample_t(self, count: int, device: torch.device) -> Tensor:
        """Training times: (count,)."""
        match self.times:
            case 'uniform':
                return self.time_at_unit(uniform(count, device))
            case 'logit_normal':
                return self.time_at_unit(logit_normal(count, device, self.mean, self.std))
            case _:
                return self.time_at_level(log_normal(count, device, self.mean, self.std))

    def weight(self, t: Tensor) -> Tensor:
        """Loss weight w(t) on the squared error of the prediction, of t's shape."""
        return loss_weight(*self.alpha_sigma(t), self.weighting, self.prediction, self.gamma, self.data_std)

    def grid(self, steps: int) -> Tensor:
        """Times of inference, noisiest first: (steps,) or, where it ends at the clean signal, (steps + 1,).

        UserError for more steps than there are times, and where an epsilon prediction would begin at pure noise.
        """
        if steps < 1:
            raise UserError(f'{type(self).__name__}: steps must be at least 1, not {steps}.')
        times = self.spaced(steps)
        if (times.diff() >= 0).any():
            raise UserError(
                f'{type(self).__name__}: {steps} steps are too many for spacing {self.spacing!r}; ask for fewer.'
            )
        alpha, _ = self.alpha_sigma(times[:1])
        if self.prediction == 'epsilon' and alpha == 0:
            raise UserError(
                f'{type(self).__name__}: the grid begins at pure noise, where a prediction of epsilon says nothing of the '
                "signal; set prediction to 'v' or 'flow', or spacing to 'karras'."
            )
        return times

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ...), (B, ...), (B,) -> noisy signal x_t and the network's target, both (B, ...)."""
        alpha, sigma = self._levels(t, x0)
        return alpha * x0 + sigma * eps, prediction_target(x0, eps, alpha, sigma, self.prediction, self.data_std)

    def to_x0(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The clean signal that the network's output at (x, t) stands for: (B, ...)."""
        return predicted_x0(output, x, *self._levels(t, x), self.prediction, self.data_std)

    def scale_input(self, x: Tensor, t: Tensor) -> Tensor:
        """What the network is shown of x (B, ...) at t (B,): of unit variance for prediction 'edm', else x itself."""
        return input_scale(*self._levels(t, x), self.data_std) * x if self.prediction == 'edm' else x

    def _levels(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma, shaped to multiply x."""
        alpha, sigma = self.alpha_sigma(t)
        shape = (-1, *[1] * (x.dim() - 1))
        return alpha.view(shape), sigma.view(shape)
