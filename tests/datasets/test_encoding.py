"""write_clip: what is written comes back whole, in time, or not at all."""

from fractions import Fraction

import av
import numpy as np
import pytest

from gmscavp.datasets import encoding
from gmscavp.datasets.encoding import write_clip

RATE = 16_000


def ramp_frames(count, size=(64, 96)):
    """Frame k is grey 16 + 3 k, so that each frame says which one it is."""
    return np.broadcast_to((16 + 3 * np.arange(count))[:, None, None, None], (count, *size, 3)).astype(np.uint8)


def clicks(seconds, at):
    audio = np.zeros(int(seconds * RATE), np.float32)
    for time in at:
        audio[round(time * RATE)] = 0.9
    return audio


def decode_audio(file):
    with av.open(str(file)) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].pts == 0
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def decode_video(file):
    with av.open(str(file)) as container:
        return [(frame.pts * frame.time_base, frame.to_ndarray(format='rgb24')) for frame in container.decode(video=0)]


@pytest.mark.parametrize('fps', [16, 25, 30_000 / 1001])
def test_picture_and_sound_start_together(tmp_path, fps):
    frames = ramp_frames(64)
    write_clip(tmp_path / 'a.mp4', frames, fps, clicks(2.5, [0.25, 1.0, 2.0]), RATE)
    audio = decode_audio(tmp_path / 'a.mp4')
    for time in (0.25, 1.0, 2.0):
        around = slice(round((time - 0.05) * RATE), round((time + 0.05) * RATE))
        heard = (around.start + np.abs(audio[around]).argmax()) / RATE
        assert abs(heard - time) <= 0.003
    for k, (time, picture) in enumerate(decode_video(tmp_path / 'a.mp4')):
        assert abs(time - k / fps) < 0.001
        assert abs(picture.mean() - frames[k].mean()) < 2


@pytest.mark.parametrize('seconds', [4.0, 3.3, 4.71])
def test_both_tracks_are_whole_to_their_last_frame_and_sample(tmp_path, seconds):
    audio = clicks(seconds, [0.0, seconds - 1 / RATE])
    write_clip(tmp_path / 'a.mp4', ramp_frames(64), 16, audio, RATE)
    with av.open(str(tmp_path / 'a.mp4')) as container:
        video_stream, audio_stream = container.streams.video[0], container.streams.audio[0]
        assert video_stream.duration * video_stream.time_base == 4
        assert audio_stream.duration * audio_stream.time_base == Fraction(len(audio), RATE)
        assert video_stream.start_time == audio_stream.start_time == 0
        assert video_stream.codec_context.pix_fmt == 'yuv420p'
    video = decode_video(tmp_path / 'a.mp4')
    assert len(video) == 64
    assert abs(video[-1][1].mean() - (16 + 3 * 63)) < 2
    heard = decode_audio(tmp_path / 'a.mp4')
    assert len(heard) >= len(audio)
    assert abs(heard[0]) > 0.4
    assert abs(heard[len(audio) - 1]) > 0.4


def test_index_stands_before_the_data_and_key_frames_come_every_gop(tmp_path):
    write_clip(tmp_path / 'a.mp4', ramp_frames(40), 10, clicks(4, []), RATE, gop=8, metadata={'title': 'a title'})
    content = (tmp_path / 'a.mp4').read_bytes()
    assert content.index(b'moov') < content.index(b'mdat')
    with av.open(str(tmp_path / 'a.mp4')) as container:
        assert container.metadata['title'] == 'a title'
        keys = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.is_keyframe]
    assert keys == [Fraction(8 * n, 10) for n in range(5)]


def test_lower_crf_is_nearer_to_the_original(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 1), dtype=np.uint8).repeat(3, axis=-1)
    errors = []
    for crf in (10, 35):
        write_clip(tmp_path / f'{crf}.mp4', noise, 8, clicks(1, []), RATE, crf=crf)
        decoded = np.stack([picture for _, picture in decode_video(tmp_path / f'{crf}.mp4')])
        errors.append(np.abs(decoded.astype(int) - noise).mean())
    assert errors[0] < 0.5 * errors[1]


def test_a_failure_half_way_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    file = tmp_path / 'a.mp4'
    write_clip(file, ramp_frames(8), 8, clicks(1, [0.5]), RATE)
    before = file.read_bytes()
    make = encoding._video_frame

    def fail_at_five(picture, index, rate):
        if index == 5:
            raise KeyboardInterrupt
        return make(picture, index, rate)

    monkeypatch.setattr(encoding, '_video_frame', fail_at_five)
    with pytest.raises(KeyboardInterrupt):
        write_clip(file, ramp_frames(16), 8, clicks(2, []), RATE)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ('frames', 'audio', 'said'),
    [
        (np.zeros((4, 64, 64), np.uint8), clicks(1, []), 'frames'),
        (np.zeros((4, 64, 64, 3), np.float32), clicks(1, []), 'uint8'),
        (np.zeros((4, 63, 64, 3), np.uint8), clicks(1, []), 'even'),
        (ramp_frames(4), clicks(1, []).astype(np.float64), 'float32'),
        (ramp_frames(4), clicks(1, [0.5]) * 2, 'peak'),
        (ramp_frames(4), np.full(100, np.nan, np.float32), 'peak'),
    ],
)
def test_wrong_arrays_are_named(tmp_path, frames, audio, said):
    with pytest.raises(ValueError, match=said):
        write_clip(tmp_path / 'a.mp4', frames, 16, audio, RATE)
    assert not list(tmp_path.iterdir())
