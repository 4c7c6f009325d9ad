"""Figures of the published schedules and grids, weights, and the algebra between parameterisations."""

import math

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models.noise_schedulers import (
    EDM,
    PREDICTIONS,
    TIMES,
    WEIGHTINGS,
    CosineDDPM,
    LinearDDPM,
    RectifiedFlow,
    ScaledLinearDDPM,
    karras_levels,
    loss_weight,
    predicted_x0,
    prediction_target,
)
from gmscavp.models.noise_schedulers.ddpm import cosine_betas
from gmscavp.registry import NOISE_SCHEDULERS

CPU = torch.device('cpu')
DISCRETE = [LinearDDPM, ScaledLinearDDPM, CosineDDPM]
ALL = [*DISCRETE, RectifiedFlow, EDM]


def figures(*values):
    return torch.tensor(values, dtype=torch.float64)


def level(scheduler, t):
    alpha, sigma = scheduler.alpha_sigma(t.double())
    return sigma / alpha


@pytest.mark.parametrize(
    ('scheduler', 'times', 'alpha_bar'),
    [
        (LinearDDPM(), [0, 499, 999], [0.9999, 0.07858723, 4.03583e-5]),
        (ScaledLinearDDPM(), [0, 249, 499, 749, 999], [0.99915, 0.6754321, 0.2776694, 0.05662345, 0.004660095]),
        (
            CosineDDPM(),
            [0, 249, 499, 749, 999],
            [1 - 4.1284e-5, 0.8470122, 0.4938435, 0.1442721, 2.4287e-9],
        ),
        (
            ScaledLinearDDPM(prediction='v', zero_terminal_snr=True),
            [1, 249, 499, 749, 998, 999],
            [0.9982335, 0.6541889, 0.242359, 0.03317145, 1.968e-7, 0],
        ),
    ],
)
def test_alpha_bar(scheduler, times, alpha_bar):
    expected = figures(*alpha_bar)
    # The absolute part is for 1.968e-7 and 2.4287e-9, of which fewer digits are known.
    torch.testing.assert_close(scheduler.alpha_bar[times], expected, rtol=3e-6, atol=2e-11)
    alpha, sigma = scheduler.alpha_sigma(torch.tensor(times))
    assert alpha.dtype == sigma.dtype == torch.float32
    torch.testing.assert_close(alpha.double() ** 2, expected, rtol=3e-6, atol=2e-11)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(len(times)))


def test_first_beta_of_cosine_and_the_clipped_last():
    betas = cosine_betas(1000, 0.008, 0.999)
    assert betas[0].item() == pytest.approx(4.1284e-5, rel=2e-5)
    assert betas[-1] == betas.max() == 0.999


def test_snr_and_its_weights():
    scheduler, times = ScaledLinearDDPM(), [0, 100, 250, 500, 750, 999]
    alpha_bar = scheduler.alpha_bar[times]
    # The published 1175.44 was computed in float32; exactly it is 1175.47. So are its weights at 0.
    snr = figures(1175.44, 8.45387, 2.06553, 0.38185, 0.0595126, 0.00468191)
    torch.testing.assert_close(alpha_bar / (1 - alpha_bar), snr, rtol=3e-5, atol=0)
    weights = {
        'epsilon': [0.00425372, 0.591445, 1, 1, 1, 1],
        'v': [0.00425011, 0.528884, 0.673792, 0.276332, 0.0561698, 0.00466009],
    }
    for prediction, expected in weights.items():
        weigh = ScaledLinearDDPM(prediction=prediction, weighting='min_snr')
        torch.testing.assert_close(weigh.weight(torch.tensor(times)).double(), figures(*expected), rtol=3e-5, atol=0)
        torch.testing.assert_close(
            weigh.weight(torch.tensor(times[1:])).double(), figures(*expected[1:]), rtol=3e-6, atol=0
        )


