"""DDIM against an exact solution and published figures; its noise against the process that was learnt."""

from itertools import pairwise

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models.noise_schedulers import RectifiedFlow, ScaledLinearDDPM
from gmscavp.models.samplers import DDIM
from gmscavp.models.samplers.ddim import ddim_step

# Data from N(MEAN, SPREAD^2), for which the best denoiser and the probability flow are known.
MEAN, SPREAD = 0.7, 0.3
START = torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.5], dtype=torch.float64)


class Exact:
    """A scheduler in double precision."""

    def __init__(self, scheduler):
        self.scheduler = scheduler

    def alpha_sigma(self, t):
        if isinstance(self.scheduler, ScaledLinearDDPM):
            return self.scheduler.alpha_bar[t].sqrt(), (1 - self.scheduler.alpha_bar[t]).sqrt()
        return self.scheduler.alpha_sigma(t)


def ideal(scheduler):
    def denoise(x, t):
        alpha, sigma = scheduler.alpha_sigma(t)
        return (sigma**2 * MEAN + alpha * SPREAD**2 * x) / (alpha**2 * SPREAD**2 + sigma**2)

    return denoise


def figures(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_ddim_on_the_trailing_grid_gives_the_published_figures():
    scheduler = Exact(ScaledLinearDDPM())
    x0 = DDIM()(ideal(scheduler), START, ScaledLinearDDPM().grid(25), scheduler)
    torch.testing.assert_close(x0, figures(0.327524, 0.568175, 0.6885, 0.808826, 1.049477), atol=1e-6, rtol=0)


def test_steps_on_the_leading_grid_give_the_published_figures():
    """Times 961, 921, ..., 1, and a last step to time 0, whose noise the published figures leave in."""
    scheduler, x = Exact(ScaledLinearDDPM()), START
    for t, later in pairwise([*range(961, 0, -40), 0]):
        x0 = ideal(scheduler)(x, torch.tensor(t))
        x = ddim_step(x, x0, scheduler.alpha_sigma(t), scheduler.alpha_sigma(later), 0.0, None)
    torch.testing.assert_close(x, figures(0.29429, 0.554214, 0.684176, 0.814138, 1.074063), atol=1e-6, rtol=0)


def test_on_the_flow_path_it_is_eulers_method():
    scheduler = Exact(RectifiedFlow())
    grid = torch.linspace(1, 0, 26, dtype=torch.float64)
    x0 = DDIM()(ideal(scheduler), START, grid, scheduler)
    torch.testing.assert_close(x0, figures(0.283438, 0.561146, 0.7, 0.838854, 1.116562), atol=1e-6, rtol=0)
    shifted = 3 * grid / (1 + 2 * grid)
    x0 = DDIM()(ideal(scheduler), START, shifted, scheduler)
    torch.testing.assert_close(x0, figures(0.32446, 0.57482, 0.7, 0.82518, 1.07554), atol=1e-5, rtol=0)


def test_the_error_halves_with_twice_the_steps():
    scheduler, exact = Exact(RectifiedFlow()), figures(0.25, 0.55, 0.7, 0.85, 1.15)
    errors = [
        (DDIM()(ideal(scheduler), START, torch.linspace(1, 0, n + 1, dtype=torch.float64), scheduler) - exact)
        .abs()
        .max()
        for n in (25, 50, 100)
    ]
    assert errors[0].item() == pytest.approx(3.34e-2, rel=1e-2)
    assert [(a / b).item() for a, b in pairwise(errors)] == pytest.approx([2, 2], rel=0.05)


@pytest.mark.parametrize('eta', [0.5, 1.0])
@pytest.mark.parametrize('kind', [ScaledLinearDDPM, RectifiedFlow])
def test_fresh_noise_keeps_the_distribution(kind, eta):
    torch.manual_seed(0)
    scheduler, grid = Exact(kind()), kind().grid(100)
    x0 = DDIM(eta)(ideal(scheduler), torch.randn(20000, dtype=torch.float64), grid, scheduler)
    assert x0.mean().item() == pytest.approx(MEAN, abs=0.03)
    # First order in 100 steps: a few percent too narrow, as without fresh noise.
    assert x0.std().item() == pytest.approx(SPREAD, rel=0.12)


def test_noise_is_that_of_equation_16():
    scheduler = Exact(ScaledLinearDDPM())
    here, there = scheduler.alpha_sigma(torch.tensor(500)), scheduler.alpha_sigma(torch.tensor(460))
    a, a_next = here[0] ** 2, there[0] ** 2
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    fresh = ddim_step(zero, zero, here, there, 0.7, one)
    torch.testing.assert_close(fresh, 0.7 * one * ((1 - a_next) / (1 - a) * (1 - a / a_next)).sqrt())
    # Equation 12: what is left of the old noise fills up the level.
    torch.testing.assert_close(ddim_step(here[1] * one, zero, here, there, 0.7, zero) ** 2 + fresh**2, 1 - a_next[None])


def test_seed_repeats_a_stochastic_run_and_eta_is_checked():
    scheduler, grid = Exact(RectifiedFlow()), RectifiedFlow().grid(5)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(DDIM(1.0)(ideal(scheduler), START, grid, scheduler))
    assert torch.equal(*runs)
    with pytest.raises(UserError, match='eta must lie between 0 and 1'):
        DDIM(eta=1.5)
