"""One window of a file as a clip: the arguments tested, the file tested, the window read."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from gmscavp.datasets.decoding.audio import read_audio
from gmscavp.datasets.decoding.errors import ClipError
from gmscavp.datasets.decoding.media import (
    MAX_SIDE,
    TOLERANCE_S,
    both_tracks,
    clip_errors,
    length_s,
    opened,
    origin_s,
    track_end_s,
    track_start_s,
)
from gmscavp.datasets.decoding.video import Size, decord_frames, pyav_frames, torchcodec_frames
from gmscavp.datasets.layout import in_planes
from gmscavp.errors import UserError, near_names
from gmscavp.structures import Clip

FrameReader = Callable[[InputContainer, VideoStream, np.ndarray, Size], np.ndarray]

# Sound is PyAV's in every one of them. decord's AudioReader decodes the whole track on every open and knows no times;
# torchcodec's AudioDecoder gives no samples at all for a track that starts after time zero, and names no layout.
BACKENDS: dict[str, FrameReader] = {
    'decord': decord_frames,
    'pyav': pyav_frames,
    'torchcodec': torchcodec_frames,
}
"""Name -> the library that reads the frames."""


def read_clip(
    file: str | os.PathLike[str],
    start_s: float,
    duration_s: float,
    fps: float,
    size: Size,
    sample_rate: int,
    backend: str = 'pyav',
) -> Clip:
    """Pictures and sound of the same window, by presentation time.

    start_s, duration_s: seconds from where the first track starts. size: short side, or (H, W). Gives
    video (round(duration_s * fps), 3, H, W) uint8 and audio (round(duration_s * sample_rate),) float32 in [-1, 1],
    mono. Frame t is the one on screen at start_s + (t + 0.5) / fps, so an event is at most half a frame off. Up to
    TOLERANCE_S beyond the file's end the last frame is repeated and the sound is silent.
    ClipError for what the file cannot give, UserError for arguments that no file could meet.
    """
    _demand_sense(start_s, duration_s, fps, size, sample_rate, backend)
    with open_clip(file) as clip:
        return clip.read(start_s, duration_s, fps, size, sample_rate, backend)


class OpenClip:
    """A file with both tracks, open. Made by open_clip."""

    def __init__(self, container: InputContainer) -> None:
        self._container: InputContainer | None = container
        self._file = container.name
        with clip_errors(self._file):
            self._tracks = both_tracks(container)

    @cached_property
    def duration_s(self) -> float:
        """Seconds from the file's start for which both tracks last, as `probe` tells; to be asked before reading."""
        assert self._container is not None
        with clip_errors(self._file):
            return length_s(self._container, list(self._tracks))

    def read(
        self, start_s: float, duration_s: float, fps: float, size: Size, sample_rate: int, backend: str = 'pyav'
    ) -> Clip:
        """As read_clip. The first window costs no further opening of the file."""
        _demand_sense(start_s, duration_s, fps, size, sample_rate, backend)
        # Sound needs a container newly opened.
        container, self._container = self._container, None
        if container is None:
            return read_clip(self._file, start_s, duration_s, fps, size, sample_rate, backend)
        with clip_errors(self._file):
            video, audio = self._tracks
            first_s = origin_s([video, audio]) + start_s
            _demand_window(container, (video, audio), first_s, first_s + duration_s)
            # Sound first, which also tells early that a file is truncated.
            wave = read_audio(container, audio, first_s, duration_s, sample_rate)
            times_s = first_s + (np.arange(round(duration_s * fps)) + 0.5) / fps
            frames = BACKENDS[backend](container, video, times_s, size)
        return Clip(in_planes(torch.from_numpy(frames)), wave, start_s)


@contextmanager
def open_clip(file: str | os.PathLike[str]) -> Iterator[OpenClip]:
    """Open a file to ask how long it is and to read a window of it. ClipError for what the file cannot give.

    Errors of the block itself stay what they are.
    """
    with opened(file) as container:
        yield OpenClip(container)


def _demand_window(
    container: InputContainer, tracks: tuple[VideoStream, AudioStream], first_s: float, last_s: float
) -> None:
    zero_s = origin_s(list(tracks))
    for track in tracks:
        begin_s, finish_s = track_start_s(track), track_end_s(container, track)
        if finish_s is not None and last_s > finish_s + TOLERANCE_S:
            detail = f'its {track.type} ends at {finish_s - zero_s:.2f} s, wanted up to {last_s - zero_s:.2f} s'
            raise ClipError(container.name, 'too short', detail)
        if last_s <= begin_s:
            detail = f'its {track.type} begins at {begin_s - zero_s:.2f} s, wanted up to {last_s - zero_s:.2f} s'
            raise ClipError(container.name, 'too short', detail)


def _demand_sense(start_s: float, duration_s: float, fps: float, size: Size, sample_rate: int, backend: str) -> None:
    if backend not in BACKENDS:
        raise UserError(f'backend: {backend!r} is none of {", ".join(BACKENDS)}.{near_names(str(backend), BACKENDS)}')
    if not (math.isfinite(start_s) and start_s >= 0):
        raise UserError(f'start_s: {start_s} is not a time from 0 s on')
    for name, value in (('duration_s', duration_s), ('fps', fps), ('sample_rate', sample_rate)):
        if not (math.isfinite(value) and value > 0):
            raise UserError(f'{name}: {value} is not a number above 0')
    if round(duration_s * fps) < 1:
        raise UserError(f'duration_s, fps: {duration_s} s at {fps} frames a second is not one frame')
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in sides):
        raise UserError(f'size: {size} is neither a short side nor (height, width), each from 1 to {MAX_SIDE} pixels')
