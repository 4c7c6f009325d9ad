"""The sound of a window: decoded from a little before it, laid out by time, mixed to mono, resampled."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from torch import Tensor, nn

from gmscavp.compat import torchaudio
from gmscavp.datasets.decoding.errors import ClipError
from gmscavp.datasets.decoding.media import (
    TOLERANCE_S,
    packets_from,
    single_thread,
    time_base,
    track_end_s,
    track_start_s,
)

# Read beyond both ends of the window, for the resampling filter.
_MARGIN_S = 0.1

# Decoded and thrown away before that: what a lossy codec needs until it is right. 80 ms for Opus; MP3 refers back over
# nine frames of 1152 samples, Vorbis and SBR over one or two of up to 8192.
_PREROLL_S = 0.1
_PREROLL_SAMPLES = 10_240

# Times of blocks are rounded (Matroska) or jitter by 20 ms (films re-encoded from the web) although no sound is missing.
# A hole is a jump between two blocks, or a departure from where their stretch began, longer than this.
_JUMP_S = 0.03
_DEPARTURE_S = 0.05

# Keeps the resampling kernel small for rates without a common divisor; the error is below one sample in a minute.
_MAX_RATIO_TERM = 640


@dataclass(frozen=True)
class _Sound:
    """Decoded frames laid end to end as mono, (S,) float32, with each frame's time on the file's clock and length."""

    wave: np.ndarray
    rate: int
    times_s: np.ndarray
    lengths: np.ndarray


def read_audio(
    container: InputContainer, stream: AudioStream, first_s: float, duration_s: float, sample_rate: int
) -> Tensor:
    """The sound from first_s (the file's own clock) on as (round(duration_s * sample_rate),) float32 in [-1, 1], mono.

    Silence stands in for what lies before the track's start or after its end. The container must be newly opened.
    ClipError('truncated audio') when more than TOLERANCE_S of what the header promises is not there.
    """
    count = round(duration_s * sample_rate)
    sound = _decode(container, stream, first_s - _MARGIN_S, first_s + duration_s + _MARGIN_S)
    source, target = _ratio(sound.rate, sample_rate)
    # Whole filter strides, so that the samples after the context fall on the same grid whatever the window.
    context = math.ceil(_filter_reach(source, target) / source) * source
    first = round(first_s * sound.rate)
    wave, known = _lay_out(sound, first - context, context + math.ceil(count * source / target) + context)
    _demand_sound(container, stream, known[context:], first / sound.rate, duration_s, sound.rate)
    if not np.isfinite(wave).all():
        raise ClipError(container.name, 'damaged', 'the sound holds values that are not numbers')
    skipped = context // source * target
    return resample(torch.from_numpy(wave), source, target)[skipped : skipped + count].clamp(-1, 1)


def resample(wave: Tensor, source: int, target: int) -> Tensor:
    """(S,) at `source` samples per unit of time -> (ceil(S * target / source),), band-limited."""
    return wave if source == target else _resampler(source, target)(wave)


@lru_cache(maxsize=16)
def _resampler(source: int, target: int) -> nn.Module:
    return torchaudio.transforms.Resample(source, target)


def _ratio(source: int, target: int) -> tuple[int, int]:
    ratio = Fraction(source, target).limit_denominator(_MAX_RATIO_TERM)
    return ratio.numerator, ratio.denominator


def _filter_reach(source: int, target: int) -> int:
    # Zero crossings of the windowed sinc (torchaudio's default of 6), in source samples, with one to spare.
    return math.ceil(6 * max(1.0, source / target) / 0.99) + 1


def _decode(container: InputContainer, stream: AudioStream, first_s: float, last_s: float) -> _Sound:
    frames = list(_frames(container, stream, first_s, last_s))
    kinds = {(frame.sample_rate, frame.format.name, frame.layout.name) for frame in frames}
    if len(kinds) > 1:
        raise ClipError(container.name, 'unsupported', f'its sound changes within the window: {sorted(kinds)}')
    lengths = np.array([frame.samples for frame in frames], int)
    rate = frames[0].sample_rate if frames else stream.codec_context.sample_rate
    return _Sound(_mono(frames), rate, np.array([frame.time for frame in frames], float), lengths)


def _frames(container: InputContainer, stream: AudioStream, first_s: float, last_s: float) -> Iterator[AudioFrame]:
    single_thread(stream)
    preroll_s = _PREROLL_S + _PREROLL_SAMPLES / max(stream.codec_context.sample_rate, 1)
    tick_s = float(time_base(stream))
    for packet in packets_from(container, stream, first_s - preroll_s):
        # The last packet of a truncated file; its sound counts as missing.
        if packet.is_corrupt:
            continue
        # Packets far before the window need no decoding where a seek was not possible.
        if packet.pts is not None and packet.pts * tick_s < first_s - 2 * preroll_s:
            continue
        for frame in cast(list[AudioFrame], packet.decode()):
            if frame.time is None:
                raise ClipError(container.name, 'unsupported', 'its sound carries no times')
            if frame.time > last_s:
                return
            if frame.time + frame.samples / frame.sample_rate > first_s:
                yield frame


def _mono(frames: list[AudioFrame]) -> np.ndarray:
    """The mean over the channels that carry full-band sound, of frames of one kind laid end to end: (S,) float32."""
    if not frames:
        return np.zeros(0, np.float32)
    wave = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    if not frames[0].format.is_planar:
        wave = wave.reshape(-1, frames[0].layout.nb_channels).T
    heard = [index for index, channel in enumerate(frames[0].layout.channels) if not channel.name.startswith('LFE')]
    if 0 < len(heard) < len(wave):
        wave = wave[heard]
    mono = wave[0].astype(np.float32) if len(wave) == 1 else wave.mean(0, dtype=np.float32)
    if wave.dtype.kind == 'f':
        return mono
    silence, scale = (128, 128) if wave.dtype.kind == 'u' else (0, 2 ** (8 * wave.dtype.itemsize - 1))
    return (mono - np.float32(silence)) / np.float32(scale)


def _lay_out(sound: _Sound, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples first to first + count of the track as (count,) float32, and which of them are known, (count,) bool."""
    wave, known = np.zeros(count, np.float32), np.zeros(count, bool)
    for position, run in _runs(sound):
        begin, end = max(position - first, 0), min(position - first + len(run), count)
        if begin < end:
            wave[begin:end] = run[begin - position + first : end - position + first]
            known[begin:end] = True
    return wave, known


def _runs(sound: _Sound) -> Iterator[tuple[int, np.ndarray]]:
    """(index of its first sample in the track, samples) of each stretch without a hole.

    A stretch lies where the median of its frames' times puts it.
    """
    before = np.cumsum(sound.lengths) - sound.lengths
    shifts = sound.times_s * sound.rate - before
    jumps = np.abs(np.diff(shifts, prepend=shifts[:1])) > _JUMP_S * sound.rate
    begin = 0
    for end in range(1, len(shifts) + 1):
        departed = end < len(shifts) and abs(shifts[end] - shifts[begin]) > _DEPARTURE_S * sound.rate
        if end == len(shifts) or jumps[end] or departed:
            samples = sound.wave[before[begin] : before[end - 1] + sound.lengths[end - 1]]
            yield round(before[begin] + np.median(shifts[begin:end])), samples
            begin = end


def _demand_sound(
    container: InputContainer, stream: AudioStream, known: np.ndarray, first_s: float, duration_s: float, rate: int
) -> None:
    last_s = first_s + duration_s
    promised_s = track_end_s(container, stream)
    begin = max(round((track_start_s(stream) - first_s) * rate), 0)
    end = round((min(last_s, promised_s if promised_s is not None else last_s) - first_s) * rate)
    missing_s = np.count_nonzero(~known[begin:end]) / rate
    if missing_s > TOLERANCE_S:
        # Without a promise in the header, missing sound at the end is the end of the file.
        cause = 'too short' if promised_s is None and not known[end - 1] else 'truncated audio'
        raise ClipError(
            container.name, cause, f'{missing_s:.2f} s of sound missing from {first_s:.2f} to {last_s:.2f} s'
        )
