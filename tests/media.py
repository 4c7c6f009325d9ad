"""Small media files for tests, written with PyAV: exact times, known pictures, known sound."""

import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

MOOV_FIRST = {'movflags': '+faststart'}
"""Container options: an mp4 whose index stands before the payload, so that it opens when cut off."""

FRAGMENTED = {'movflags': 'frag_keyframe+empty_moov+default_base_moof'}
"""Container options: an mp4 as streams are made of, without a length in its header."""

Picture = Callable[[float], np.ndarray]
"""time in seconds -> (H, W, 3) uint8."""

Sound = Callable[[np.ndarray], np.ndarray]
"""(S,) times in seconds -> (S,) or (C, S) in [-1, 1]."""

# Frame times of any rate are exact to 8 microseconds, and MPEG-4 takes no finer one.
_CLOCK = Fraction(1, 60_000)


@contextmanager
def _same_priority():
    """SVT-AV1, run by root, gives the thread that calls it real-time priority, which would starve all that comes after."""
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def write_media(
    file: Path,
    picture: Picture | None,
    sound: Sound | None,
    *,
    duration_s: float = 4.0,
    fps: float | Fraction = 25,
    frame_times: Sequence[float] | None = None,
    video_codec: str = 'libx264',
    pixel_format: str = 'yuv420p',
    gop: int = 25,
    rotation: int = 0,
    pixel_shape: int = 1,
    sample_rate: int = 44_100,
    layout: str = 'stereo',
    audio_codec: str = 'aac',
    audio_s: float | None = None,
    video_start_s: float = 0.0,
    audio_start_s: float = 0.0,
    container_options: dict[str, str] | None = None,
    video_options: dict[str, str] | None = None,
) -> Path:
    """Write one file; a picture or sound of None leaves that track out, a start shifts when a track begins.

    `picture` and `sound` are asked for file times. frame_times (VFR) replaces fps; `rotation` is counter-clockwise,
    `pixel_shape` the width of a pixel over its height.
    The test that asks for a codec this build of PyAV cannot write is skipped.
    """
    with _same_priority(), av.open(str(file), 'w', options=container_options or {}) as container:
        video = audio = None
        if picture is not None:
            height, width = picture(0.0).shape[:2]
            rate = Fraction(fps).limit_denominator(1001)
            video = _add_stream(container, video_codec, rate, **(video_options or {}))
            video.width, video.height, video.pix_fmt = width, height, pixel_format
            video.time_base = video.codec_context.time_base = _CLOCK
            video.codec_context.gop_size = gop
            video.codec_context.sample_aspect_ratio = Fraction(pixel_shape)
            if rotation:
                video.set_display_rotation(rotation)
        if sound is not None:
            audio = _add_stream(container, audio_codec, sample_rate)
            audio.codec_context.layout = layout
            audio.codec_context.bit_rate = 192_000
        if video is not None:
            times = frame_times if frame_times is not None else np.arange(round(duration_s * rate)) / float(rate)
            _encode_video(container, video, picture, [time + video_start_s for time in times])
        if audio is not None:
            _encode_audio(container, audio, sound, audio_start_s, duration_s if audio_s is None else audio_s)
    return file


def write_cover(file: Path) -> Path:
    """Music with a cover picture, which containers keep as a video track of one frame."""
    with av.open(str(file), 'w', format='mp4') as container:
        audio, cover = container.add_stream('aac', rate=16_000), container.add_stream('mjpeg', rate=1)
        audio.codec_context.layout = 'mono'
        cover.width, cover.height, cover.pix_fmt = 64, 64, 'yuvj420p'
        cover.disposition = av.stream.Disposition.attached_pic
        _encode_video(container, cover, moving((64, 64)), [0.0])
        _encode_audio(container, audio, sine(), 0.0, 4.0)
    return file


def _add_stream(container, codec: str, rate, **options: str):
    try:
        return container.add_stream(codec, rate=rate, options=options)
    except av.error.FFmpegError as error:
        pytest.skip(f'this PyAV cannot write {codec}: {error}')


