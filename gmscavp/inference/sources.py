"""What a model is asked about, laid out in time: files of any length, still pictures, and arrays that are in memory."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from torch import Tensor
from torch.nn import functional as F

from gmscavp.datasets.base import ClipFormat
from gmscavp.datasets.decoding.audio import resample
from gmscavp.datasets.decoding.errors import ClipError
from gmscavp.datasets.decoding.media import (
    MAX_PIXELS,
    audio_track,
    clip_errors,
    length_s,
    open_media,
    origin_s,
    quarter_turn,
    track_start_s,
    video_track,
)
from gmscavp.errors import UserError
from gmscavp.inference.reading import File, Transforms, read_pictures_at, read_sound, shaped_pictures

STILLS = {'.png': 'png_pipe', '.jpg': 'jpeg_pipe', '.jpeg': 'jpeg_pipe', '.webp': 'webp_pipe', '.bmp': 'bmp_pipe'}
"""Endings of still pictures, and what FFmpeg calls their formats."""


class Pictures(NamedTuple):
    """frames: (T, H, W, 3) uint8, of which frame t is on screen from t / fps to (t + 1) / fps. fps: frames a second."""

    frames: Tensor | np.ndarray
    fps: float


class Sound(NamedTuple):
    """waveform: (S,) float in [-1, 1], mono. sample_rate: Hz."""

    waveform: Tensor | np.ndarray
    sample_rate: int


Source = File | Pictures | Sound
"""What can be embedded: a file, or arrays."""


@dataclass(frozen=True)
class Track:
    """The pictures or the sound of a source, from its beginning on.

    end_s: when they end, seconds; infinite for a still. read: for pictures, increasing times (N,) in seconds -> (N, 3, H,
    W) uint8 as the model's clips are; for sound, first whole second and how many seconds -> samples (S,) float32, silent
    beyond the end.
    """

    name: str
    end_s: float
    read: Callable[..., Tensor]


def name_of(source: Source) -> str:
    """What errors call a source."""
    if isinstance(source, Pictures | Sound):
        return f'{type(source).__name__} in memory'
    return os.fspath(source)


def open_video(source: Source, form: ClipFormat, transforms: Transforms) -> Track:
    """The pictures of a file, a still or an array. UserError: there are none."""
    if isinstance(source, Sound):
        raise UserError('a Sound has no pictures; give a video file, a picture file or Pictures(frames, fps).')
    if isinstance(source, Pictures):
        shown = _demand_pictures(source)
        return Track(name_of(source), len(shown.frames) / shown.fps, partial(_array_frames, shown, form, transforms))
    if Path(source).suffix.lower() in STILLS:
        still = Pictures(_read_still(source), 1.0)
        return Track(name_of(source), float('inf'), partial(_array_frames, still, form, transforms))
    zero_s, start_s, end_s = _span(source, video_track, 'no video track')

    def read(times_s: np.ndarray) -> Tensor:
        # The last picture is shown until the end of its track, but not at it.
        held_s = np.minimum(zero_s + times_s, max(start_s, end_s - 2e-3))
        return read_pictures_at(source, held_s, form, transforms)

    return Track(name_of(source), end_s - zero_s, read)


def open_audio(source: Source, sample_rate: int) -> Track:
    """The sound of a file or an array. UserError: there is none."""
    if isinstance(source, Pictures):
        raise UserError('Pictures have no sound; give a file with sound or Sound(waveform, sample_rate).')
    if isinstance(source, Sound):
        wave = _demand_sound(source, sample_rate)

        def cut(first_s: int, seconds: int) -> Tensor:
            piece = wave[first_s * sample_rate : (first_s + seconds) * sample_rate]
            return F.pad(piece, (0, seconds * sample_rate - len(piece)))

        return Track(name_of(source), len(wave) / sample_rate, cut)
    if Path(source).suffix.lower() in STILLS:
        raise ClipError(os.fspath(source), 'no audio track', 'it is a picture')
    zero_s, _, end_s = _span(source, audio_track, 'no audio track')
    return Track(
        name_of(source),
        end_s - zero_s,
        lambda first_s, seconds: read_sound(source, zero_s + first_s, seconds, sample_rate),
    )


def _span(file: File, choose: Callable[[InputContainer], Any], cause: str) -> tuple[float, float, float]:
    """On the file's own clock: where its first track starts, where the chosen one starts and ends."""
    with open_media(file) as container:
        found = [track for track in (video_track(container), audio_track(container)) if track is not None]
        chosen = choose(container)
        if chosen is None:
            raise ClipError(os.fspath(file), cause)
        start_s, lasts_s = track_start_s(chosen), length_s(container, [chosen])
        if lasts_s <= 0:
            raise ClipError(os.fspath(file), 'too short', f'its {chosen.type} lasts 0 s')
        return origin_s(found), start_s, start_s + lasts_s