def test_leading_trailing_and_linspace_grids():
    assert ScaledLinearDDPM(spacing='leading').grid(25).tolist() == list(range(960, -1, -40))
    assert ScaledLinearDDPM().grid(25).tolist() == list(range(999, -1, -40))
    scheduler = ScaledLinearDDPM(spacing='linspace')
    grid = scheduler.grid(25)
    assert len(grid) == 25
    assert [*grid[:3], *grid[-3:]] == [999, 959, 919, 120, 80, 40]
    expected = figures(14.614647, 11.542775, 9.237426, 0.298264, 0.199059)
    torch.testing.assert_close(level(scheduler, grid)[[0, 1, 2, -2, -1]], expected, rtol=3e-6, atol=0)


def test_karras_grid_of_a_discrete_schedule():
    scheduler = ScaledLinearDDPM(spacing='karras')
    ends = level(scheduler, torch.tensor([0, 999])).tolist()
    exact = karras_levels(25, *ends)
    expected = figures(14.614647, 12.283042, 10.277832, 0.043743, 0.029168)
    # The lowest was published in float32, as the SNR at 0 was.
    torch.testing.assert_close(exact[[0, 1, 2, -2, -1]], expected, rtol=3e-5, atol=0)
    torch.testing.assert_close(exact[:3], expected[:3], rtol=1e-6, atol=0)
    torch.testing.assert_close(level(scheduler, scheduler.time_at_level(exact)), exact, rtol=1e-9, atol=0)
    grid = scheduler.grid(25)
    assert grid.dtype == torch.float32
    torch.testing.assert_close(level(scheduler, grid), exact, rtol=1e-5, atol=0)


def test_edm_grid():
    expected = figures(
        80, 57.586, 40.7856, 28.3746, 19.3525, 12.9101, 8.40094, 5.31519, 3.25682, 1.92334, 1.08817, 0.585348,
        0.296442, 0.139516, 0.0599473, 0.0229345, 0.00752802, 0.002, 0,
    )  # fmt: skip
    torch.testing.assert_close(EDM().grid(18).double(), expected, rtol=5e-6, atol=0)
    even = EDM(spacing='linspace').grid(18)[:-1].log()
    torch.testing.assert_close(even.diff(), even.diff().mean().expand(17), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ('shift', 'first', 'last'),
    [
        (1.0, [1, 0.95837, 0.91675, 0.87512], [0.04262, 0.001, 0]),
        (3.0, [1, 0.98576, 0.97068, 0.95469], [0.12268, 0.00893, 0]),
    ],
)
def test_flow_grid(shift, first, last):
    grid = RectifiedFlow(shift=shift).grid(25)
    assert len(grid) == 26
    torch.testing.assert_close(grid[:4], torch.tensor(first, dtype=torch.float32), atol=1e-5, rtol=0)
    torch.testing.assert_close(grid[-3:], torch.tensor(last, dtype=torch.float32), atol=1e-5, rtol=0)


def test_the_defaults_draw_weigh_and_space_as_they_always_did():
    """Exactly, so that runs from before the choices by name go on as they began."""
    flow, ddpm = RectifiedFlow(mean=0.5, std=0.8), ScaledLinearDDPM()
    torch.manual_seed(3)
    expected = [torch.sigmoid(0.5 + 0.8 * torch.randn(64)), torch.randint(1000, (64,))]
    torch.manual_seed(3)
    drawn = [flow.sample_t(64, CPU), ddpm.sample_t(64, CPU)]
    assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(drawn, expected, strict=True))
    assert all(torch.equal(s.weight(t), torch.ones(64)) for s, t in zip((flow, ddpm), drawn, strict=True))
    even = torch.cat([torch.linspace(1, 1 / 1000, 25, dtype=torch.float64), figures(0)]).float()
    assert torch.equal(flow.grid(25), even)
    assert torch.equal(ddpm.grid(25), torch.arange(999, -1, -40))
    alpha_bar = ddpm.alpha_bar[drawn[1]]
    levels = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
    assert all(map(torch.equal, ddpm.alpha_sigma(drawn[1]), levels))


