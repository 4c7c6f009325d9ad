"""How a signal is sampled: the settings that a user chooses, and windows for signals longer than one clip."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.models.guidance import Denoise


@dataclass(frozen=True)
class Sampling:
    """steps: of the sampler. guidance: scale of classifier-free guidance, 1 is off. rescale: see guidance.rescaled.

    low, high: guidance only where low < sigma / alpha <= high. alignment: scale of guidance by the alignment classifier,
    0 is off. sampler: config of another sampler than the model's. seed: of the noise; sample k of clip n draws the same
    numbers however many clips and samples are asked for. overlap: share of a window that the next one covers too, for
    signals longer than a clip. UserError: a value that makes no sense.
    """

    steps: int = 25
    guidance: float = 2.0
    rescale: float = 0.0
    low: float = 0.0
    high: float = float('inf')
    alignment: float = 0.0
    sampler: Mapping[str, Any] | None = None
    seed: int = 0
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f'steps must be at least 1, not {self.steps}.')
        if not 0 <= self.guidance < float('inf') or not 0 <= self.alignment < float('inf'):
            raise UserError('guidance must be 0 or above; 1 is off, 2 to 5 are usual.')
        if not 0 <= self.overlap <= 0.5:
            raise UserError(f'overlap must be from 0 to 0.5 of a window, not {self.overlap:g}.')


def window_starts(total: int, length: int, overlap: int) -> list[int]:
    """Where windows of `length` begin that cover `total` with at least `overlap` in common, the last ending at the end.

    One window at 0 where total <= length. ValueError unless 0 <= overlap < length.
    """
    if not 0 <= overlap < length:
        raise ValueError(f'overlap must be from 0 to below {length}, not {overlap}.')
    if total <= length:
        return [0]
    count = -(-(total - overlap) // (length - overlap))
    return [round(k * (total - length) / (count - 1)) for k in range(count)]


def fade_weights(starts: list[int], length: int, total: int) -> list[Tensor]:
    """Weights (length,) of every window that add up to one at every place: straight cross-fades where two overlap."""
    ramps = []
    for k, start in enumerate(starts):
        places = torch.arange(length, dtype=torch.float32) + 0.5
        ramp = torch.ones(length)
        if k > 0:
            common = starts[k - 1] + length - start
            ramp = torch.minimum(ramp, places / max(common, 1))
        if k + 1 < len(starts):
            common = start + length - starts[k + 1]
            ramp = torch.minimum(ramp, (length - places) / max(common, 1))
        ramps.append(ramp)
    # Where three windows meet straight ramps do not add up by themselves.
    whole = torch.zeros(max(total, length))
    for start, ramp in zip(starts, ramps, strict=True):
        whole[start : start + length] += ramp
    return [ramp / whole[start : start + length] for start, ramp in zip(starts, ramps, strict=True)]


def windowed(parts: list[Denoise], starts: list[int], length: int, total: int) -> Denoise:
    """One denoiser of a long signal from those of its windows: what they see is cross-faded at every step.

    Signals (B, C, total, ...); parts[k] takes (B, C, length, ...) from starts[k]. Because every step agrees on what the
    windows share, the whole has no seams.
    """
    weights = fade_weights(starts, length, total)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        whole = torch.zeros_like(x)
        for part, start, weight in zip(parts, starts, weights, strict=True):
            shape = (-1, *[1] * (x.dim() - 3))
            # Laid out in memory as a clip is, strides of axes of one place included (which `contiguous` leaves): a
            # compiled denoiser is made anew for another layout.
            seen = part(x[:, :, start : start + length].clone(memory_format=torch.contiguous_format), t)
            whole[:, :, start : start + length] += weight.to(x).view(shape) * seen
        return whole

    return denoise
