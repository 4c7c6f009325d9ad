"""EDM: t is the noise level itself."""

import math

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.models.noise_schedulers.base import NoiseScheduler
from gmscavp.models.noise_schedulers.grids import karras_levels
from gmscavp.registry import NOISE_SCHEDULERS


@NOISE_SCHEDULERS.register_module()
class EDM(NoiseScheduler):
    """x_t = x0 + t eps. Karras et al. 2022, with its preconditioning, weight, training times and grid as defaults.

    sigma_min, sigma_max: ends of the grid of inference and of unit_time. spacing: karras, or linspace, which is even in
    ln sigma; both end with 0. The other settings are NoiseScheduler's.
    """

    SPACINGS = ('karras', 'linspace')

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        prediction: str = 'edm',
        weighting: str = 'edm',
        gamma: float = 5.0,
        times: str = 'log_normal',
        mean: float = -1.2,
        std: float = 1.2,
        spacing: str = 'karras',
        rho: float = 7.0,
        data_std: float = 1.0,
    ) -> None:
        super().__init__(prediction, weighting, gamma, times, mean, std, spacing, rho, data_std)
        if not 0 < sigma_min < sigma_max:
            raise UserError(f'EDM: needs 0 < sigma_min < sigma_max, not {sigma_min:g} and {sigma_max:g}.')
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1, t."""
        return torch.ones_like(t), t

    def unit_time(self, t: Tensor) -> Tensor:
        """ln t between the ends of the grid, 0 or 1 beyond: their c_noise = ln(t) / 4 up to scale and shift."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return ((t.log() - low) / (high - low)).clamp(0, 1)

    def time_at_unit(self, u: Tensor) -> Tensor:
        """sigma_min^(1 - u) sigma_max^u."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** u

    def time_at_level(self, level: Tensor) -> Tensor:
        """The level."""
        return level

    def spaced(self, steps: int) -> Tensor:
        """(steps + 1,) float32, the last 0."""
        if self.spacing == 'karras':
            levels = karras_levels(steps, self.sigma_min, self.sigma_max, self.rho)
        else:
            levels = self.time_at_unit(torch.linspace(1, 0, steps, dtype=torch.float64))
        return torch.cat([levels, levels.new_zeros(1)]).float()
