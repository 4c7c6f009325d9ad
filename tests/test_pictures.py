from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from gmscavp.pictures import (
    contact_sheet,
    curves_picture,
    film_strip,
    heat_picture,
    jpeg_bytes,
    mel_picture,
    png_bytes,
    similarity_picture,
)


def brightness(picture: np.ndarray) -> np.ndarray:
    return picture.astype(float).sum(axis=2)


def decoded(encoded: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def blocks(low: float, delta: float, size: int) -> np.ndarray:
    """Noise of unit variance with a diagonal that lies `delta` above it."""
    noise = np.random.default_rng(0).normal(low, 1.0, (size, size))
    return (noise + delta * np.eye(size)).astype(np.float32)


@pytest.mark.parametrize(('total', 'columns', 'width'), [(8, 8, 768), (16, 16, 500), (7, 7, 333), (3, 8, 100)])
@pytest.mark.parametrize('mel_frames', [256, 100, 48])
def test_frame_and_mel_of_one_moment_stand_above_each_other(total, columns, width, mel_frames):
    for moment in range(total):
        frames = np.zeros((total, 20, 20, 3), np.uint8)
        frames[moment] = 255
        mel = np.zeros((mel_frames, 32), np.float32)
        first, last = -(-moment * mel_frames // total), (moment + 1) * mel_frames // total
        mel[first:last] = 1.0

        strip = brightness(film_strip(frames, mel, columns, width))

        film, sound = (np.flatnonzero(strip[row] > 500) for row in (3, -3))
        assert strip.shape[1] == width
        slack = width / mel_frames + 2
        assert abs(film[0] - sound[0]) <= slack
        assert abs(film[-1] - sound[-1]) <= slack
        assert film[0] == pytest.approx(moment * width / total, abs=2)


def test_fewer_columns_than_frames_show_a_frame_of_their_own_time():
    frames = np.broadcast_to(np.arange(0, 160, 10, dtype=np.uint8)[:, None, None, None], (16, 8, 8, 3))
    strip = film_strip(frames, np.zeros((64, 8), np.float32), columns=4, width=400)
    shown = [int(strip[5, 100 * column + 50, 0]) // 10 for column in range(4)]
    assert all(4 * column <= frame < 4 * (column + 1) for column, frame in enumerate(shown))


def test_strip_keeps_the_proportions_of_the_frames():
    strip = film_strip(np.zeros((8, 90, 160, 3), np.uint8), np.zeros((64, 8), np.float32), columns=4, width=640)
    assert strip.shape[0] == 90 + 2 + 80


def test_low_frequencies_are_at_the_bottom_and_the_scale_is_fixed():
    mel = np.zeros((10, 6), np.float32)
    mel[:, 0] = 0.5
    picture = mel_picture(mel)
    assert picture.shape == (6, 10, 3)
    assert brightness(picture)[-1].min() > brightness(picture)[:-1].max()
    louder = mel.copy()
    louder[:, 5] = 1.0
    assert np.array_equal(mel_picture(louder)[-1], picture[-1])


def test_values_that_are_no_numbers_show_in_a_colour_of_their_own():
    mel = np.zeros((4, 4), np.float32)
    mel[1] = np.nan
    picture = mel_picture(mel)
    assert len({tuple(pixel) for pixel in picture[0]}) == 2
    assert tuple(picture[0, 1]) == (0, 184, 212)


@pytest.mark.parametrize('size', [8, 400, 401, 1000, 2000])
def test_the_diagonal_stays_visible_however_large_the_matrix(size):
    cells = brightness(heat_picture(blocks(0.0, 5.0, size)))
    side = min(size, 400)
    assert cells.shape == (side, side)
    right, wrong = cells[np.eye(side, dtype=bool)], cells[~np.eye(side, dtype=bool)]
    assert np.median(right) > np.percentile(wrong, 97)


def test_pooling_takes_every_cell_once_and_leaves_out_what_is_no_number():
    matrix = np.full((6, 6), 2.0)
    matrix[0, 0] = np.nan
    matrix[4:, 4:] = np.nan
    picture = heat_picture(matrix, (1.0, 3.0), most=3)
    assert np.array_equal(picture[0, 0], picture[1, 1])
    assert tuple(picture[2, 2]) == (0, 184, 212)


@pytest.mark.parametrize('size', [0, 1, 2, 3, 60, 900])
def test_similarity_picture_has_one_size_for_tensorboard(size):
    picture = similarity_picture(np.zeros((size, size), np.float32), r'a $title_{ with mathematics \frac \ud800')
    assert picture.shape == (560, 640, 3)
    assert picture.dtype == np.uint8


def test_similarity_picture_has_videos_in_rows():
    matrix = np.zeros((4, 4), np.float32)
    matrix[0, 3] = 1.0
    plain, marked = similarity_picture(np.eye(4), ''), similarity_picture(np.fliplr(np.eye(4)), '')
    assert not np.array_equal(plain, marked)
    bright = np.argwhere((similarity_picture(matrix, '') == [253, 231, 36]).all(axis=2))
    rows, columns = bright[bright[:, 1] < 530].mean(axis=0)
    assert rows < 200
    assert columns > 350


def test_contact_sheet_reads_row_by_row():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    strips = [np.full((20, 40, 3), colour, np.uint8) for colour in colours]
    sheet = contact_sheet(strips, ['a', 'b', 'c'], columns=2)
    places = [np.argwhere((sheet == colour).all(axis=2)) for colour in colours]
    assert [len(place) for place in places] == [20 * 40] * 3
    (row_a, column_a), (row_b, column_b), (row_c, column_c) = (place.min(axis=0) for place in places)
    assert row_a == row_b < row_c
    assert column_a == column_c < column_b


def test_contact_sheet_bears_captions_of_any_kind():
    strip = np.zeros((20, 200, 3), np.uint8)
    captions = ['$x_{', 'x' * 500, 'two\nlines', '\udcff', '']
    assert contact_sheet([strip] * 5, captions, 3).shape[1] == 3 * 216 + 16
    assert contact_sheet([], [], 3).size
    with pytest.raises(ValueError, match='one caption per strip'):
        contact_sheet([strip], [], 1)


def test_png_is_without_loss_and_jpeg_is_near():
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    assert np.array_equal(decoded(png_bytes(picture)), picture)
    smooth = cv2.resize(picture[:3, :5], (80, 48), interpolation=cv2.INTER_LINEAR)
    assert np.abs(decoded(jpeg_bytes(smooth)).astype(int) - smooth).mean() < 4


def lines(svg: str) -> list[np.ndarray]:
    name = '{http://www.w3.org/2000/svg}polyline'
    found = ElementTree.fromstring(svg).iter(name)
    return [np.array([p.split(',') for p in line.attrib['points'].split()], float) for line in found]


def test_curves_rise_where_the_values_rise():
    svg = curves_picture({'up': [(i, float(i)) for i in range(50)], 'down': [(i, 50.0 - i) for i in range(50)]}, 't')
    up, down = lines(svg)
    assert (np.diff(up[:, 0]) > 0).all()
    assert (np.diff(up[:, 1]) < 0).all()
    assert (np.diff(down[:, 1]) > 0).all()


def test_decades_make_a_log_scale_on_which_decay_is_straight():
    svg = curves_picture({'loss': [(i, 10.0 ** (-i / 20)) for i in range(100)]}, 'losses')
    assert 'log scale' in svg
    (line,) = lines(svg)
    assert np.polyfit(line[:, 0], line[:, 1], 1, full=True)[1][0] < 1
    with_zero = curves_picture({'loss': [(i, float(i % 50)) for i in range(100)]}, 'losses')
    assert 'log scale' not in with_zero


def test_long_curves_are_thinned_and_keep_their_mean():
    values = np.random.default_rng(0).normal(5.0, 1.0, 50_000)
    svg = curves_picture({'loss': list(enumerate(values))}, 'losses')
    assert len(svg) < 30_000
    assert 'polygon' in svg


@pytest.mark.parametrize('points', [[], [(1, float('nan'))], [(3, 2.0)], [(1, 0.0), (2, 0.0)], [(5, -1.0), (1, 1e9)]])
def test_curves_with_hardly_anything_in_them_are_whole_svg(points):
    svg = curves_picture({'<loss> & co': points}, '<title>')
    assert ElementTree.fromstring(svg).tag.endswith('svg')
    assert 'nan' not in svg


def test_what_is_not_finite_is_counted_beside_the_line():
    svg = curves_picture({'loss': [(1, 1.0), (2, float('nan')), (3, float('inf')), (4, 2.0)]}, 'losses')
    assert '2 not finite' in svg
    assert len(lines(svg)[0]) == 2