@pytest.mark.parametrize('prediction', PREDICTIONS)
@pytest.mark.parametrize('kind', ALL)
def test_the_right_prediction_gives_back_the_clean_signal(kind, prediction):
    scheduler = kind(prediction=prediction)
    x0, eps = torch.randn(2, 64, 3, 5)
    t = scheduler.sample_t(64, CPU)
    noisy, target = scheduler.add_noise(x0, eps, t)
    alpha, sigma = scheduler.alpha_sigma(t)
    clear = sigma / alpha < 10  # where alpha is small, dividing by it only shows rounding
    torch.testing.assert_close(scheduler.to_x0(target, noisy, t)[clear], x0[clear], atol=1e-4, rtol=1e-3)


def test_edm_prediction_is_the_papers_and_v_at_unit_variance():
    """c_skip, c_out and c_in of table 1, and their effective weight lambda c_out^2 = 1."""
    sigma, std = figures(0.002, 0.3, 1.7, 80), 0.5
    one = torch.ones_like(sigma)
    x, output = torch.randn(2, 4, dtype=torch.float64)
    skip, out = std**2 / (sigma**2 + std**2), sigma * std / (sigma**2 + std**2).sqrt()
    torch.testing.assert_close(predicted_x0(output, x, one, sigma, 'edm', std), skip * x + out * output)
    scheduler = EDM(data_std=std)
    shown = scheduler.scale_input(x[:, None], sigma)
    torch.testing.assert_close(shown[:, 0], x / (sigma**2 + std**2).sqrt())
    torch.testing.assert_close(scheduler.weight(sigma), one)
    in_x0 = EDM(data_std=std, prediction='x0').weight(sigma)
    torch.testing.assert_close(in_x0, (sigma**2 + std**2) / (sigma * std) ** 2)
    alpha, sigma = ScaledLinearDDPM().alpha_sigma(torch.tensor([0, 400, 999]))
    x0, eps = torch.randn(2, 3)
    targets = [prediction_target(x0, eps, alpha, sigma, name) for name in ('edm', 'v')]
    torch.testing.assert_close(targets[0], -targets[1])


def test_edm_input_and_target_have_unit_variance():
    torch.manual_seed(0)
    scheduler = EDM(data_std=0.5)
    x0, eps = 0.5 * torch.randn(3, 40000), torch.randn(3, 40000)
    t = torch.tensor([0.01, 0.5, 50.0])
    noisy, target = scheduler.add_noise(x0, eps, t)
    for part in (scheduler.scale_input(noisy, t), target):
        torch.testing.assert_close(part.std(dim=1), torch.ones(3), atol=0.02, rtol=0)
    plain = EDM(prediction='x0')
    assert plain.scale_input(noisy, t) is noisy


@pytest.mark.parametrize('weighting', ['min_snr', 'edm'])
@pytest.mark.parametrize('kind', [ScaledLinearDDPM, RectifiedFlow, EDM])
def test_a_weight_means_the_same_error_of_the_signal_for_every_prediction(kind, weighting):
    scheduler = kind()
    t = scheduler.time_at_level(figures(0.05, 0.4, 1.0, 6.0))
    alpha, sigma = scheduler.alpha_sigma(t)
    x0, eps, error = torch.randn(3, 4, dtype=torch.float64)
    x, losses = alpha * x0 + sigma * eps, []
    for prediction in PREDICTIONS:
        # Every network errs so that the clean signal it stands for is off by `error`.
        off = (x - alpha * (x0 + error)) / sigma
        told, wanted = (
            prediction_target(a, b, alpha, sigma, prediction, 0.7) for a, b in ((x0 + error, off), (x0, eps))
        )
        torch.testing.assert_close(predicted_x0(told, x, alpha, sigma, prediction, 0.7), x0 + error)
        losses.append(loss_weight(alpha, sigma, weighting, prediction, 5.0, 0.7) * (told - wanted) ** 2)
    for loss in losses:
        torch.testing.assert_close(loss, losses[0])


