"""Guidance against its definition in the noise, closed forms of a Gaussian, and the promise not to waste evaluations."""

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models.guidance import aligned, guided, guided_within, rescaled
from gmscavp.models.noise_schedulers import EDM, RectifiedFlow, ScaledLinearDDPM
from gmscavp.models.samplers import Midpoint
from tests.models.gaussian import MEAN, SPREAD, START, ideal

PATHS = [ScaledLinearDDPM(), RectifiedFlow(), EDM()]
TIMES = {'ScaledLinearDDPM': 400.0, 'RectifiedFlow': 0.6, 'EDM': 1.7}


def name_of(path):
    return type(path).__name__


def time_of(path):
    return torch.tensor(TIMES[name_of(path)], dtype=torch.float64)


def counted(denoise):
    def counting(x, t):
        counting.calls += 1
        return denoise(x, t)

    counting.calls = 0
    return counting


def linear(slope, start):
    return counted(lambda x, t: slope * x + start)


@pytest.mark.parametrize('scale', [0.0, 0.5, 1.0, 4.5])
@pytest.mark.parametrize('path', PATHS, ids=name_of)
def test_guidance_of_the_signal_is_guidance_of_the_noise(path, scale):
    x, t = torch.randn(3, 7, dtype=torch.float64), time_of(path)
    alpha, sigma = path.alpha_sigma(t)
    conditional, null = linear(0.8, 0.1), linear(0.3, -0.2)
    eps, eps_null = ((x - alpha * denoise(x, t)) / sigma for denoise in (conditional, null))
    by_noise = (x - sigma * (eps_null + scale * (eps - eps_null))) / alpha
    torch.testing.assert_close(guided(conditional, null, scale)(x, t), by_noise)


def test_scale_one_is_the_plain_conditional_and_every_other_scale_counts():
    conditional, null = linear(0.8, 0.1), linear(0.3, -0.2)
    assert guided(conditional, null, 1.0) is conditional
    assert guided(conditional, null, 1, rescale=0.5) is conditional
    x, t = torch.randn(2, 5), torch.tensor(0.5)
    plain = conditional(x, t)
    for scale in (0.0, 0.999, 1.001, 7.0):
        null.calls = 0
        assert not torch.equal(guided(conditional, null, scale)(x, t), plain)
        assert null.calls == 1
    torch.testing.assert_close(guided(conditional, null, 0.0)(x, t), null(x, t))


@pytest.mark.parametrize('scale', [-0.1, -3, float('nan'), float('inf')])
def test_impossible_scales_are_refused(scale):
    plain = linear(1, 0)
    with pytest.raises(UserError, match='scale must be 0 or above and finite'):
        guided(plain, plain, scale)
    with pytest.raises(UserError, match='alignment guidance: scale must be 0 or above'):
        aligned(plain, plain, RectifiedFlow().alpha_sigma, scale)


def test_other_impossible_settings_are_refused():
    plain = linear(1, 0)
    with pytest.raises(UserError, match='rescale must lie between 0 and 1'):
        guided(plain, plain, 2.0, rescale=1.5)
    for low, high in ((-1, 1), (2, 1), (1, 1)):
        with pytest.raises(UserError, match='0 <= low < high'):
            guided_within(plain, plain, EDM().alpha_sigma, low, high)


def test_rescaling_gives_back_the_plain_width_by_its_strength():
    torch.manual_seed(0)
    x, t = torch.randn(4, 3, 50), torch.tensor(0.5)
    conditional, null = linear(0.8, 0.1), counted(lambda x, t: x.flip(2))
    plain, wide = conditional(x, t), guided(conditional, null, 6.0)(x, t)
    widths = [signal.flatten(1).std(1) for signal in (plain, wide)]
    assert (widths[1] > 1.5 * widths[0]).all()
    conditional.calls = 0
    full = guided(conditional, null, 6.0, rescale=1.0)(x, t)
    assert conditional.calls == 1, 'the conditional is not evaluated a second time'
    torch.testing.assert_close(full.flatten(1).std(1), widths[0])
    half = guided(conditional, null, 6.0, rescale=0.5)(x, t)
    torch.testing.assert_close(half, (wide + full) / 2)
    # Each clip by its own width.
    torch.testing.assert_close(full[2:3], guided(conditional, null, 6.0, rescale=1.0)(x[2:3], t))
    assert rescaled(torch.zeros(2, 5), torch.ones(2, 5), 0.7).isfinite().all()


