"""Heat over frames and plots with axes: what is drawn where, and input that has holes."""

import numpy as np
import pytest

from gmscavp.pictures import heat_overlay, overlay_limits, plane_picture, runs_picture, timeline_picture
from gmscavp.pictures.curves import LINE_COLOURS


def grey(frames=8, height=48, width=64):
    return np.full((frames, height, width, 3), 100, np.uint8)


def coloured(picture, colour, slack=12):
    """How many pixels have a colour given as '#rrggbb'."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture.astype(int) - wanted).max(axis=-1) <= slack).sum())


@pytest.mark.parametrize(('window', 'row', 'column'), [(0, 0, 0), (2, 3, 1), (3, 1, 2)])
def test_heat_shows_at_its_place_and_time_and_nowhere_else(window, row, column):
    heat = np.zeros((4, 4, 4), np.float32)
    heat[window, row, column] = 1.0
    frames = grey(16)
    change = np.abs(heat_overlay(frames, heat).astype(int) - frames).sum(axis=3)
    frame, y, x = np.unravel_index(change.argmax(), change.shape)
    assert frame // 4 == window
    assert (y // 12, x // 16) == (row, column)
    # Half-way to the middles of the neighbours it has faded.
    touched = np.argwhere(change > 0)
    assert np.abs((touched[:, 0] + 0.5) / 4 - window - 0.5).max() <= 1
    assert np.abs((touched[:, 1] + 0.5) / 12 - row - 0.5).max() <= 1
    assert np.abs((touched[:, 2] + 0.5) / 16 - column - 0.5).max() <= 1


def test_half_of_the_cells_and_an_even_heat_leave_the_frames_as_they_are():
    frames = grey()
    np.testing.assert_array_equal(heat_overlay(frames, np.full((4, 2, 2), 0.7, np.float32)), frames)
    np.testing.assert_array_equal(heat_overlay(frames, np.full((4, 2, 2), np.nan, np.float32)), frames)
    heat = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32)
    assert overlay_limits(heat) == (pytest.approx(np.median(heat)), pytest.approx(heat.max()))


def test_strength_and_limits_set_how_much_shows():
    frames, heat = grey(), np.ones((2, 2, 2), np.float32)
    weak, strong = (heat_overlay(frames, heat, (0.0, 1.0), strength).astype(int) for strength in (0.2, 0.8))
    assert 0 < np.abs(weak - 100).sum() < np.abs(strong - 100).sum()
    np.testing.assert_array_equal(heat_overlay(frames, heat, (1.0, 2.0)), frames)


def test_a_timeline_draws_a_line_for_every_scale_even_with_holes():
    strip = np.full((40, 200, 3), 30, np.uint8)
    rows = {'fine': np.array([0.1, 0.4, np.nan, 0.2]), 'coarse': np.array([0.3]), '_$odd^$': np.zeros(2)}
    picture = timeline_picture(strip, rows, 4.0, 'clip $x_')
    assert picture.shape == (560, 960, 3)
    for colour in LINE_COLOURS[:3]:
        assert coloured(picture, colour, slack=50) > 400


def test_points_of_a_label_lie_where_they_are_in_the_colour_of_the_legend():
    rng = np.random.default_rng(0)
    left, right = rng.normal((-5, 0), 0.1, (30, 2)), rng.normal((5, 0), 0.1, (30, 2))
    labels = ['dog'] * 30 + ['rain'] * 29 + ['']
    picture = plane_picture({'video': np.concatenate([left, right])}, labels, most=1)
    blue = np.abs(picture.astype(int) - (31, 119, 180)).max(axis=-1) < 12
    plot = blue[: int(0.8 * len(blue))]
    assert plot[:, : plot.shape[1] // 2].any()
    assert not plot[:, plot.shape[1] // 2 :].any()
    assert coloured(picture, '#b8bcc4') > 50
    two = plane_picture({'video': left, 'audio': left}, ['$x^$\n'] * 30)
    assert two.shape[1] == 2 * picture.shape[1]


def test_runs_share_the_panels_of_their_curves():
    falling = [(step, 1 / (step + 1)) for step in range(50)]
    runs = {'one': {'loss': falling, 'lr': [(0, 1.0)]}, 'other': {'loss': [(0, float('nan')), *falling[1:]]}}
    picture = runs_picture(runs)
    assert coloured(picture, LINE_COLOURS[0]) > 50
    assert coloured(picture, LINE_COLOURS[1]) > 50
    assert runs_picture({'empty': {}}).ndim == 3