def test_weights_are_finite_at_pure_noise_and_at_the_clean_signal():
    ends = torch.tensor([0.0, 1.0])
    for prediction in ('v', 'flow', 'edm'):
        for weighting in WEIGHTINGS:
            assert RectifiedFlow(prediction=prediction, weighting=weighting).weight(ends).isfinite().all()
    last = ScaledLinearDDPM(prediction='v', zero_terminal_snr=True, weighting='min_snr').weight(torch.tensor([999]))
    assert last.item() == 0


@pytest.mark.parametrize('times', TIMES)
@pytest.mark.parametrize('kind', ALL)
def test_training_times_follow_their_distribution(kind, times):
    scheduler = kind(times=times, mean=-0.3, std=0.6)
    torch.manual_seed(0)
    t = scheduler.sample_t(20000, CPU)
    assert t.shape == (20000,)
    if times == 'log_normal':
        drawn = level(scheduler, t).log()
    else:
        u = scheduler.unit_time(t).double()
        assert ((u >= 0) & (u <= 1)).all()
        drawn = torch.logit(u.clamp(1e-4, 1 - 1e-4)) if times == 'logit_normal' else u
    mean, std = (0.5, 12**-0.5) if times == 'uniform' else (-0.3, 0.6)
    assert drawn.mean().item() == pytest.approx(mean, abs=0.02)
    assert drawn.std().item() == pytest.approx(std, abs=0.02)


@pytest.mark.parametrize('kind', ALL)
def test_time_and_level_are_inverse(kind):
    scheduler = kind()
    levels = karras_levels(50, 0.03, 5.0)
    torch.testing.assert_close(level(scheduler, scheduler.time_at_level(levels)), levels, rtol=1e-9, atol=0)
    assert scheduler.time_at_level(levels.float()).dtype == torch.float32
    u = torch.linspace(0, 0.999, 50)
    torch.testing.assert_close(scheduler.unit_time(scheduler.time_at_unit(u)), u, atol=1.1e-3, rtol=0)


@pytest.mark.parametrize('zero', [False, True])
@pytest.mark.parametrize('kind', DISCRETE)
def test_levels_between_whole_times(kind, zero):
    scheduler = kind(prediction='v', zero_terminal_snr=zero)
    whole = torch.arange(1000)
    alpha, sigma = scheduler.alpha_sigma(whole.double())
    assert torch.equal(alpha, scheduler.alpha_bar.sqrt())
    assert torch.equal(sigma, (1 - scheduler.alpha_bar).sqrt())
    for fraction, exact in zip(scheduler.alpha_sigma(whole.float()), scheduler.alpha_sigma(whole), strict=True):
        assert torch.equal(fraction, exact)
    alpha, sigma = scheduler.alpha_sigma(torch.arange(0, 999.01, 0.25, dtype=torch.float64))
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    levels = level(scheduler, torch.tensor([500, 500.5, 501]))
    assert levels[1].item() == pytest.approx(math.sqrt(levels[0] * levels[2]))


def test_zero_terminal_snr_keeps_the_first_level_and_the_ends_are_refused_in_words():
    plain, zero = ScaledLinearDDPM(), ScaledLinearDDPM(prediction='v', zero_terminal_snr=True)
    assert zero.alpha_bar[0].item() == pytest.approx(plain.alpha_bar[0].item())
    assert zero.alpha_sigma(zero.grid(10)[:1]) == (0, 1)
    with pytest.raises(UserError, match="prediction of epsilon says nothing of the signal; set prediction='v'"):
        ScaledLinearDDPM(zero_terminal_snr=True)
    with pytest.raises(UserError, match="set spacing='trailing'"):
        ScaledLinearDDPM(prediction='v', zero_terminal_snr=True, spacing='karras')
    with pytest.raises(UserError, match='begins at pure noise'):
        RectifiedFlow(prediction='epsilon').grid(5)
    assert RectifiedFlow(prediction='epsilon', spacing='karras').grid(5)[0] < 1


