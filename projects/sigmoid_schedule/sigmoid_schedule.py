"""A noise scheduler of one's own: the signal fades by a sigmoid of time."""

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.models.noise_schedulers import NoiseScheduler, karras_levels
from gmscavp.models.noise_schedulers.grids import even_times
from gmscavp.registry import NOISE_SCHEDULERS


@NOISE_SCHEDULERS.register_module()
class SigmoidSchedule(NoiseScheduler):
    """alpha^2 + sigma^2 = 1, alpha^2 a sigmoid of t in [0, 1] from 1 to 0. Jabri et al. 2022; Chen 2023, algorithm 1.

    start, end: what part of the sigmoid is used; tau: how soft it is. spacing: trailing, from pure noise evenly in t;
    karras, for a part of the sigmoid that is steep near the clean signal. The other settings are NoiseScheduler's.
    """

    SPACINGS = ('trailing', 'karras')

    def __init__(
        self,
        prediction: str = 'v',
        start: float = -3.0,
        end: float = 3.0,
        tau: float = 1.0,
        weighting: str = 'constant',
        gamma: float = 5.0,
        times: str = 'uniform',
        mean: float = 0.0,
        std: float = 1.0,
        spacing: str = 'trailing',
        rho: float = 7.0,
        data_std: float = 1.0,
    ) -> None:
        super().__init__(prediction, weighting, gamma, times, mean, std, spacing, rho, data_std)
        if not (start < end and tau > 0):
            raise UserError(
                f'SigmoidSchedule: start must be below end, and tau above 0, not {start:g}, {end:g}, {tau:g}.'
            )
        self.start, self.end, self.tau = start, end, tau
        ends = torch.sigmoid(torch.tensor([start, end], dtype=torch.float64) / tau)
        self.low, self.high = ends.tolist()

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Of the sigmoid's height at t between its ends."""
        at = torch.sigmoid((self.start + t.double() * (self.end - self.start)) / self.tau)
        noise = ((at - self.low) / (self.high - self.low)).clamp(0, 1)
        return (1 - noise).sqrt().to(t.dtype), noise.sqrt().to(t.dtype)

    def unit_time(self, t: Tensor) -> Tensor:
        """t itself."""
        return t

    def time_at_unit(self, u: Tensor) -> Tensor:
        """u itself."""
        return u

    def time_at_level(self, level: Tensor) -> Tensor:
        """sigma^2 = level^2 / (1 + level^2), solved for t."""
        square = level.double().square()
        at = self.low + square / (1 + square) * (self.high - self.low)
        return ((at.logit() * self.tau - self.start) / (self.end - self.start)).clamp(0, 1).to(level.dtype)

    def spaced(self, steps: int) -> Tensor:
        """(steps + 1,) float32, the last 0."""
        if self.spacing == 'trailing':
            return even_times(steps).float()
        # Karras et al. 2022, table 1.
        t = self.time_at_level(karras_levels(steps, 0.002, 80.0, self.rho))
        return torch.cat([t, t.new_zeros(1)]).float()
