"""Figures against what is known of rendered clips: the sound's impacts, and the picture's."""

from collections.abc import Mapping, Sequence

import numpy as np

from gmscavp.evaluation.generation.matching import MatchCounts, pooled
from gmscavp.evaluation.generation.motion import SeenObject, compare_motion
from gmscavp.evaluation.generation.onsets import HeardOnset, compare_onsets, loudness_correlation
from gmscavp.evaluation.generation.truth import ClipTruth

NAN = float('nan')
# F1 of a clip's impacts from which on the clip counts as right.
RIGHT_F1 = 0.8


def sound_figures(heard: Sequence[Sequence[HeardOnset]], truths: Sequence[ClipTruth]) -> dict[str, float]:
    """What is heard in clips against their truths, counts of all clips together; shares in percent.

    onset_precision, onset_recall, onset_f1: at 50 ms, against the impacts that are seen, all that a video can tell;
    with _all, against those off the screen too. timing_error_ms: median of |heard - true|, timing_bias_ms: median of
    heard - true; pitch_accuracy; loudness_correlation, from -1 to 1: of the impacts that are seen and heard. nan where
    nothing can be said.
    """
    seen_events = [[event for event in truth.events if event.on_screen] for truth in truths]
    seen = [compare_onsets(clip, events) for clip, events in zip(heard, seen_events, strict=True)]
    every = [compare_onsets(clip, truth.events) for clip, truth in zip(heard, truths, strict=True)]
    struck = [
        (truth.clip_id, events[k])
        for truth, events, found in zip(truths, seen_events, seen, strict=True)
        for k in found.alone
    ]
    offsets = 1000 * _joined([found.offsets_s for found in seen])
    loudness = loudness_correlation(
        _joined([found.levels_db for found in seen]),
        np.array([event.speed for _, event in struck]),
        [(clip_id, event.colour) for clip_id, event in struck],
    )
    return {
        **_counted('onset', pooled(found.onsets for found in seen)),
        **{f'{name}_all': value for name, value in _counted('onset', pooled(f.onsets for f in every)).items()},
        'timing_error_ms': _median(np.abs(offsets)),
        'timing_bias_ms': _median(offsets),
        'pitch_accuracy': 100 * _mean(_joined([found.right_pitch for found in seen])),
        'loudness_correlation': loudness,
    }


def picture_figures(
    seen: Sequence[Sequence[SeenObject]], truths: Sequence[ClipTruth], frames: Sequence[int], fps: float
) -> dict[str, float]:
    """What is seen in clips of so many frames against their truths, counts of all clips together; shares in percent.

    impact_precision, impact_recall, impact_f1: within one frame, of each colour by itself; impact_f1_any: of any colour.
    colours_right: share of clips in which just the true colours bounce; clips_right: and of whose impacts the F1 is
    RIGHT_F1 or more; clips_exact: and whose impacts all match.
    position_error_px: mean distance of the columns of objects whose colour is right, in pixels of the truth.
    timing_error_ms: median of |seen - true|.
    """
    figures = [
        compare_motion(clip, count, fps, truth.objects, 1 / fps)
        for clip, count, truth in zip(seen, frames, truths, strict=True)
    ]
    right = [each.colours.matched == each.colours.detected == each.colours.true for each in figures]
    return {
        **_counted('impact', pooled(each.coloured_impacts for each in figures)),
        'impact_f1_any': 100 * pooled(each.impacts for each in figures).f1,
        'colours_right': 100 * _mean(np.array(right)),
        'clips_right': 100 * _mean(np.array(right) & [each.coloured_impacts.f1 >= RIGHT_F1 for each in figures]),
        'clips_exact': 100 * _mean(np.array(right) & [each.coloured_impacts.f1 == 1 for each in figures]),
        'position_error_px': _mean(_joined([each.x_errors for each in figures])),
        'timing_error_ms': _median(1000 * np.abs(_joined([each.offsets_s for each in figures]))),
    }


def deranged(count: int) -> list[int]:
    """For each of `count` clips another one, each taken once: half of them further on. ValueError for fewer than two."""
    if count < 2:
        raise ValueError(f'of {count} clips none can stand for another.')
    return [(number + count // 2) % count for number in range(count)]


def prefixed(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    """'onset_f1' -> '<prefix>_onset_f1'."""
    return {f'{prefix}_{name}': value for name, value in figures.items()}


def _counted(name: str, counts: MatchCounts) -> dict[str, float]:
    shares = {'precision': counts.precision, 'recall': counts.recall, 'f1': counts.f1}
    return {f'{name}_{share}': 100 * value for share, value in shares.items()}


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0), *parts])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else NAN


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else NAN