@pytest.mark.parametrize('kind', ALL)
@pytest.mark.parametrize('steps', [1, 2, 7, 25])
def test_every_spacing_falls_and_ends_where_the_sampler_expects(kind, steps):
    for spacing in kind.SPACINGS:
        grid = kind(spacing=spacing).grid(steps)
        assert len(grid) == steps + (kind in (RectifiedFlow, EDM))
        assert (grid.diff() < 0).all()
        if kind in (RectifiedFlow, EDM):
            assert grid[-1] == 0


def test_flow_is_a_straight_line():
    alpha, sigma = RectifiedFlow().alpha_sigma(torch.tensor([0.0, 0.3, 1.0]))
    torch.testing.assert_close(alpha + sigma, torch.ones(3))
    assert torch.equal(sigma, torch.tensor([0.0, 0.3, 1.0]))


def test_schedulers_build_from_configs_and_name_a_mistake():
    for kind in ALL:
        assert isinstance(NOISE_SCHEDULERS.build(dict(type=kind.__name__, weighting='min_snr')), kind)
        with pytest.raises(TypeError, match='weigthing'):
            NOISE_SCHEDULERS.build(dict(type=kind.__name__, weigthing='min_snr'))


def test_unknown_choices_name_the_known_ones():
    with pytest.raises(UserError, match='epsilon, x0, v, flow'):
        RectifiedFlow(prediction='noise')
    with pytest.raises(UserError, match='constant, min_snr, edm'):
        EDM(weighting='p2')
    with pytest.raises(UserError, match='uniform, logit_normal, log_normal'):
        LinearDDPM(times='cosine')
    with pytest.raises(UserError, match='RectifiedFlow: spacing must be one of linspace, trailing, karras'):
        RectifiedFlow(spacing='leading')
    one = torch.ones(1)
    with pytest.raises(UserError, match='epsilon'):
        prediction_target(one, one, one, one, 'noise')
    with pytest.raises(UserError, match='epsilon'):
        predicted_x0(one, one, one, one, 'noise')
    with pytest.raises(UserError, match='constant'):
        loss_weight(one, one, 'p2', 'v')


@pytest.mark.parametrize(
    ('build', 'match'),
    [
        (lambda: EDM(sigma_min=2, sigma_max=1), '0 < sigma_min < sigma_max'),
        (lambda: EDM(sigma_min=0), '0 < sigma_min < sigma_max'),
        (lambda: EDM(sigma_min=1, sigma_max=1), '0 < sigma_min < sigma_max'),
        (lambda: RectifiedFlow(shift=0), 'shift must be above 0'),
        (lambda: RectifiedFlow(gamma=-1), 'gamma must be above 0'),
        (lambda: LinearDDPM(beta_end=1.5), 'betas between 0 and 1'),
        (lambda: LinearDDPM(beta_end=1.0), 'betas between 0 and 1'),
        (lambda: LinearDDPM(beta_start=0.0), 'betas between 0 and 1'),
        (lambda: LinearDDPM(steps=1), 'at least 2 steps'),
        (lambda: EDM().grid(0), 'steps must be at least 1'),
        (lambda: LinearDDPM(steps=10).grid(11), '11 steps are too many'),
        (lambda: LinearDDPM(steps=10, spacing='leading').grid(11), '11 steps are too many'),
        (lambda: LinearDDPM(steps=10, spacing='linspace').grid(11), '11 steps are too many'),
    ],
)
def test_impossible_settings_are_refused(build, match):
    with pytest.raises(UserError, match=match):
        build()
