"""Samplers against an exact solution and published figures; their noise against the process that was learnt."""

import math
from itertools import pairwise

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models.noise_schedulers import (
    EDM,
    CosineDDPM,
    LinearDDPM,
    RectifiedFlow,
    ScaledLinearDDPM,
    karras_levels,
)
from gmscavp.models.samplers import DDIM, DPMSolver2M, Euler, EulerAncestral, Heun, Midpoint
from gmscavp.models.samplers.ddim import ddim_step
from gmscavp.models.samplers.dpm_solver import extrapolated
from gmscavp.registry import MODELS, SAMPLERS
from tests.models.builders import LENGTHS, tiny_model
from tests.models.gaussian import MEAN, SPREAD, START, ByRatio, exact, figures, ideal

DDPM_LEVELS = (1 / ScaledLinearDDPM().alpha_bar - 1).sqrt()  # sigma / alpha
KARRAS = karras_levels(25, *DDPM_LEVELS[[0, -1]].tolist())
EXACT = figures(0.23467668, 0.53531481, 0.68563388, 0.83595294, 1.13659108)
EXACT_FLOW = figures(0.25, 0.55, 0.7, 0.85, 1.15)
DETERMINISTIC = [DDIM(), Euler(), Heun(), Heun('ratio'), Midpoint(), DPMSolver2M()]
STOCHASTIC = [DDIM(0.5), DDIM(1.0), EulerAncestral()]
SCHEDULERS = [
    LinearDDPM(),
    LinearDDPM(spacing='karras'),
    ScaledLinearDDPM(),
    ScaledLinearDDPM(spacing='leading'),
    ScaledLinearDDPM(spacing='linspace'),
    ScaledLinearDDPM(spacing='karras'),
    ScaledLinearDDPM(prediction='v', zero_terminal_snr=True),
    CosineDDPM(),
    CosineDDPM(spacing='karras'),
    RectifiedFlow(),
    RectifiedFlow(shift=3.0),
    RectifiedFlow(spacing='trailing'),
    RectifiedFlow(spacing='karras'),
    EDM(),
    EDM(spacing='linspace'),
]


def name_of(part):
    told = [str(getattr(part, name)) for name in ('spacing', 'coordinates', 'eta') if hasattr(part, name)]
    return '-'.join([type(part).__name__, *told]) if told or hasattr(part, 'evaluations') else None


def even(steps, shift=1.0):
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * grid / (1 + (shift - 1) * grid)


def scaled_start(grid):
    """Where the published figures in sigma / alpha begin: at noise * sigma, as if alpha were 1 in the noise's width."""
    return START * grid[0] / (1 + grid[0] ** 2).sqrt()


def evenly_interpolated(steps):
    """Levels at even, fractional times from 999 to 0, interpolated linearly: what Euler and Heun were published on."""
    t = torch.linspace(999, 0, steps, dtype=torch.float64)
    low = t.long().clamp(max=998)
    return torch.lerp(DDPM_LEVELS[low], DDPM_LEVELS[low + 1], t - low)


def solve(sampler, scheduler, grid, start=START):
    return sampler(ideal(scheduler), start, grid, scheduler)


def test_exact_map_is_the_known_one():
    scheduler, last = ScaledLinearDDPM(), torch.tensor(999.0, dtype=torch.float64)
    torch.testing.assert_close(exact(scheduler, START, last), EXACT, atol=1e-8, rtol=0)
    torch.testing.assert_close(exact(RectifiedFlow(), START, last / 999), EXACT_FLOW)


@pytest.mark.parametrize('sampler', [DDIM(), Euler()])
def test_first_order_on_the_trailing_grid_gives_the_published_figures(sampler):
    x0 = solve(sampler, ScaledLinearDDPM(), ScaledLinearDDPM().grid(25).double())
    torch.testing.assert_close(x0, figures(0.327524, 0.568175, 0.6885, 0.808826, 1.049477), atol=1e-6, rtol=0)


