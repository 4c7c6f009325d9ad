"""Discrete paths with alpha^2 + sigma^2 = 1: linear, scaled-linear and cosine, each with zero terminal SNR if wanted."""

import math

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.models.noise_schedulers.base import NoiseScheduler
from gmscavp.models.noise_schedulers.grids import karras_levels, leading_times, linspace_times, trailing_times
from gmscavp.registry import NOISE_SCHEDULERS


def linear_betas(steps: int, start: float, end: float) -> Tensor:
    """beta grows linearly: (steps,) float64. Ho et al. 2020, section 4."""
    return torch.linspace(start, end, steps, dtype=torch.float64)


def scaled_linear_betas(steps: int, start: float, end: float) -> Tensor:
    """sqrt(beta) grows linearly: (steps,) float64. Rombach et al. 2022, as released."""
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2


def cosine_betas(steps: int, offset: float, largest: float) -> Tensor:
    """alpha_bar falls as cos^2: (steps,) float64, no beta above `largest`. Nichol & Dhariwal 2021, equation 17."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest)


def to_zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """sqrt(alpha_bar) shifted to end at 0 and stretched to begin where it did: (T,). Lin et al. 2024, algorithm 1."""
    alpha = alpha_bar.sqrt()
    return ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2


class DiscretePath(NoiseScheduler):
    """Times 0..steps-1; x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps. Ho et al. 2020, equation 4.

    betas: (steps,) float64. zero_terminal_snr: the last time is pure noise, which a prediction of epsilon cannot be
    inverted at and the Karras spacing cannot begin at: both are refused. Between whole times ln(sigma / alpha) is
    interpolated, so that grids and solvers may stand there.
    """

    SPACINGS = ('leading', 'trailing', 'linspace', 'karras')

    def __init__(
        self,
        betas: Tensor,
        prediction: str,
        zero_terminal_snr: bool,
        weighting: str,
        gamma: float,
        times: str,
        mean: float,
        std: float,
        spacing: str,
        rho: float,
        data_std: float,
    ) -> None:
        super().__init__(prediction, weighting, gamma, times, mean, std, spacing, rho, data_std)
        self.steps = len(betas)
        if self.steps < 2 or not ((betas > 0) & (betas < 1)).all():
            raise UserError(f'{type(self).__name__}: needs at least 2 steps, and betas between 0 and 1.')
        if zero_terminal_snr and prediction == 'epsilon':
            raise UserError(
                f'{type(self).__name__}: with zero_terminal_snr the last time is pure noise, where a prediction of epsilon '
                "says nothing of the signal; set prediction='v'."
            )
        if zero_terminal_snr and spacing == 'karras':
            raise UserError(
                f"{type(self).__name__}: with zero_terminal_snr the noisiest level is infinite, and spacing 'karras' needs "
                "a finite one; set spacing='trailing'."
            )
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        self.alpha_bar = to_zero_terminal_snr(alpha_bar) if zero_terminal_snr else alpha_bar
        self.log_level = (torch.log1p(-self.alpha_bar) - self.alpha_bar.log()) / 2

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar), sqrt(1 - alpha_bar): float32 at whole-number t, else of t's type, interpolated in between."""
        if not t.is_floating_point():
            alpha_bar = self._tables(t.device)[0][t]
            return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
        alpha_bar = self._between(t.double().clamp(0, self.steps - 1))
        return alpha_bar.sqrt().to(t), (1 - alpha_bar).sqrt().to(t)

    def sample_t(self, count: int, device: torch.device) -> Tensor:
        """Training times: (count,), whole numbers but for 'log_normal', where the level is met exactly."""
        if self.times == 'uniform':
            return torch.randint(self.steps, (count,), device=device)
        return super().sample_t(count, device)

    def unit_time(self, t: Tensor) -> Tensor:
        """t / (steps - 1)."""
        return t.float() / (self.steps - 1)

    def time_at_unit(self, u: Tensor) -> Tensor:
        """The whole time below u * steps."""
        return (u * self.steps).long().clamp(max=self.steps - 1)

    def time_at_level(self, level: Tensor) -> Tensor:
        """Interpolated in ln(sigma / alpha), as alpha_sigma is."""
        table, log_level = self._tables(level.device)[1], level.double().log()
        low = (torch.searchsorted(table, log_level, right=True) - 1).clamp(0, self.steps - 2)
        part = ((log_level - table[low]) / (table[low + 1] - table[low])).clamp(0, 1)
        return (low + part).to(level)

    def spaced(self, steps: int) -> Tensor:
        """Whole numbers, or for 'karras' float32; the last time still has noise."""
        match self.spacing:
            case 'leading':
                return leading_times(self.steps, steps)
            case 'trailing':
                return trailing_times(self.steps, steps)
            case 'linspace':
                return linspace_times(self.steps, steps)
            case _:
                low, *_, high = self.log_level.exp().tolist()
                return self.time_at_level(karras_levels(steps, low, high, self.rho)).float()

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """alpha_bar and log_level on a device, where they stay: a copy in every step would wait for a GPU."""
        if self.alpha_bar.device != device:
            self.alpha_bar, self.log_level = self.alpha_bar.to(device), self.log_level.to(device)
        return self.alpha_bar, self.log_level

    def _between(self, t: Tensor) -> Tensor:
        """alpha_bar at float64 times."""
        alpha_bar, table = self._tables(t.device)
        low = t.long().clamp(max=self.steps - 2)
        part = t - low
        between = torch.sigmoid(-2 * torch.lerp(table[low], table[low + 1], part))
        # No level lies half-way to an infinite one: there alpha itself goes to 0 evenly.
        between = torch.where(table[low + 1].isinf(), alpha_bar[low] * (1 - part) ** 2, between)
        # Exactly the table at whole times, whatever the rounding of logarithms.
        return torch.where(part == 0, alpha_bar[low], torch.where(part == 1, alpha_bar[low + 1], between))


