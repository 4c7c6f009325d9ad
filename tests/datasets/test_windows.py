"""Windows of clips lie inside what they are cut from, wherever that lies and however long it is."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis.strategies import booleans, floats, integers, sampled_from

from gmscavp.datasets import ClipDataset, EvenWindows, Manifest, RandomWindow, SegmentWindows, base
from gmscavp.structures import Clip, Draw

SEEDS = integers(0, 2**32)
# Seconds are sums of floats: a hair, far below a sample.
HAIR_S = 1e-6
STARTS = floats(0, 1e4)
ROOM = floats(0, 1e3)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@given(STARTS, ROOM, integers(1, 8), sampled_from([1, 4, 7.5, 25, 30]), SEEDS)
def test_segments_lie_inside_in_order_and_a_gap_apart(first_s, room_s, segments, fps, seed):
    starts = np.array(SegmentWindows(segments, fps)(first_s, first_s + room_s, np.random.default_rng(seed)))
    assert len(starts) == segments
    assert starts.min() >= first_s
    assert starts.max() <= first_s + room_s + HAIR_S
    gap_s = int(room_s * fps + 1e-6) // segments / fps
    # Subtracting the start again may cost one frame of rounding.
    assert (np.diff(starts) >= gap_s - 1 / fps - HAIR_S).all()
    frames = (starts - first_s) * fps
    assert np.abs(frames - frames.round()).max() < 1e-4


@given(STARTS, ROOM, integers(1, 20), SEEDS)
def test_even_and_random_windows_reach_no_further_than_the_file(first_s, room_s, segments, seed):
    rng = np.random.default_rng(seed)
    starts = EvenWindows(segments)(first_s, first_s + room_s, rng)
    assert len(starts) == segments
    assert np.allclose(np.diff(starts), room_s / max(segments - 1, 1))
    # As far from the one end as from the other.
    assert starts[0] + starts[-1] == pytest.approx(2 * first_s + room_s)
    assert segments == 1 or (starts[0], starts[-1]) == (first_s, first_s + room_s)
    assert first_s <= RandomWindow()(first_s, first_s + room_s, rng) <= first_s + room_s


@given(
    start_s=floats(0, 100),
    length_s=floats(0.1, 30),
    wanted_s=floats(0.1, 10),
    window=sampled_from(['RandomWindow', 'CentreWindow', 'SegmentWindows', 'EvenWindows']),
    listed=booleans(),
    seed=SEEDS,
)
def test_a_clip_is_read_inside_its_row_or_its_file(monkeypatch, start_s, length_s, wanted_s, window, listed, seed):
    asked = []

    def read(start, duration, *_):
        asked.append((start, start + duration))
        return Clip(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1), start)

    @contextmanager
    def opened(_file):
        yield SimpleNamespace(read=read, duration_s=length_s)

    monkeypatch.setattr(base, 'open_clip', opened)
    monkeypatch.setattr(base, 'read_clip', lambda _file, *rest: read(*rest))
    first_s = start_s if listed else 0.0
    columns = {'file': ['a.mp4']} | ({'start_s': [start_s], 'end_s': [start_s + length_s]} if listed else {})
    segments = {'segments': 3} if window in ('SegmentWindows', 'EvenWindows') else {}
    clips = ClipDataset(
        Manifest.from_columns(columns, 'here'),
        Path(),
        dict(duration_s=wanted_s, fps=4, size=2, sample_rate=8),
        dict(type=window, **segments),
        replace_bad=False,
    )
    assume(abs(length_s - wanted_s) > 0.2)
    sample = clips[Draw(0, (seed,))]
    if length_s < wanted_s:
        assert not sample['valid']
        assert not asked
        assert 'too short' in sample['failures']
    elif sample['valid']:
        assert len(asked) == segments.get('segments', 1)
        assert min(start for start, _ in asked) >= first_s
        assert max(end for _, end in asked) <= first_s + length_s + HAIR_S
        assert np.atleast_1d(sample['start_s']).tolist() == [start for start, _ in asked]
    else:
        # No room for three windows a frame apart.
        assert segments
        assert length_s - wanted_s < 3 / 4 + HAIR_S
