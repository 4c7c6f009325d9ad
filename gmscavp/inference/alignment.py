"""Picture against sound over time: when and where they go together, and how far they are apart."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gmscavp.errors import UserError
from gmscavp.inference.embedding import open_side
from gmscavp.inference.loaded import Loaded, demand_embeddings, encode
from gmscavp.inference.sources import Source
from gmscavp.inference.windows import Side, stretch
from gmscavp.models.heads import unit_tokens

# Fewer steps than this that both sides have at a shift say nothing about it.
_LEAST_STEPS = 4

# Chosen so that confidence is how often the offset was right, on clips of Impacts half of which had the sound of another
# clip (benchmarks/synchronise.py): the inverse temperature of scores, and the score from which on they mean anything.
_SHARPNESS = 30.0
_NO_AGREEMENT = 0.39


class Localisation(NamedTuple):
    """Steps of one scale, in order.

    start_s, end_s: (N,) seconds from the beginning. similarity: (N,) cosine of picture and sound, of the best place where
    the model keeps places. heat: (N, g, g) cosine of every cell of the picture with the sound, rows from the top; None
    where the model does not keep places.
    """

    start_s: Tensor
    end_s: Tensor
    similarity: Tensor
    heat: Tensor | None


class Synchrony(NamedTuple):
    """How far picture and sound are apart.

    offset_ms: positive where the sound is late. confidence: from 0 to 1, the chance that picture and sound belong together
    and the offset is right to half a step of the finest scale, as far as Impacts tells (docs/inference.md). shifts_ms,
    scores: (K,) what was tried, and the mean cosine of the tokens there.
    """

    offset_ms: float
    confidence: float
    shifts_ms: Tensor
    scores: Tensor


def localise(run: Loaded, video: Source, audio: Source, scale: int, batch: int) -> Localisation:
    """As Model.localise."""
    demand_embeddings(run)
    step_s = _step_s(run, scale)
    v, a = _steps(run, video, 'video', scale, 0.0, batch), _steps(run, audio, 'audio', scale, 0.0, batch)
    count = min(len(v.tokens), len(a.tokens))
    cosine, heat = step_similarity(v.tokens[:count], a.tokens[:count]), None
    if hasattr(run.model.head, 'heat_map'):
        heat = run.model.head.heat_map(v.tokens[None, :count], a.tokens[None, :count])[0]
    start_s = step_s * torch.arange(count, dtype=torch.float64)
    return Localisation(start_s, (start_s + step_s).clamp(max=min(v.end_s, a.end_s)), cosine, heat)


def step_similarity(video: Tensor, audio: Tensor) -> Tensor:
    """Cosine of the tokens of each step: (L, D), (L, D) -> (L,); of (L, P, D), (L, 1, D) that of the best place."""
    cosine = functional.cosine_similarity(video, audio, dim=-1)
    return cosine.amax(dim=-1) if cosine.dim() == 2 else cosine


def synchronise(run: Loaded, video: Source, audio: Source, max_shift_s: float, phases: int, batch: int) -> Synchrony:
    """As Model.synchronise."""
    demand_embeddings(run)
    step_s = _step_s(run, 0)
    if phases < 1 or not step_s <= max_shift_s < math.inf:
        raise UserError(
            f'phases must be at least 1 and max_shift_s at least {step_s:g}, not {phases} and {max_shift_s}.'
        )
    v = _steps(run, video, 'video', 0, 0.0, batch).whole(step_s)
    heard = [_steps(run, audio, 'audio', 0, k * step_s / phases, batch).whole(step_s) for k in range(phases)]
    most = round(max_shift_s / step_s * phases)
    shifts, scores, counts = [], [], []
    for shift in range(-most, most + 1):
        steps, phase = divmod(shift, phases)
        here, there = shifted(v, heard[phase], steps)
        if len(here) >= _LEAST_STEPS:
            shifts.append(shift * step_s / phases)
            scores.append(float(step_similarity(here, there).mean()))
            counts.append(len(here))
    if len(shifts) < 3:
        raise UserError(f'picture and sound share less than {(_LEAST_STEPS + 1) * step_s:g} s; give longer files.')
    times, values = torch.tensor(shifts, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64)
    best = peak(values) * step_s / phases + shifts[0]
    return Synchrony(1000 * best, confidence(times, values, best, step_s), 1000 * times, values)


def shifted(video: Tensor, audio: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Steps of both that meet when the audio's are so many later: video i beside audio i + steps."""
    first = max(0, -steps)
    count = max(0, min(len(video) - first, len(audio) - first - steps))
    return video[first:][:count], audio[first + steps :][:count]


def peak(values: Tensor) -> float:
    """Where the highest of evenly spaced values (K,) lies, in indices, by the parabola through it and its neighbours."""
    best = int(values.argmax())
    if best in (0, len(values) - 1):
        return float(best)
    before, here, after = values[best - 1 : best + 2].tolist()
    bend = before - 2 * here + after
    return best + (0.5 * (before - after) / bend if bend < 0 else 0.0)


def confidence(shifts_s: Tensor, scores: Tensor, offset_s: float, step_s: float) -> float:
    """The share of exp(_SHARPNESS * score) within half a step of the offset, from 0 to 1.

    One more candidate, of the score _NO_AGREEMENT, stands for picture and sound that do not belong together.
    """
    share = (_SHARPNESS * torch.cat([scores, scores.new_tensor([_NO_AGREEMENT])])).softmax(dim=0)[:-1]
    return float(share[(shifts_s - offset_s).abs() <= step_s / 2 + 1e-9].sum())


class _Steps(NamedTuple):
    """Tokens of one scale over time, (N, D) or (N, P, D), a step each; end_s: when the source ends, after the first."""

    tokens: Tensor
    end_s: float

    def whole(self, step_s: float) -> Tensor:
        """Those whose step the source fills."""
        return self.tokens[: int(self.end_s / step_s + 1e-3)]


def _steps(run: Loaded, source: Source, side: Side, scale: int, first_s: float, batch: int) -> _Steps:
    """All steps of a source from first_s on, by windows side by side, of which the last is filled up."""
    track, batches = open_side(run, source, side)
    begin_s, end_s = stretch(track, first_s, None, run.clip.duration_s)
    step_s = _step_s(run, scale)
    # What is left of a step only is no reason for another window.
    windows = max(1, math.ceil((end_s - begin_s - step_s / 2) / run.clip.duration_s))
    starts = begin_s + run.clip.duration_s * np.arange(windows)
    parts = batches(track, starts, end_s, run.clip, batch)
    tokens = torch.cat([unit_tokens(encode(run, side, part))[scale].flatten(0, 1).cpu() for part in parts])
    return _Steps(tokens[: max(1, math.ceil((end_s - begin_s) / step_s - 0.5))], end_s - begin_s)


def _step_s(run: Loaded, scale: int) -> float:
    """Seconds that a token of a scale covers. UserError: there is no such scale."""
    lengths = run.model.video_pyramid.lengths
    if not 0 <= scale < len(lengths):
        raise UserError(f'the model has scales 0 (finest) to {len(lengths) - 1}, not {scale}.')
    return run.clip.duration_s / lengths[scale]