def test_steps_on_the_leading_grid_give_the_published_figures():
    """Times 961, 921, ..., 1, and a last step to time 0, whose noise the published figures leave in."""
    scheduler, x = ScaledLinearDDPM(), START
    for t, later in pairwise(figures(*range(961, 0, -40), 0)):
        x0 = ideal(scheduler)(x, t)
        x = ddim_step(x, x0, scheduler.alpha_sigma(t), scheduler.alpha_sigma(later), 0.0, None)
    torch.testing.assert_close(x, figures(0.29429, 0.554214, 0.684176, 0.814138, 1.074063), atol=1e-6, rtol=0)


def test_dpm_solver_gives_the_published_figures():
    scheduler = ScaledLinearDDPM(spacing='linspace')
    x0 = solve(DPMSolver2M(), scheduler, scheduler.grid(25).double())
    torch.testing.assert_close(x0, figures(0.31229, 0.562783, 0.68803, 0.813277, 1.06377), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ('sampler', 'published'),
    [
        (Euler(), [0.311739, 0.562571, 0.687986, 0.813402, 1.064233]),
        (Heun('ratio'), [0.227317, 0.532688, 0.685374, 0.83806, 1.143431]),
    ],
    ids=name_of,
)
def test_euler_and_heun_in_sigma_give_the_published_figures(sampler, published):
    grid = evenly_interpolated(25)
    torch.testing.assert_close(
        solve(sampler, ByRatio, grid, scaled_start(grid)), figures(*published), atol=2e-6, rtol=0
    )


def test_karras_grid_gives_the_published_errors():
    errors = [
        (solve(sampler, ByRatio, KARRAS, scaled_start(KARRAS)) - EXACT).abs().max().item()
        for sampler in (Euler(), Heun('ratio'))
    ]
    assert errors == pytest.approx([3.63e-2, 1.62e-3], rel=4e-3)


def test_dpm_solver_on_karras_gives_the_published_figures():
    """There the network was asked for the noise at whole times, so its levels and the solver's differ a little."""
    scheduler = ScaledLinearDDPM()

    def denoise(x, t):
        whole = scheduler.time_at_level(t).round()
        (alpha, sigma), (here_alpha, here_sigma) = scheduler.alpha_sigma(whole), ByRatio.alpha_sigma(t)
        eps = (x - alpha * ideal(scheduler)(x, whole)) / sigma
        return (x - here_sigma * eps) / here_alpha

    x0 = DPMSolver2M()(denoise, START, KARRAS, ByRatio)
    torch.testing.assert_close(x0, figures(0.232812, 0.534691, 0.68563, 0.836569, 1.138447), atol=2e-6, rtol=0)
    assert (x0 - EXACT).abs().max().item() == pytest.approx(1.86e-3, rel=3e-3)


@pytest.mark.parametrize('sampler', [DDIM(), Euler()])
def test_first_order_on_the_flow_path_is_eulers_method(sampler):
    x0 = solve(sampler, RectifiedFlow(), even(25))
    torch.testing.assert_close(x0, figures(0.283438, 0.561146, 0.7, 0.838854, 1.116562), atol=1e-6, rtol=0)
    x0 = solve(sampler, RectifiedFlow(), even(25, shift=3.0))
    torch.testing.assert_close(x0, figures(0.32446, 0.57482, 0.7, 0.82518, 1.07554), atol=1e-5, rtol=0)
    errors = [(solve(sampler, RectifiedFlow(), even(n)) - EXACT_FLOW).abs().max().item() for n in (25, 50, 100)]
    assert errors[0] == pytest.approx(3.34e-2, rel=1e-2)
    assert [a / b for a, b in pairwise(errors)] == pytest.approx([2, 2], rel=0.05)


def test_second_order_on_the_flow_path_gives_the_published_errors():
    def error(sampler, grid):
        return (solve(sampler, RectifiedFlow(), grid) - EXACT_FLOW).abs().max().item()

    assert error(Midpoint(), even(25)) == pytest.approx(1.81e-5, rel=4e-3)
    # The published Heun corrects its last step too, with the velocity at 0; a hair before it the noise is still told.
    grid = even(25)
    grid[-1] = 1e-7
    assert error(Heun(), grid) == pytest.approx(8.96e-4, rel=1e-3)