@NOISE_SCHEDULERS.register_module()
class ScaledLinearDDPM(DiscretePath):
    """Discrete times 0..steps-1; sqrt(beta) grows linearly. Rombach et al. 2022. Settings: DiscretePath's."""

    def __init__(
        self,
        steps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        prediction: str = 'epsilon',
        zero_terminal_snr: bool = False,
        weighting: str = 'constant',
        gamma: float = 5.0,
        times: str = 'uniform',
        mean: float = 0.0,
        std: float = 1.0,
        spacing: str = 'trailing',
        rho: float = 7.0,
        data_std: float = 1.0,
    ) -> None:
        betas = scaled_linear_betas(steps, beta_start, beta_end)
        super().__init__(
            betas, prediction, zero_terminal_snr, weighting, gamma, times, mean, std, spacing, rho, data_std
        )


@NOISE_SCHEDULERS.register_module()
class LinearDDPM(DiscretePath):
    """Discrete times 0..steps-1; beta grows linearly. Ho et al. 2020. Settings: DiscretePath's."""

    def __init__(
        self,
        steps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        prediction: str = 'epsilon',
        zero_terminal_snr: bool = False,
        weighting: str = 'constant',
        gamma: float = 5.0,
        times: str = 'uniform',
        mean: float = 0.0,
        std: float = 1.0,
        spacing: str = 'trailing',
        rho: float = 7.0,
        data_std: float = 1.0,
    ) -> None:
        betas = linear_betas(steps, beta_start, beta_end)
        super().__init__(
            betas, prediction, zero_terminal_snr, weighting, gamma, times, mean, std, spacing, rho, data_std
        )


@NOISE_SCHEDULERS.register_module()
class CosineDDPM(DiscretePath):
    """Discrete times 0..steps-1; alpha_bar falls as cos^2. Nichol & Dhariwal 2021.

    offset: the s of equation 17; largest_beta: where betas are clipped. The other settings are DiscretePath's.
    """

    def __init__(
        self,
        steps: int = 1000,
        offset: float = 0.008,
        largest_beta: float = 0.999,
        prediction: str = 'epsilon',
        zero_terminal_snr: bool = False,
        weighting: str = 'constant',
        gamma: float = 5.0,
        times: str = 'uniform',
        mean: float = 0.0,
        std: float = 1.0,
        spacing: str = 'trailing',
        rho: float = 7.0,
        data_std: float = 1.0,
    ) -> None:
        betas = cosine_betas(steps, offset, largest_beta)
        super().__init__(
            betas, prediction, zero_terminal_snr, weighting, gamma, times, mean, std, spacing, rho, data_std
        )