def _encode_video(container, stream, picture: Picture, times: Sequence[float]) -> None:
    for time in times:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(time)), format='rgb24')
        frame.pts, frame.time_base = round(time / _CLOCK), _CLOCK
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _encode_audio(container, stream, sound: Sound, start_s: float, duration_s: float) -> None:
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.layout.nb_channels
    start, count = round(start_s * rate), round(duration_s * rate)
    wave = np.broadcast_to(sound((start + np.arange(count)) / rate), (channels, count)).astype(np.float32)
    for offset in range(0, count, 1024):
        block = np.ascontiguousarray(wave[:, offset : offset + 1024])
        frame = av.AudioFrame.from_ndarray(block, format='fltp', layout=stream.codec_context.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate, start + offset, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def remux(
    source: Path,
    target: Path,
    *,
    shift_s: float = 0.0,
    keep: Callable[[str, float], bool] = lambda kind, time: True,
    jitter: Callable[[str, float], float] = lambda kind, time: 0.0,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Copy packets without decoding, shift_s earlier, those for which keep('video' | 'audio', seconds) holds.

    jitter('video' | 'audio', seconds) moves each by some seconds more.
    What lands before time zero an mp4 hides behind an edit list, as `ffmpeg -ss ... -c copy` does.
    """
    with av.open(str(source)) as reader, av.open(str(target), 'w', options=container_options or {}) as writer:
        copies = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if packet.dts is None:
                continue
            kind, time = packet.stream.type, float(packet.pts * packet.time_base)
            if not keep(kind, time):
                continue
            # Sound packets are all key frames: those before the cut are left out.
            if kind == 'audio' and time < shift_s - 0.05:
                continue
            ticks = round((shift_s - jitter(kind, time)) / packet.time_base)
            packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
            packet.stream = copies[packet.stream.index]
            writer.mux(packet)
    return target


def flash(events: Sequence[float], lasting_s: float = 0.08, size: tuple[int, int] = (64, 96)) -> Picture:
    """White for `lasting_s` from each event on, black otherwise; size is (H, W)."""

    def picture(time: float) -> np.ndarray:
        lit = any(event <= time + 1e-6 < event + lasting_s for event in events)
        return np.full((*size, 3), 255 if lit else 0, np.uint8)

    return picture


def click(events: Sequence[float], lasting_s: float = 0.02) -> Sound:
    """A loud 1 kHz burst that starts at each event, silence otherwise."""

    def sound(times: np.ndarray) -> np.ndarray:
        loud = np.zeros_like(times)
        for event in events:
            loud += (times >= event) & (times < event + lasting_s)
        return 0.9 * loud * np.sin(2 * np.pi * 1000 * times)

    return sound


def sine(hertz: float = 440.0, level: float = 0.5) -> Sound:
    """A steady tone."""
    return lambda times: level * np.sin(2 * np.pi * hertz * times)


def corner(size: tuple[int, int] = (64, 96)) -> Picture:
    """White on black in the top left quarter, grey in the top right one; size is (H, W)."""
    height, width = size
    still = np.zeros((height, width, 3), np.uint8)
    still[: height // 2, : width // 2] = 255
    still[: height // 2, width // 2 :] = 128
    return lambda time: still


_BITS = 10


def numbered(size: tuple[int, int] = (64, 96)) -> Picture:
    """Black and white columns that spell the time in hundredths of a second; `read_number` reads it back."""

    def picture(time: float) -> np.ndarray:
        bits = [round(time * 100) >> bit & 1 for bit in range(_BITS)]
        row = np.repeat(np.array(bits, np.uint8) * 255, size[1] // _BITS + 1)[: size[1]]
        return np.broadcast_to(row[None, :, None], (*size, 3)).copy()

    return picture


def read_number(frame: np.ndarray) -> int:
    """(3, H, W) of the `numbered` picture -> hundredths of a second."""
    width = frame.shape[-1]
    column = width // _BITS + 1
    middles = [min(bit * column + column // 2, width - 1) for bit in range(_BITS)]
    return sum(1 << bit for bit, middle in enumerate(middles) if frame[:, :, middle].mean() > 127)


def moving(size: tuple[int, int] = (64, 96), period_s: float = 4.0) -> Picture:
    """A smooth picture that differs at every moment: a bright bar that travels once in `period_s`."""
    height, width = size
    row, column = np.mgrid[:height, :width]

    def picture(time: float) -> np.ndarray:
        phase = 2 * np.pi * (column / width - time / period_s)
        red, green = 127 + 120 * np.cos(phase), 127 + 100 * np.sin(phase + row / height)
        return np.stack([red, green, 60 + 100 * row / height], -1).astype(np.uint8)

    return picture