def _array_frames(source: Pictures, form: ClipFormat, transforms: Transforms, times_s: np.ndarray) -> Tensor:
    """Frames on screen at times (N,), the first before the first and the last after the last, in the model's form."""
    index = np.floor(times_s * source.fps + 1e-6).astype(int).clip(0, len(source.frames) - 1)
    wanted, repeats = np.unique(index, return_inverse=True)
    frames = torch.as_tensor(source.frames[wanted]).permute(0, 3, 1, 2)
    height, width = frames.shape[2:]
    size = form.size
    if isinstance(size, int):
        size = (round(height * size / min(height, width)), round(width * size / min(height, width)))
    scaled = F.interpolate(frames.float(), size, mode='bilinear', antialias=True, align_corners=False)
    return shaped_pictures(scaled.round().to(torch.uint8), form, transforms)[repeats]


def _demand_pictures(source: Pictures) -> Pictures:
    frames = torch.as_tensor(source.frames)
    if frames.dim() != 4 or frames.shape[3] != 3 or frames.dtype != torch.uint8 or not frames.numel():
        raise UserError(f'Pictures must be (T, H, W, 3) uint8, not {tuple(frames.shape)} {frames.dtype}.')
    if not 0 < source.fps < float('inf'):
        raise UserError(f'Pictures need frames a second above 0, not {source.fps}.')
    return Pictures(frames.cpu(), source.fps)


def _demand_sound(source: Sound, sample_rate: int) -> Tensor:
    """(S,) float32 at the model's sample rate, cut to [-1, 1]."""
    wave = torch.as_tensor(source.waveform).cpu()
    if wave.dim() != 1 or not wave.is_floating_point() or not len(wave) or not wave.isfinite().all():
        raise UserError(
            f'a Sound must be (S,) floats from -1 to 1, mono, not {tuple(wave.shape)} {wave.dtype} or with values that '
            'are not numbers.'
        )
    if source.sample_rate != int(source.sample_rate) or source.sample_rate < 1:
        raise UserError(f'a Sound needs whole samples a second above 0, not {source.sample_rate}.')
    return resample(wave.float(), int(source.sample_rate), sample_rate).clamp(-1, 1)


def _read_still(file: File) -> Tensor:
    """(1, H, W, 3) uint8, upright. ClipError: it is no picture, or one of too many pixels."""
    name = os.fspath(file)
    if not os.path.isfile(name):
        raise ClipError(name, 'missing file')
    options = {'max_pixels': str(MAX_PIXELS), 'protocol_whitelist': 'file'}
    with (
        clip_errors(name),
        av.open(os.path.abspath(name), format=STILLS[Path(name).suffix.lower()], options=options) as container,
    ):
        container.streams.video[0].codec_context.options = {'max_pixels': str(MAX_PIXELS)}
        frame = next(container.decode(video=0))
        rows = np.rot90(frame.to_ndarray(format='rgb24'), quarter_turn(frame.rotation) // 90)
        return torch.from_numpy(np.ascontiguousarray(rows))[None]


def as_list(sources: Source | Sequence[Source]) -> list[Source]:
    """One source, or several. UserError: none."""
    single = isinstance(sources, str | os.PathLike | Pictures | Sound)
    found: list[Any] = [sources] if single else list(sources)  # type: ignore[arg-type]
    if not found:
        raise UserError('no files were given.')
    return found
