"""Which stretches of a clip are compared with which sound: windows, shifts, and sounds of other clips."""

import math

import torch
from torch import Tensor

from gmscavp.errors import UserError


def windows(signal: Tensor, starts: Tensor, length: int) -> Tensor:
    """The stretch from each row's own start: (B, C, T, ...), (B,) whole numbers -> (B, C, length, ...)."""
    rows = zip(signal, starts.tolist(), strict=True)
    return torch.stack([row[:, start : start + length] for row, start in rows])


def window_length(frames: int, share: float) -> int:
    """Frames of a window that is `share` of a clip, at least one."""
    return max(1, round(share * frames))


def least_shift(least_s: float, duration_s: float, frames: int) -> int:
    """Seconds in whole frames, rounded up, so that no shift is smaller: at least one frame."""
    # A hair of room: 0.3000...1 s of 10 frames/s are 3 frames whose product was rounded.
    return max(1, math.ceil(least_s * frames / duration_s - 1e-6))


def shifted_starts(room: int, least: int) -> Tensor:
    """All starts of picture and sound, each 0..room, that lie at least `least` apart: (N, 2).

    Either side comes first as often as the other, and each side's starts are spread alike, so that neither side alone
    tells a shifted pair. UserError: there are none.
    """
    if room < least:
        raise UserError(
            f'alignment: the window leaves {room} frames of the clip for shifts, the least shift is {least}; lower '
            'least_shift_s or window, or take longer clips.'
        )
    starts = torch.cartesian_prod(torch.arange(room + 1), torch.arange(room + 1))
    return starts[(starts[:, 0] - starts[:, 1]).abs() >= least]


def drawn(count: int, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """`count` of the rows, drawn evenly and with replacement: (N, ...) -> (count, ...)."""
    return rows[torch.randint(len(rows), (count,), generator=generator)]


def other_clips(clips: int, generator: torch.Generator | None = None) -> Tensor:
    """For every clip the place of another one, each taken once: (clips,). ValueError: there is only one."""
    if clips < 2:
        raise ValueError('one clip has no other.')
    turn = int(torch.randint(1, clips, (), generator=generator))
    return (torch.arange(clips) + turn) % clips