@pytest.mark.parametrize(
    ('sampler', 'order'),
    [(Euler(), 1), (Heun(), 2), (Heun('ratio'), 2), (DPMSolver2M(), 2), (Midpoint(), 2)],
    ids=name_of,
)
@pytest.mark.parametrize('scheduler', [EDM(), RectifiedFlow(), ScaledLinearDDPM()], ids=name_of)
def test_order_of_convergence_on_karras(scheduler, sampler, order):
    """Down to so little noise that the step to the clean signal does not count, or, in DDPM, from time 0's level."""
    top = {EDM: 80.0, RectifiedFlow: 80.0, ScaledLinearDDPM: DDPM_LEVELS[-1].item()}[type(scheduler)]
    low = DDPM_LEVELS[0].item() if isinstance(scheduler, ScaledLinearDDPM) else 1e-4
    errors = []
    for steps in (25, 50, 100):
        grid = scheduler.time_at_level(karras_levels(steps, low, top))
        alpha, sigma = scheduler.alpha_sigma(grid[0])
        x = START * torch.hypot(alpha, sigma)
        # What an exact solution to grid[-1] would give: the last step is the same for all.
        alpha, sigma = scheduler.alpha_sigma(grid[-1])
        width = (alpha**2 * SPREAD**2 + sigma**2).sqrt()
        there = alpha * MEAN + width * (exact(scheduler, x, grid[0]) - MEAN) / SPREAD
        goal = ideal(scheduler)(there, grid[-1])
        errors.append((solve(sampler, scheduler, grid, x) - goal).abs().max().item())
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    # The midpoint rule is third order on some paths of this case.
    assert order - 0.15 < orders[-1] < order + (1.2 if isinstance(sampler, Midpoint) else 0.35)


@pytest.mark.parametrize('scheduler', SCHEDULERS, ids=name_of)
@pytest.mark.parametrize('sampler', DETERMINISTIC, ids=name_of)
def test_every_sampler_solves_every_path(scheduler, sampler):
    grid = scheduler.grid(50).double()
    alpha, sigma = scheduler.alpha_sigma(grid[0])
    x = START * torch.hypot(alpha, sigma)
    if name_of(sampler) == 'Heun-ratio' and alpha == 0:
        with pytest.raises(UserError, match=r"cannot begin at pure noise.*use 'path'"):
            solve(sampler, scheduler, grid, x)
        return
    assert (solve(sampler, scheduler, grid, x) - exact(scheduler, x, grid[0])).abs().max() < 0.08


@pytest.mark.parametrize('scheduler', SCHEDULERS, ids=name_of)
@pytest.mark.parametrize('sampler', STOCHASTIC, ids=name_of)
def test_fresh_noise_keeps_the_distribution(scheduler, sampler):
    torch.manual_seed(0)
    grid = scheduler.grid(200).double()
    alpha, sigma = scheduler.alpha_sigma(grid[0])
    x = alpha * MEAN + (alpha**2 * SPREAD**2 + sigma**2).sqrt() * torch.randn(10000, dtype=torch.float64)
    x0 = solve(sampler, scheduler, grid, x)
    assert x0.mean().item() == pytest.approx(MEAN, abs=0.02)
    # First order in 200 steps: too narrow by some percent, as without fresh noise.
    assert x0.std().item() == pytest.approx(SPREAD, rel=0.1)


def test_noise_is_that_of_equation_16():
    scheduler = ScaledLinearDDPM()
    here, there = (scheduler.alpha_sigma(t) for t in figures(500, 460))
    a, a_next = here[0] ** 2, there[0] ** 2
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    fresh = ddim_step(zero, zero, here, there, 0.7, one)
    torch.testing.assert_close(fresh, 0.7 * one * ((1 - a_next) / (1 - a) * (1 - a / a_next)).sqrt())
    # Equation 12: what is left of the old noise fills up the level.
    torch.testing.assert_close(ddim_step(here[1] * one, zero, here, there, 0.7, zero) ** 2 + fresh**2, 1 - a_next[None])


