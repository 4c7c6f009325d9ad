"""Figures of the published schedules, and the algebra between parameterisations."""

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models.noise_schedulers import (
    PREDICTIONS,
    RectifiedFlow,
    ScaledLinearDDPM,
    predicted_x0,
    prediction_target,
)


def test_scaled_linear_alpha_bar_and_snr():
    scheduler = ScaledLinearDDPM()
    alpha, sigma = scheduler.alpha_sigma(torch.tensor([0, 249, 499, 749, 999]))
    expected = torch.tensor([0.99915, 0.6754321, 0.2776694, 0.05662345, 0.004660095])
    torch.testing.assert_close(alpha**2, expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(5))
    alpha_bar = scheduler.alpha_bar[[0, 100, 250, 500, 750, 999]]
    # The published 1175.44 was computed in float32; exactly it is 1175.47.
    snr = torch.tensor([1175.44, 8.45387, 2.06553, 0.38185, 0.0595126, 0.00468191], dtype=torch.float64)
    torch.testing.assert_close(alpha_bar / (1 - alpha_bar), snr, rtol=3e-5, atol=0)


def test_trailing_grid():
    assert ScaledLinearDDPM().grid(25).tolist() == list(range(999, -1, -40))


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


@pytest.mark.parametrize('prediction', PREDICTIONS)
@pytest.mark.parametrize('kind', [ScaledLinearDDPM, RectifiedFlow])
def test_the_right_prediction_gives_back_the_clean_signal(kind, prediction):
    scheduler = kind(prediction=prediction)
    x0, eps = torch.randn(2, 64, 3, 5)
    t = scheduler.sample_t(64, torch.device('cpu'))
    noisy, target = scheduler.add_noise(x0, eps, t)
    clear = scheduler.unit_time(t) < 0.9  # where alpha is small, dividing by it only shows rounding
    torch.testing.assert_close(scheduler.to_x0(target, noisy, t)[clear], x0[clear], atol=1e-4, rtol=1e-3)


def test_flow_is_a_straight_line_and_times_are_logit_normal():
    scheduler = RectifiedFlow(mean=0.5, std=0.8)
    torch.manual_seed(0)
    logit = torch.logit(scheduler.sample_t(20000, torch.device('cpu')))
    assert logit.mean().item() == pytest.approx(0.5, abs=0.03)
    assert logit.std().item() == pytest.approx(0.8, abs=0.03)
    alpha, sigma = scheduler.alpha_sigma(torch.tensor([0.0, 0.3, 1.0]))
    torch.testing.assert_close(alpha + sigma, torch.ones(3))


def test_unknown_prediction_names_the_known_ones():
    with pytest.raises(UserError, match='epsilon, x0, v, flow'):
        RectifiedFlow(prediction='noise')
    one = torch.ones(1)
    with pytest.raises(UserError, match='epsilon'):
        prediction_target(one, one, one, one, 'noise')
    with pytest.raises(UserError, match='epsilon'):
        predicted_x0(one, one, one, one, 'noise')
