"""Overlapping windows of one side of a source, read once from front to back with little in memory."""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmscavp.datasets.base import ClipFormat
from gmscavp.datasets.decoding.media import TOLERANCE_S
from gmscavp.errors import UserError
from gmscavp.inference.sources import Track

Side = Literal['video', 'audio']
SIDES: tuple[Side, ...] = ('video', 'audio')


class Windows(NamedTuple):
    """Windows of one side of a file, a row each.

    start_s, end_s: (N,) seconds from the file's beginning. fused: (N, E) float32 on the CPU, of which the inner product
    of a video's and an audio's row is their similarity over all scales. scales: fine to coarse, (N, L_s, D) float32 unit
    tokens.
    """

    start_s: Tensor
    end_s: Tensor
    fused: Tensor
    scales: list[Tensor]


def joined(parts: list[Windows]) -> Windows:
    """Windows one after the other as one."""
    starts, ends, fused, scales = zip(*parts, strict=True)
    return Windows(
        torch.cat(starts), torch.cat(ends), torch.cat(fused), [torch.cat(s) for s in zip(*scales, strict=True)]
    )


def window_starts(start_s: float, end_s: float, duration_s: float, stride_s: float) -> np.ndarray:
    """Where windows of a stretch begin: every stride, and a last one that ends where the stretch does; one at least."""
    room_s = end_s - start_s - duration_s
    if room_s <= 0:
        return np.array([start_s], float)
    starts = start_s + stride_s * np.arange(math.floor(room_s / stride_s + 1e-9) + 1)
    # Less than tracks of one file differ by is no reason for another window.
    if start_s + room_s - starts[-1] > TOLERANCE_S:
        starts = np.append(starts, start_s + room_s)
    return starts


def stretch(track: Track, start_s: float, end_s: float | None, duration_s: float) -> tuple[float, float]:
    """From when to when a track is asked for; of a still, one window. UserError: no stretch of it."""
    if not (0 <= start_s < math.inf and (end_s is None or start_s < end_s)):
        raise UserError(f'{track.name}: from {start_s} to {end_s} s is no stretch of a file; start from 0, end later.')
    if math.isinf(track.end_s):
        return 0.0, duration_s
    if start_s >= track.end_s:
        raise UserError(f'{track.name} ends at {track.end_s:.2f} s; choose a start before that, not {start_s:g} s.')
    return start_s, min(track.end_s, math.inf if end_s is None else end_s)


def video_batches(track: Track, starts: np.ndarray, end_s: float, form: ClipFormat, size: int) -> Iterator[Tensor]:
    """Windows of pictures, (B, T, 3, H, W) uint8, at most `size` at once; after end_s the last picture is held."""
    offsets = (np.arange(form.frames) + 0.5) / form.fps
    held_times, held = np.empty(0), torch.empty(0)
    for first in range(0, len(starts), size):
        # To the microsecond, so that windows that share a frame share its time.
        times = np.round(starts[first : first + size, None] + offsets, 6).clip(max=max(starts[0], end_s - 2e-3))
        wanted, where = np.unique(times, return_inverse=True)
        kept = np.isin(held_times, wanted)
        new = wanted[~np.isin(wanted, held_times)]
        parts = [held[torch.from_numpy(kept)]] if kept.any() else []
        if len(new):
            parts.append(track.read(new))
        order = np.argsort(np.concatenate([held_times[kept], new]), kind='stable')
        held_times, held = wanted, torch.cat(parts)[torch.from_numpy(order)]
        yield held[torch.from_numpy(where.reshape(times.shape))]


def audio_batches(track: Track, starts: np.ndarray, end_s: float, form: ClipFormat, size: int) -> Iterator[Tensor]:
    """Windows of sound, (B, S) float32, at most `size` at once; silent after end_s."""
    rate, length = form.sample_rate, form.samples
    # Read by whole seconds, where pieces of resampled sound meet at a sample.
    known_s = first_s = int(starts[0])
    held = torch.empty(0)
    for first in range(0, len(starts), size):
        begins = np.round(starts[first : first + size] * rate).astype(int)
        # The end of a window may lie a second's fraction beyond the last one read.
        until_s = math.ceil((begins[-1] + length) / rate)
        if until_s > known_s:
            fresh = track.read(known_s, until_s - known_s)
            silent = round(end_s * rate) - known_s * rate
            fresh[max(0, silent) :] = 0
            held, known_s = torch.cat([held, fresh]), until_s
        yield torch.stack([held[begin - first_s * rate :][:length] for begin in begins])
        forgotten_s = int(begins[-1] // rate) - first_s
        held, first_s = held[forgotten_s * rate :], first_s + forgotten_s