@pytest.mark.parametrize('path', PATHS, ids=name_of)
def test_guidance_acts_within_its_interval_only(path):
    conditional, null = linear(0.8, 0.1), linear(0.3, -0.2)
    strong = guided(conditional, null, 3.0)
    denoise = guided_within(strong, conditional, path.alpha_sigma, low=0.3, high=2.0)
    x = torch.randn(2, 5, dtype=torch.float64)
    for level, inside in ((0.01, False), (0.299, False), (0.301, True), (1.999, True), (2.001, False), (10.0, False)):
        t, before = path.time_at_level(torch.tensor(level, dtype=torch.float64)), null.calls
        torch.testing.assert_close(denoise(x, t), (strong if inside else conditional)(x, t))
        assert null.calls - before == 2 * inside


def test_pure_noise_lies_above_every_finite_interval():
    flow, x, end = RectifiedFlow(), torch.randn(2, 5), torch.tensor(1.0)
    conditional, strong = linear(0.8, 0.1), linear(0.3, -0.2)
    assert torch.equal(guided_within(strong, conditional, flow.alpha_sigma, high=5.0)(x, end), conditional(x, end))
    assert torch.equal(guided_within(strong, conditional, flow.alpha_sigma)(x, end), strong(x, end))


# An observation y = x0 + N(0, NOISE^2): how likely x_t makes it, and what it says of x0, are Gaussian too.
OBSERVED, NOISE = 1.1, 0.2


def likelihood(path):
    def log_prob(x, t):
        alpha, sigma = path.alpha_sigma(t)
        seen = ideal(path)(x, t)
        variance = sigma**2 * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) + NOISE**2
        return -((OBSERVED - seen) ** 2) / (2 * variance)

    return log_prob


@pytest.mark.parametrize('path', PATHS, ids=name_of)
def test_the_true_classifier_gives_the_true_posterior(path):
    """E[x0 | x_t, y], the precisions of prior, x_t and y added."""
    t = time_of(path)
    alpha, sigma = path.alpha_sigma(t)
    denoise = aligned(ideal(path), likelihood(path), path.alpha_sigma, 1.0)
    precision = 1 / SPREAD**2 + alpha**2 / sigma**2 + 1 / NOISE**2
    posterior = (MEAN / SPREAD**2 + alpha * START / sigma**2 + OBSERVED / NOISE**2) / precision
    torch.testing.assert_close(denoise(START, t), posterior)


@pytest.mark.parametrize('path', PATHS, ids=name_of)
def test_alignment_is_the_published_form_in_the_noise(path):
    """eps - scale sigma grad log p, on top of classifier-free guidance: double guidance."""
    t, scale = time_of(path), 2.5
    alpha, sigma = path.alpha_sigma(t)
    inner = guided(ideal(path), linear(0.1, 0.4), 3.0)
    point = START.clone().requires_grad_()
    (slope,) = torch.autograd.grad(likelihood(path)(point, t).sum(), point)
    eps = (START - alpha * inner(START, t)) / sigma - scale * sigma * slope
    double = aligned(inner, likelihood(path), path.alpha_sigma, scale)(START, t)
    torch.testing.assert_close(double, (START - sigma * eps) / alpha)


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_sampling_with_alignment_draws_from_the_posterior(mode):
    """Without gradients outside: the classifier's own is asked for inside."""
    torch.manual_seed(0)
    path = EDM()
    precision = 1 / SPREAD**2 + 1 / NOISE**2
    with mode():
        grid = path.grid(40).double()
        noise = grid[0] * torch.randn(2000, dtype=torch.float64)
        denoise = aligned(ideal(path), likelihood(path), path.alpha_sigma, 1.0)
        x0 = Midpoint()(denoise, noise, grid, path)
    assert not x0.requires_grad
    assert x0.mean().item() == pytest.approx((MEAN / SPREAD**2 + OBSERVED / NOISE**2) / precision, abs=0.02)
    assert x0.std().item() == pytest.approx(precision**-0.5, rel=0.06)


def test_alignment_leaves_pure_noise_and_scale_zero_alone_and_wants_one_value_a_clip():
    path, plain = RectifiedFlow(), linear(0.5, 0.1)
    assert aligned(plain, likelihood(path), path.alpha_sigma, 0.0) is plain
    end = torch.tensor(1.0, dtype=torch.float64)
    assert torch.equal(aligned(plain, likelihood(path), path.alpha_sigma, 2.0)(START, end), plain(START, end))
    with pytest.raises(UserError, match=r'one log probability a clip, \(5,\), not \(5, 2\)'):
        aligned(plain, lambda x, t: x[:, None].expand(-1, 2), path.alpha_sigma, 1.0)(START, end / 2)
