"""Rectified flow: a straight line between noise and signal."""

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.models.noise_schedulers.base import NoiseScheduler
from gmscavp.models.noise_schedulers.grids import even_times, flow_times, karras_levels
from gmscavp.registry import NOISE_SCHEDULERS

# The levels that the Karras spacing runs between on a path that has no ends of its own. Karras et al. 2022, table 1.
LEAST_LEVEL, GREATEST_LEVEL = 0.002, 80.0


@NOISE_SCHEDULERS.register_module()
class RectifiedFlow(NoiseScheduler):
    """x_t = (1 - t) x0 + t eps with t in [0, 1]. Liu et al. 2023; times drawn logit-normally, Esser et al. 2024.

    shift: moves the grid of inference towards noise, Esser et al. 2024 equation 23. mean, std: of the logit of the
    training times, which is also the logarithm of sigma / alpha. spacing: linspace, from 1 to one thousandth and 0;
    trailing, 1 to 0 evenly; karras, which does not begin at pure noise and takes no shift. The other settings are
    NoiseScheduler's.
    """

    SPACINGS = ('linspace', 'trailing', 'karras')

    def __init__(
        self,
        prediction: str = 'flow',
        shift: float = 1.0,
        mean: float = 0.0,
        std: float = 1.0,
        weighting: str = 'constant',
        gamma: float = 5.0,
        times: str = 'logit_normal',
        spacing: str = 'linspace',
        rho: float = 7.0,
        data_std: float = 1.0,
    ) -> None:
        super().__init__(prediction, weighting, gamma, times, mean, std, spacing, rho, data_std)
        if not shift > 0:
            raise UserError(f'RectifiedFlow: shift must be above 0, not {shift:g}.')
        self.shift = shift

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 - t, t."""
        return 1 - t, t

    def unit_time(self, t: Tensor) -> Tensor:
        """t itself."""
        return t

    def time_at_unit(self, u: Tensor) -> Tensor:
        """u itself."""
        return u

    def time_at_level(self, level: Tensor) -> Tensor:
        """t / (1 - t) = level, solved for t."""
        return level / (1 + level)

    def spaced(self, steps: int) -> Tensor:
        """(steps + 1,) float32, the last 0."""
        match self.spacing:
            case 'linspace':
                return flow_times(steps, self.shift).float()
            case 'trailing':
                return even_times(steps, self.shift).float()
            case _:
                t = self.time_at_level(karras_levels(steps, LEAST_LEVEL, GREATEST_LEVEL, self.rho))
                return torch.cat([t, t.new_zeros(1)]).float()
