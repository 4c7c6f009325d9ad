"""What a model takes, from files of any length: read a piece at a time, so that nothing large is ever held."""

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gmscavp.datasets.base import ClipFormat
from gmscavp.datasets.decoding.audio import read_audio
from gmscavp.datasets.decoding.clip import BACKENDS
from gmscavp.datasets.decoding.errors import ClipError
from gmscavp.datasets.decoding.media import audio_track, open_media, video_track
from gmscavp.datasets.layout import in_planes
from gmscavp.datasets.transforms import CentreCrop
from gmscavp.structures import Clip

File = str | os.PathLike[str]
Transforms = Sequence[Callable[[Clip, np.random.Generator], Clip]]

# Seconds read at once. Each piece is searched from a key frame, and few files have those further apart than 10 s.
_PIECE_S = 20.0
# The last picture of a track is shown until its end, but not at it.
_BEFORE_END_S = 2e-3


def read_pictures(
    file: File, first_s: float, end_s: float, count: int, form: ClipFormat, transforms: Transforms
) -> Tensor:
    """`count` frames from first_s on, at form.fps, as the model's clips are: (count, 3, H, W) uint8.

    Times are seconds on the file's own clock; end_s: where the pictures end, from when on the last one is held. Frame t is
    the one on screen at first_s + (t + 0.5) / fps, as in training. Where form.size is a short side and the transforms
    leave pictures that are not square, the square in the middle is taken. ClipError: what the file cannot give.
    """
    times_s = np.minimum(first_s + (np.arange(count) + 0.5) / form.fps, max(first_s, end_s - _BEFORE_END_S))
    return read_pictures_at(file, times_s, form, transforms)


def read_pictures_at(file: File, times_s: np.ndarray, form: ClipFormat, transforms: Transforms) -> Tensor:
    """The frames on screen at increasing times (N,) on the file's own clock: (N, 3, H, W) uint8, as read_pictures."""
    at_once = max(1, round(_PIECE_S * form.fps))
    pieces = []
    for begin in range(0, len(times_s), at_once):
        with open_media(file) as container:
            stream = video_track(container)
            if stream is None:
                raise ClipError(os.fspath(file), 'no video track')
            frames = BACKENDS[form.backend](container, stream, times_s[begin : begin + at_once], form.size)
        pieces.append(shaped_pictures(in_planes(torch.from_numpy(frames)), form, transforms))
    return torch.cat(pieces)


def shaped_pictures(frames: Tensor, form: ClipFormat, transforms: Transforms) -> Tensor:
    """(N, 3, H, W) uint8 of the size that decoding gives -> as the transforms leave them, square where size is a side."""
    clip = Clip(frames, torch.zeros(1))
    for transform in transforms:
        clip = transform(clip, np.random.default_rng(0))
    height, width = clip.video.shape[-2:]
    if isinstance(form.size, int) and height != width:
        # A data set whose pictures are square by themselves needs no crop in its config.
        clip = CentreCrop(min(height, width))(clip, np.random.default_rng(0))
    return clip.video


def read_sound(file: File, first_s: float, duration_s: float, sample_rate: int) -> Tensor:
    """The sound of `duration_s` from first_s (on the file's own clock) on: (round(duration_s * sample_rate),) float32."""
    count = round(duration_s * sample_rate)
    # Of whole seconds, so that pieces meet at a sample.
    at_once = round(_PIECE_S)
    pieces = []
    for begin in range(0, max(1, int(np.ceil(count / sample_rate))), at_once):
        wanted = min(count - begin * sample_rate, at_once * sample_rate)
        with open_media(file) as container:
            stream = audio_track(container)
            if stream is None:
                raise ClipError(os.fspath(file), 'no audio track')
            pieces.append(read_audio(container, stream, first_s + begin, wanted / sample_rate, sample_rate))
    return torch.cat(pieces)


def whole_steps(duration_s: float, rate: float) -> int:
    """How many steps cover a duration, at least one. A hair too much asks for no step more."""
    return max(1, int(np.ceil(duration_s * rate - 1e-6)))
