"""What holds for every sampler, path, grid and parameterisation, tried on drawn ones."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import booleans, composite, floats, integers, lists, sampled_from

from gmscavp.models.noise_schedulers import (
    EDM,
    PREDICTIONS,
    CosineDDPM,
    LinearDDPM,
    NoiseScheduler,
    RectifiedFlow,
    ScaledLinearDDPM,
    karras_levels,
    loss_weight,
    predicted_x0,
    prediction_target,
    shifted,
)
from gmscavp.models.noise_schedulers.prediction import input_scale, prediction_gain
from gmscavp.models.noise_schedulers.weighting import edm_weight, min_snr_weight
from gmscavp.models.samplers import DDIM, DPMSolver2M, Euler, EulerAncestral, Heun, Midpoint
from tests.models.gaussian import START, exact, figures, ideal

DETERMINISTIC = [DDIM, Euler, Heun, lambda: Heun('ratio'), Midpoint, DPMSolver2M]
STOCHASTIC = [lambda: DDIM(0.3), lambda: DDIM(1.0), EulerAncestral]
PATHS = [LinearDDPM, ScaledLinearDDPM, CosineDDPM, RectifiedFlow, EDM]
MEANS, SPREADS = floats(-2, 2), floats(0.05, 2)


@composite
def paths_and_grids(draw):
    """A noise scheduler and falling times, from any level to the clean signal or to a level before it."""
    path = draw(sampled_from(PATHS))()
    levels = sorted(draw(lists(floats(-4, 3), min_size=2, max_size=7, unique_by=lambda x: round(x, 1))), reverse=True)
    grid = path.time_at_level(figures(*levels).exp())
    if isinstance(path, RectifiedFlow | EDM) and draw(booleans()):
        grid = torch.cat([grid, figures(0)])
    return path, grid


@given(paths_and_grids(), sampled_from([*DETERMINISTIC, *STOCHASTIC]), floats(-3, 3))
def test_one_known_signal_is_found_on_any_grid(path_and_grid, make, signal):
    """With one possible signal the flow is a straight line in (alpha, sigma), which no step may leave."""
    (path, grid), sampler = path_and_grid, make()
    torch.manual_seed(0)
    alpha, sigma = path.alpha_sigma(grid[0])

    def denoise(x, t):
        a, s = path.alpha_sigma(t)
        if not sampler.stochastic:
            torch.testing.assert_close(x, a * signal + s * START, rtol=1e-8, atol=1e-8)
        return torch.full_like(x, signal)

    found = sampler(denoise, alpha * signal + sigma * START, grid, path)
    torch.testing.assert_close(found, torch.full_like(START, signal), rtol=1e-8, atol=1e-8)


@given(paths_and_grids(), sampled_from(DETERMINISTIC), floats(0.1, 10), booleans(), MEANS, SPREADS)
def test_signals_of_another_scale_are_sampled_at_that_scale(path_and_grid, make, factor, turned, mean, spread):
    (path, grid), sampler = path_and_grid, make()
    factor = -factor if turned else factor
    denoise = ideal(path, mean, spread)
    plain = sampler(denoise, START, grid, path)
    scaled = sampler(lambda x, t: factor * denoise(x / factor, t), factor * START, grid, path)
    torch.testing.assert_close(scaled, factor * plain, rtol=1e-8, atol=1e-8)


@given(sampled_from(PATHS), sampled_from(DETERMINISTIC), MEANS, SPREADS)
def test_any_gaussian_is_sampled_as_its_closed_form_says(kind, make, mean, spread):
    path, sampler = kind(), make()
    grid = path.time_at_level(karras_levels(120, 0.03, 12.0))
    alpha, sigma = path.alpha_sigma(grid[0])
    x = START * torch.hypot(alpha, sigma)
    found = sampler(ideal(path, mean, spread), x, grid, path)
    # The step from the last level is to the mean of what may lie below the noise.
    alpha, sigma = path.alpha_sigma(grid[-1])
    width = (alpha**2 * spread**2 + sigma**2).sqrt()
    there = alpha * mean + width * (exact(path, x, grid[0], mean, spread) - mean) / spread
    goal = ideal(path, mean, spread)(there, grid[-1])
    first_order = isinstance(sampler, DDIM | Euler)
    torch.testing.assert_close(found, goal, rtol=0, atol=(0.05 if first_order else 0.01) * (spread + abs(mean)))


@given(sampled_from(STOCHASTIC), integers(0, 2**31), MEANS, SPREADS)
def test_fresh_noise_keeps_any_gaussian(make, seed, mean, spread):
    path = EDM()
    grid = path.time_at_level(karras_levels(100, 0.01, 20.0))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(4000, generator=generator, dtype=torch.float64)
    torch.manual_seed(seed)
    found = make()(ideal(path, mean, spread), mean + (spread**2 + grid[0] ** 2).sqrt() * noise, grid, path)
    assert found.mean().item() == pytest.approx(mean, abs=0.1 * spread)
    assert found.std().item() == pytest.approx(spread, rel=0.15)


@given(
    kind=sampled_from([LinearDDPM, ScaledLinearDDPM]),
    steps=integers(2, 300),
    ends=lists(floats(1e-5, 0.2), min_size=2, max_size=2),
    zero=booleans(),
)
def test_any_discrete_path_loses_signal_all_the_way(kind, steps, ends, zero):
    start, end = sorted(ends)
    path = kind(steps, start, end, prediction='v', zero_terminal_snr=zero)
    times = torch.linspace(0, steps - 1, 4 * steps, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(times)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert (alpha.diff() < 0).all()
    torch.testing.assert_close(alpha[0] ** 2, figures(1 - start)[0])
    # What each step leaves of the signal, by the definition of beta.
    grown = torch.linspace(start, end, steps, dtype=torch.float64)
    if kind is ScaledLinearDDPM:
        grown = torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64) ** 2
    kept = torch.tensor([math.prod((1 - grown[: n + 1]).tolist()) for n in range(steps)]).double()
    if zero:
        assert path.alpha_bar[-1] == 0
        # Signal levels are shifted and stretched alike.
        ratio = path.alpha_bar.sqrt().diff() / kept.sqrt().diff()
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)
        return
    torch.testing.assert_close(path.alpha_bar, kept, rtol=1e-5, atol=1e-9)
    levels = (sigma / alpha)[1:-1]
    torch.testing.assert_close(path.time_at_level(levels), times[1:-1], rtol=1e-6, atol=1e-6)
    # Beyond its ends a path stands still.
    assert path.time_at_level(figures(1e-9, 1e9)).tolist() == [0, steps - 1]
    outside = path.alpha_sigma(figures(-3, steps + 3))
    assert torch.equal(outside[0], alpha[[0, -1]])
    told = path.unit_time(times)
    assert (told[0], told[-1]) == (0, 1)
    assert path.time_at_unit(torch.tensor([0.0, 1.0])).tolist() == [0, steps - 1]


@given(floats(0, 1), floats(0, 1), sampled_from(PREDICTIONS), floats(0.1, 3), integers(0, 2**31))
def test_what_is_predicted_right_is_the_signal_at_any_levels(alpha, sigma, prediction, data_std, seed):
    alpha, sigma = figures(alpha + 0.05, sigma + 0.05)
    x0, eps, error = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = alpha * x0 + sigma * eps
    if prediction == 'v':
        # v is said of paths of unit variance; any other is such a one times its length.
        alpha, sigma = alpha / torch.hypot(alpha, sigma), sigma / torch.hypot(alpha, sigma)
        x = alpha * x0 + sigma * eps
    target = prediction_target(x0, eps, alpha, sigma, prediction, data_std)
    torch.testing.assert_close(predicted_x0(target, x, alpha, sigma, prediction, data_std), x0, rtol=1e-6, atol=1e-6)
    # A weight is on the error of the signal, whatever the network predicts.
    wrong = prediction_target(x0 + error, eps - alpha / sigma * error, alpha, sigma, prediction, data_std)
    torch.testing.assert_close(alpha * (x0 + error) + sigma * (eps - alpha / sigma * error), x)
    snr = (alpha / sigma) ** 2
    for weighting, of_signal in {'min_snr': snr.clamp(max=2.0), 'edm': snr + 1 / data_std**2}.items():
        weight = loss_weight(alpha, sigma, weighting, prediction, 2.0, data_std)
        torch.testing.assert_close(weight * (wrong - target) ** 2, of_signal * error**2, rtol=1e-6, atol=1e-9)


@given(floats(0, 1), floats(0.1, 10), floats(0.1, 10))
def test_a_shift_keeps_the_ends_and_two_are_their_product(t, one, other):
    assert shifted(0.0, one) == 0
    assert shifted(1.0, one) == pytest.approx(1)
    assert shifted(shifted(t, one), other) == pytest.approx(shifted(t, one * other))
    # In sigma / alpha a shift is a factor.
    if 0 < t < 1 - 1e-3:
        moved = shifted(t, one)
        assert moved / (1 - moved) == pytest.approx(one * t / (1 - t))


@given(integers(2, 200), floats(-6, 0), floats(0.1, 6), floats(1, 12))
def test_karras_levels_fall_evenly_in_their_root(steps, low, span, rho):
    least, greatest = math.exp(low), math.exp(low + span)
    levels = karras_levels(steps, least, greatest, rho)
    assert (len(levels), levels.dtype) == (steps, torch.float64)
    assert levels[[0, -1]].tolist() == pytest.approx([greatest, least])
    steps_of_root = (levels ** (1 / rho)).diff()
    torch.testing.assert_close(steps_of_root, steps_of_root[:1].expand_as(steps_of_root), rtol=1e-5, atol=0)
    assert (steps_of_root < 0).all()


@given(
    kind=sampled_from(PATHS), steps=integers(1, 60), shift=floats(0.2, 6), low=floats(1e-3, 0.1), high=floats(1, 100)
)
def test_grids_of_any_length_fall_between_their_ends(kind, steps, shift, low, high):
    settings = {RectifiedFlow: dict(shift=shift), EDM: dict(sigma_min=low, sigma_max=high)}.get(kind, {})
    for spacing in kind.SPACINGS:
        path = kind(spacing=spacing, **settings)
        grid = path.grid(steps)
        assert (grid.diff() < 0).all()
        alpha, sigma = path.alpha_sigma(grid.double())
        if kind is EDM:
            assert grid[0].item() == pytest.approx(high)
            assert steps == 1 or grid[-2].item() == pytest.approx(low)
        elif kind is RectifiedFlow:
            assert grid[0].item() == pytest.approx(80 / 81 if spacing == 'karras' else 1)
            assert spacing != 'karras' or steps == 1 or (sigma / alpha)[-2].item() == pytest.approx(0.002, rel=1e-4)
        else:
            assert 0 <= grid[-1] <= grid[0] <= 999
            assert grid[0] == 999 or spacing == 'leading'


class Plain(NoiseScheduler):
    """A path that somebody else might write: four methods, and the settings that all have."""

    SPACINGS = ('karras',)

    def alpha_sigma(self, t):
        return torch.ones_like(t), t

    def unit_time(self, t):
        return t / 10

    def time_at_unit(self, u):
        return 10 * u

    def time_at_level(self, level):
        return level

    def spaced(self, steps):
        return karras_levels(steps, 0.1, 10.0, self.rho)


def test_a_path_of_ones_own_has_the_usual_settings():
    path, t = Plain('v'), figures(0.1, 0.5, 3.0)
    assert path.weight(t).tolist() == [1, 1, 1]
    assert torch.equal(path.grid(6), karras_levels(6, 0.1, 10.0, 7.0))
    found = Plain('v', weighting='min_snr').weight(t)
    torch.testing.assert_close(found, loss_weight(torch.ones_like(t), t, 'min_snr', 'v', gamma=5.0))
    x0, eps = torch.randn(2, 3, 4, dtype=torch.float64)
    for prediction in PREDICTIONS:
        noisy, target = Plain(prediction).add_noise(x0, eps, t)
        torch.testing.assert_close(noisy, x0 + t[:, None] * eps)
        said = prediction_target(x0, eps, torch.ones(3, 1), t[:, None], prediction, data_std=1.0)
        torch.testing.assert_close(target, said)
    torch.manual_seed(0)
    assert Plain('v').sample_t(20_000, torch.device('cpu')).mean().item() == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize(
    ('path', 'mean', 'std'),
    [
        (EDM(), -1.2, 1.2),
        (RectifiedFlow(), 0.0, 1.0),
        *((kind(times='log_normal'), 0.0, 1.0) for kind in (LinearDDPM, ScaledLinearDDPM, CosineDDPM)),
        (Plain('v', times='log_normal'), 0.0, 1.0),
    ],
)
def test_training_levels_are_drawn_as_published_where_nothing_is_said(path, mean, std):
    torch.manual_seed(0)
    alpha, sigma = path.alpha_sigma(path.sample_t(20_000, torch.device('cpu')).double())
    drawn = (sigma / alpha).log()
    assert drawn.mean().item() == pytest.approx(mean, abs=0.03)
    assert drawn.std().item() == pytest.approx(std, abs=0.03)


@pytest.mark.parametrize('kind', PATHS)
def test_signals_are_taken_to_have_a_spread_of_one_and_weights_a_gamma_of_five(kind):
    settings = dict(data_std=1.0, gamma=5.0, rho=7.0)
    for weighting in ('min_snr', 'edm'):
        silent, said = (kind(weighting=weighting, prediction='edm', **more) for more in ({}, settings))
        t = silent.time_at_level(figures(0.1, 0.4, 2.0))
        assert torch.equal(silent.weight(t), said.weight(t))
    silent, said = (kind(spacing='karras', **more) for more in ({}, settings))
    assert torch.equal(silent.grid(9), said.grid(9))
    x = torch.randn(3, 2, dtype=torch.float64)
    silent, said = (kind(prediction='edm', **more) for more in ({}, settings))
    t = silent.time_at_level(figures(0.1, 0.4, 2.0))
    assert torch.equal(silent.scale_input(x, t), said.scale_input(x, t))
    assert torch.equal(silent.to_x0(x, x, t), said.to_x0(x, x, t))


def test_what_is_not_said_of_a_weight_is_as_published():
    alpha, sigma = figures(0.9, 0.3), figures(0.2, 0.8)
    snr, level = (alpha / sigma) ** 2, torch.hypot(alpha, sigma)
    torch.testing.assert_close(prediction_gain(alpha, sigma, 'edm'), 1 / level)
    torch.testing.assert_close(input_scale(alpha, sigma), 1 / level)
    torch.testing.assert_close(min_snr_weight(alpha, sigma, 'x0'), snr.clamp(max=5))
    torch.testing.assert_close(min_snr_weight(alpha, sigma, 'edm'), snr.clamp(max=5) * (sigma / level) ** 2)
    torch.testing.assert_close(edm_weight(alpha, sigma, 'x0'), snr + 1)
    torch.testing.assert_close(loss_weight(alpha, sigma, 'min_snr', 'x0'), snr.clamp(max=5))
    torch.testing.assert_close(loss_weight(alpha, sigma, 'edm', 'edm'), torch.ones_like(alpha))
    said = (
        prediction_target(alpha, sigma, alpha, sigma, 'edm', 1.0),
        predicted_x0(alpha, sigma, alpha, sigma, 'edm', 1.0),
    )
    assert torch.equal(prediction_target(alpha, sigma, alpha, sigma, 'edm'), said[0])
    assert torch.equal(predicted_x0(alpha, sigma, alpha, sigma, 'edm'), said[1])


def test_as_many_steps_as_there_are_times_are_all_of_them():
    for spacing in ('leading', 'trailing'):
        assert LinearDDPM(spacing=spacing).grid(1000).tolist() == list(range(999, -1, -1))
        assert LinearDDPM(steps=2, spacing=spacing).grid(2).tolist() == [1, 0]


def test_samplers_say_whether_they_draw_noise():
    for kind in (DDIM, EulerAncestral):
        assert [kind(eta).stochastic for eta in (0.0, 0.1, 1.0)] == [False, True, True]
    assert not any(make().stochastic for make in DETERMINISTIC)