def test_euler_ancestral_is_eulers_step_to_less_noise_and_fresh_noise_on_top():
    """The published form, in x / alpha and s = sigma / alpha."""
    torch.manual_seed(1)
    s, x0 = figures(3.0, 1.2, 0.4), ideal(ByRatio)
    y = START * s[0]
    torch.manual_seed(2)
    for here, there in pairwise(s):
        up = (there**2 * (here**2 - there**2) / here**2).sqrt()
        down = (there**2 - up**2).sqrt()
        alpha = 1 / (1 + here**2).sqrt()
        y = y + (y - x0(alpha * y, here)) / here * (down - here) + up * torch.randn_like(y)
    y = x0(y / (1 + s[-1] ** 2).sqrt(), s[-1])
    torch.manual_seed(2)
    ours = solve(EulerAncestral(), ByRatio, s, START * s[0] / (1 + s[0] ** 2).sqrt())
    torch.testing.assert_close(ours, y)


def test_dpm_solver_step_is_that_of_algorithm_2():
    before, here, there = (ByRatio.alpha_sigma(t) for t in figures(4.0, 2.0, 1.2))
    seen, x0 = torch.randn(2, 3, dtype=torch.float64)
    h_before, h = (math.log(a) - math.log(b) for a, b in ((4.0, 2.0), (2.0, 1.2)))
    half = 1 / (2 * h_before / h)
    torch.testing.assert_close(extrapolated(x0, seen, before, here, there), (1 + half) * x0 - half * seen)
    noise = (figures(0)[0], figures(1)[0])
    assert torch.equal(extrapolated(x0, seen, noise, here, there), x0)


@pytest.mark.parametrize('sampler', STOCHASTIC, ids=name_of)
def test_seed_repeats_a_stochastic_run(sampler):
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        runs.append(solve(sampler, RectifiedFlow(), RectifiedFlow().grid(5)))
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


@pytest.mark.parametrize('sampler', DETERMINISTIC, ids=name_of)
def test_no_noise_is_drawn_and_a_clip_does_not_depend_on_its_batch(sampler):
    scheduler, x = ScaledLinearDDPM(), torch.randn(6, 3, 4)
    grid, state = scheduler.grid(8), torch.get_rng_state()
    whole = solve(sampler, scheduler, grid, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert whole.dtype == torch.float32
    assert torch.equal(whole[2:3], solve(sampler, scheduler, grid, x[2:3]))


@pytest.mark.parametrize('scheduler', [ScaledLinearDDPM(), RectifiedFlow(spacing='karras'), EDM()], ids=name_of)
@pytest.mark.parametrize('sampler', [*DETERMINISTIC, *STOCHASTIC], ids=name_of)
def test_evaluations_are_what_is_told(scheduler, sampler):
    for steps in (1, 2, 9):
        calls = []

        def denoise(x, t, calls=calls):
            calls.append(t)
            return ideal(scheduler)(x, t)

        sampler(denoise, START, scheduler.grid(steps), scheduler)
        # Midpoint saves one where the step to the clean signal starts at the grid's last time.
        saved = isinstance(sampler, Midpoint) and isinstance(scheduler, ScaledLinearDDPM)
        assert len(calls) == sampler.evaluations(steps) - saved


@pytest.mark.parametrize('scheduler', ['ScaledLinearDDPM', 'CosineDDPM', 'RectifiedFlow', 'EDM'])
@pytest.mark.parametrize('sampler', ['DDIM', 'Euler', 'EulerAncestral', 'Heun', 'Midpoint', 'DPMSolver2M'])
def test_translation_takes_every_pair_by_name(scheduler, sampler):
    cfg = tiny_model()
    cfg['diffusion'] |= dict(scheduler=dict(type=scheduler), sampler=dict(type=sampler))
    torch.manual_seed(0)
    diffusion = MODELS.build(cfg).diffusion
    tokens = [torch.randn(2, n, 16) for n in LENGTHS]
    one, again = (diffusion.translate('v2a', tokens, steps=3, seed=1) for _ in range(2))
    for x, y, n in zip(one, again, LENGTHS, strict=True):
        assert x.shape == (2, n, 4)
        assert x.dtype == torch.float32
        assert x.isfinite().all()
        assert torch.equal(x, y)


def test_impossible_settings_are_refused():
    for kind in ('DDIM', 'EulerAncestral'):
        with pytest.raises(UserError, match='eta must lie between 0 and 1'):
            SAMPLERS.build(dict(type=kind, eta=1.5))
    with pytest.raises(UserError, match='coordinates must be one of path, ratio'):
        Heun(coordinates='polar')
