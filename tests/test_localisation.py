"""The truth that heat maps are measured by: where objects are, what counts as a hit, what chance gives."""

import numpy as np
import pytest

from benchmarks.localisation import Window, figures, hit_cells, windows_of
from gmscavp.datasets.impacts_render import Difficulty, make_scenes, render_scene
from gmscavp.datasets.impacts_render.scenes import FPS, SIDE
from gmscavp.datasets.impacts_render.signals import PALETTE


@pytest.fixture(scope='module')
def scenes():
    steady = Difficulty(camera_shake=0, pixel_noise=0, silent_movers=0)
    return make_scenes(0, 6, 'semantic', steady)


def test_objects_are_pictured_where_their_boxes_are(scenes):
    for scene in scenes[:3]:
        frames, _ = render_scene(scene)
        windows = windows_of(scene, 4 * FPS)
        for number, bouncer in enumerate(scene.bouncers):
            colour = np.array(PALETTE[bouncer.look.colour])
            for index in (0, 21, 50):
                painted = np.argwhere(np.abs(frames[index].astype(int) - colour).max(axis=-1) <= 6)
                left, top, right, bottom = windows[index].boxes[number]
                inside = (painted + 0.5 >= (top - 1, left - 1)).all(1) & (painted + 0.5 <= (bottom + 1, right + 1)).all(
                    1
                )
                assert len(painted) > 0
                assert inside.mean() > 0.9


def test_a_window_sounds_while_its_objects_strike(scenes):
    for scene in scenes:
        windows = windows_of(scene, 16)
        for number, bouncer in enumerate(scene.bouncers):
            struck = {k for k, window in enumerate(windows) if window.sounding[number]}
            assert struck == {int(impact.time_s * 4) for impact in bouncer.impacts}
    movers = make_scenes(0, 4, 'semantic', Difficulty(silent_movers=2))
    assert not any(window.sounding[-2:].any() for window in windows_of(movers[0], 16))


def test_cells_that_overlap_a_box_are_hits():
    hits = hit_cells(np.array([[15.0, 30.0, 17.0, 40.0]]), 8)
    assert np.argwhere(hits).tolist() == [[3, 1], [3, 2], [4, 1], [4, 2]]
    assert not hit_cells(np.array([[-20.0, 0.0, 0.0, 64.0]]), 8).any()


def test_a_perfect_map_hits_always_and_an_even_choice_as_often_as_chance(scenes):
    rng = np.random.default_rng(0)
    windows = [window for scene in scenes for window in windows_of(scene, 16) if window.sounding.any()]
    perfect = np.zeros((len(windows), 8, 8))
    for heat, window in zip(perfect, windows, strict=True):
        left, top, right, bottom = window.boxes[window.sounding][0]
        heat[int((top + bottom) / 2 * 8 / SIDE), int((left + right) / 2 * 8 / SIDE)] = 1
    of = figures(perfect, windows)
    assert of['heat map'][0] == 100.0
    assert of['heat map'][1] > 95.0
    assert of['best fixed cell'][0] >= of['middle of the picture'][0]
    random = [figures(rng.random((len(windows), 8, 8)), windows)['heat map'][0] for _ in range(60)]
    assert np.mean(random) == pytest.approx(of['chance'][0], abs=2.0)


def test_the_right_object_is_the_nearest_one_that_strikes():
    boxes = np.array([[0.0, 40, 8, 56], [50, 40, 58, 56]])
    windows = [Window(boxes, np.array([True, False])), Window(boxes, np.array([False, True]))]
    heat = np.zeros((2, 8, 8))
    heat[:, 6, 1] = 1
    of = figures(heat, windows)
    assert of['heat map'][1] == of['chance'][1] == 50.0
    alone = [Window(boxes[:1], np.array([True]))]
    assert np.isnan(figures(heat[:1], alone)['heat map'][1])
