"""Leaving packets out changes no frame that is wanted, and painting planes changes no value."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from gmscavp.datasets.decoding import open_clip, read_clip, skipping, video
from gmscavp.datasets.decoding.media import open_media, packets_from, video_track
from gmscavp.datasets.decoding.skipping import Plan, decode_all, decode_needed, parts_to_decode, plan_decoding
from tests.media import moving, numbered, sine, write_media

FILES: dict[str, dict[str, Any]] = {
    'short gop': dict(gop=12, video_options={'bf': '0'}),
    'b frames': dict(gop=12, video_options={'x264-params': 'bframes=3:b-pyramid=normal:scenecut=0'}),
    'open gop': dict(gop=12, video_options={'x264-params': 'open_gop=1:bframes=3:scenecut=0'}),
    'intra only': dict(gop=1),
    'intra refresh': dict(gop=12, video_options={'x264-params': 'intra-refresh=1:bframes=0:scenecut=0'}),
    'hevc': dict(video_codec='libx265', video_options={'x265-params': 'log-level=none:keyint=12:scenecut=0'}),
}


@pytest.fixture(scope='module')
def file_of(tmp_path_factory):
    folder, written = tmp_path_factory.mktemp('skipping'), {}

    def get(name: str) -> Path:
        if name not in written:
            written[name] = write_media(folder / f'{name}.mp4', numbered(), sine(), **FILES[name])
        return written[name]

    return get


def _planned(container, times_s: np.ndarray) -> tuple[Plan, Any]:
    stream = video_track(container)
    assert stream is not None
    packets = packets_from(container, stream, times_s[0])
    return plan_decoding(packets, (times_s + 1e-3) / float(stream.time_base)), packets


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize(('start_s', 'fps'), [(0.0, 4), (0.3, 3), (1.01, 8), (2.0, 1.3)])
def test_wanted_frames_are_the_same_without_the_others(file_of, name, start_s, fps):
    times_s = start_s + (np.arange(int((3.9 - start_s) * fps)) + 0.5) / fps
    with open_media(file_of(name)) as container:
        every = {frame.pts: frame.to_ndarray() for frame in decode_all(*_planned(container, times_s))}
    with open_media(file_of(name)) as container:
        plan, _ = _planned(container, times_s)
        needed = {frame.pts: frame.to_ndarray() for frame in decode_needed(plan)}
    assert len(plan.wanted) == len(times_s)
    # Its key frames become whole over the frames after them, so that some are never given.
    assert name == 'intra refresh' or plan.wanted <= set(needed)
    assert all(np.array_equal(needed[pts], every[pts]) for pts in plan.wanted & set(needed))
    assert list(needed) == sorted(needed), 'in the order in which they are shown'
    if fps < 8:
        assert len(needed) < len(every), 'something was left out'


@pytest.mark.parametrize('name', FILES)
def test_a_clip_is_the_same_as_of_all_frames(file_of, name, monkeypatch):
    windows = [(0.0, 2, 4), (0.3, 3, 4), (1.01, 2, 25)]
    skipping_some = [read_clip(file_of(name), *window, 64, 16_000, 'pyav').video for window in windows]
    monkeypatch.setattr(video, 'SKIPPABLE_CODECS', {})
    for clip, window in zip(skipping_some, windows, strict=True):
        assert (clip == read_clip(file_of(name), *window, 64, 16_000, 'pyav').video).all()


@pytest.mark.parametrize('name', FILES)
def test_what_is_needed_after_all_is_read(file_of, name, monkeypatch):
    expected = read_clip(file_of(name), 0.3, 3, 4, 64, 16_000, 'pyav').video
    monkeypatch.setattr(video, 'decode_needed', lambda plan: list(skipping.decode_needed(plan))[:-1])
    assert (read_clip(file_of(name), 0.3, 3, 4, 64, 16_000, 'pyav').video == expected).all()


def _packets(text: str) -> list[Any]:
    """'K0 3 1 2 K4': key frames and others in the order of decoding, by the time shown."""
    return [SimpleNamespace(is_keyframe=word[0] == 'K', pts=int(word.strip('K')), size=1) for word in text.split()]


@pytest.mark.parametrize(
    ('text', 'wanted', 'followed', 'parts'),
    [
        ('K0 1 2 3 K4 5 6 7', {1, 5}, True, [[0, 1], [4, 5]]),
        ('K0 1 2 3 K4 5 6 7', {3, 5}, True, [[0, 1, 2, 3, 4, 5]]),
        ('K0 1 2 3 K4 5 6 7', {6}, True, [[4, 5, 6]]),
        # To the end of the file, to see whether it is whole.
        ('K0 1 2 3 K4 5 6 7', {1, 5}, False, [[0, 1], [4, 5, 6, 7]]),
        # Frames 5 and 6, shown before the second key frame, are made from what comes before it too.
        ('K0 3 1 2 K7 5 6 9 8', {1, 6}, True, [[0, 3, 1, 2, 7, 5, 6]]),
        ('K0 3 1 2 K4 6 5', {1, 5}, True, [[0, 3, 1], [4, 6, 5]]),
        ('1 2 K4 5', {5}, True, [[4, 5]]),
        ('K0 K1 K2 K3 K4', {0, 2, 3}, True, [[0], [2, 3]]),
    ],
)
def test_parts_end_with_the_last_wanted_frame_before_a_key_frame(text, wanted, followed, parts):
    found = parts_to_decode(Plan(_packets(text), wanted, followed))
    assert [[packet.pts for packet in part] for part in found] == parts


@pytest.mark.parametrize(
    'pixel_format', ['yuv420p', 'yuvj420p', 'yuv422p', 'yuv444p', 'yuv420p10le', 'nv12', 'rgb24', 'gray']
)
@pytest.mark.parametrize('size', [(64, 96), (49, 65), (32, 32), (17, 23), (100, 150)])
def test_planes_hold_the_values_of_packed_pictures(pixel_format, size):
    """The frames are those of swscale's rgb24, which is eight times slower to make and to lay out."""
    rng = np.random.default_rng(0)
    source = av.VideoFrame.from_ndarray(
        np.kron(rng.integers(0, 256, (32, 48, 3), np.uint8), np.ones((2, 2, 1), np.uint8))
    )
    frame = source.reformat(format=pixel_format)
    stream: Any = SimpleNamespace(
        codec_context=SimpleNamespace(width=96, height=64), sample_aspect_ratio=None, duration=None, average_rate=25
    )
    container: Any = SimpleNamespace(name='x')
    canvas = video._Canvas(container, stream, np.array([0.0, 1.0]), size)
    frame.pts, frame.time_base = 0, 1
    canvas.add(frame)
    painted = canvas.finish(True)
    packed = VideoReformatter().reformat(frame, size[1], size[0], 'rgb24', interpolation=video._SCALING).to_ndarray()
    assert painted.shape == (2, 3, *size)
    assert np.abs(painted[0].transpose(1, 2, 0).astype(int) - packed).max() <= 1
    assert np.array_equal(painted[0], painted[1])


def test_an_open_file_tells_its_length_and_gives_windows(tmp_path):
    file = write_media(tmp_path / 'a.mkv', moving(), sine())
    with open_clip(file) as opened:
        assert opened.duration_s == pytest.approx(4.0, abs=0.05)
        for start_s in (0.0, 2.0, 0.0):
            clip, alone = (
                opened.read(start_s, 1, 8, 32, 16_000, 'pyav'),
                read_clip(file, start_s, 1, 8, 32, 16_000, 'pyav'),
            )
            assert (clip.video == alone.video).all()
            assert (clip.audio == alone.audio).all()
