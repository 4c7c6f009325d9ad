"""Impacts in the frames of a clip of bouncing objects against what is known: when, of which colour, where.

Lengths are in pixels, y points down. An impact is where the lowest point of an object turns from down to up at the
floor; what glides through the air never turns there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gmscavp.evaluation.generation.matching import MatchCounts, match_times, pooled
from gmscavp.evaluation.generation.truth import TrueObject

TOLERANCE_S = 0.05
# Distance in RGB from the pure colour: above noise, blur and compression, below half of what parts two colours.
COLOUR_REACH = 70.0
LEAST_PIXELS = 2
FLOOR_REACH = 9
HALF_WIDTH = 10
LEAST_TURN = 2.5
LEAST_IMPACTS = 2
# The first and the last frames do not show a turn.
BLIND_FRAMES = 2

Palette = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True)
class SeenObject:
    """A bouncing object found in frames: its colour, the middle of its columns (pixels), its impacts (s)."""

    colour: str
    x: float
    impact_times_s: np.ndarray


@dataclass(frozen=True)
class MotionFigures:
    """What the frames of one clip have of the objects that they should show.

    impacts: of any colour. coloured_impacts: each colour by itself. offsets_s: (M,) seen minus true time of these.
    colours: which colours bounce. x_errors: (K,) pixels, of objects whose colour is right.
    """

    impacts: MatchCounts
    coloured_impacts: MatchCounts
    offsets_s: np.ndarray
    colours: MatchCounts
    x_errors: np.ndarray


def motion_figures(
    frames: np.ndarray,
    fps: float,
    objects: Sequence[TrueObject],
    palette: Palette,
    floor_y: float,
    tolerance_s: float = TOLERANCE_S,
) -> MotionFigures:
    """Compare (T, H, W, 3) uint8 frames with the objects that bounce in the clip, one of a colour.

    Frame k shows (k + 0.5) / fps.
    """
    return compare_motion(find_bouncers(frames, fps, palette, floor_y), len(frames), fps, objects, tolerance_s)


def compare_motion(
    found_objects: Sequence[SeenObject],
    frames: int,
    fps: float,
    objects: Sequence[TrueObject],
    tolerance_s: float = TOLERANCE_S,
) -> MotionFigures:
    """Compare what `find_bouncers` saw in so many frames with the objects that bounce in the clip, one of a colour.

    Impacts within BLIND_FRAMES of either end do not count, seen or true.
    """
    seen = {item.colour: item for item in found_objects}
    true = {item.colour: item for item in objects}
    start_s, stop_s = BLIND_FRAMES / fps, (frames - BLIND_FRAMES) / fps

    def counted(times: Sequence[float] | np.ndarray) -> np.ndarray:
        rising = np.sort(np.asarray(times, float))
        return rising[(rising >= start_s) & (rising <= stop_s)]

    pairs: list[MatchCounts] = []
    offsets: list[np.ndarray] = [np.empty(0)]
    for colour in sorted(seen.keys() | true.keys()):
        found = counted(seen[colour].impact_times_s if colour in seen else [])
        wanted = counted(true[colour].impact_times_s if colour in true else [])
        matched = match_times(found, wanted, tolerance_s)
        pairs.append(MatchCounts(len(matched), len(found), len(wanted)))
        offsets.append(found[matched[:, 0]] - wanted[matched[:, 1]])
    every_seen = counted([time for item in seen.values() for time in item.impact_times_s])
    every_true = counted([time for item in true.values() for time in item.impact_times_s])
    common = sorted(seen.keys() & true.keys())
    return MotionFigures(
        impacts=MatchCounts(len(match_times(every_seen, every_true, tolerance_s)), len(every_seen), len(every_true)),
        coloured_impacts=pooled(pairs),
        offsets_s=np.concatenate(offsets),
        colours=MatchCounts(len(common), len(seen), len(true)),
        x_errors=np.array([abs(seen[colour].x - true[colour].x) for colour in common]),
    )


def find_bouncers(frames: np.ndarray, fps: float, palette: Palette, floor_y: float) -> list[SeenObject]:
    """(T, H, W, 3) uint8 -> the objects that hit the floor twice or more, at most one of a colour.

    Raises ValueError for another shape or type.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f'frames must be (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}.')
    found = []
    for colour, mask in colour_masks(frames, palette).items():
        x = _column_at_floor(mask, floor_y)
        if x is None:
            continue
        columns = np.abs(np.arange(mask.shape[2]) + 0.5 - x) <= HALF_WIDTH
        times = impact_times(lowest_points(mask[:, :, columns]), fps, floor_y)
        if len(times) >= LEAST_IMPACTS:
            found.append(SeenObject(colour, x, times))
    return found


def colour_masks(frames: np.ndarray, palette: Palette) -> dict[str, np.ndarray]:
    """(T, H, W, 3) uint8 -> colour -> (T, H, W) bool: pixels whose nearest colour it is, within COLOUR_REACH."""
    pixels, colours = frames.astype(np.float32), np.array(list(palette.values()), np.float32)
    # |p - c|^2 = |p|^2 - 2 p c + |c|^2, without all the differences in memory at once.
    square = (pixels**2).sum(axis=-1, keepdims=True) - 2 * pixels @ colours.T + (colours**2).sum(axis=-1)
    nearest = np.where(square.min(axis=-1) <= COLOUR_REACH**2, square.argmin(axis=-1), -1)
    return {colour: nearest == number for number, colour in enumerate(palette)}


def lowest_points(mask: np.ndarray) -> np.ndarray:
    """(T, H, W) bool -> (T,) the lower edge of the lowest row with LEAST_PIXELS or more; -inf where there is none."""
    full = mask.sum(axis=2) >= LEAST_PIXELS
    lowest = mask.shape[1] - full[:, ::-1].argmax(axis=1)
    return np.where(full.any(axis=1), lowest, -np.inf)


def impact_times(lowest: np.ndarray, fps: float, floor_y: float) -> np.ndarray:
    """(T,) lowest points in pixels -> (N,) seconds of the turns at the floor, between frames where they fall there.

    A turn is a maximum with LEAST_TURN on both sides. Fall and rise are taken as straight lines of one speed.
    """
    peaks = _turning_points(lowest, LEAST_TURN)
    times = []
    for peak in peaks:
        if lowest[peak] < floor_y - FLOOR_REACH:
            continue
        before, after = lowest[peak - 1], lowest[peak + 1]
        speed = lowest[peak] - min(before, after)
        shift = (after - before) / (2 * speed) if np.isfinite(speed) and speed > 0 else 0.0
        times.append((peak + 0.5 + shift) / fps)
    return np.array(times)


def _turning_points(values: np.ndarray, least: float) -> list[int]:
    """Frames of the maxima that stand out by `least` before and after, the ends left out."""
    peaks, low, high, high_at = [], np.inf, -np.inf, 0
    for k, value in enumerate(values):
        if value > high:
            high, high_at = value, k
        if value <= high - least:
            if high >= low + least and high_at > 0:
                peaks.append(high_at)
            low, high, high_at = value, value, k
        elif high < low + least and value < low:
            low, high, high_at = value, value, k
    return peaks


def _column_at_floor(mask: np.ndarray, floor_y: float) -> float | None:
    """The middle of the columns of what is at the floor, median over frames; None where nothing comes there."""
    lowest = lowest_points(mask)
    middles = []
    for frame in np.flatnonzero(lowest >= floor_y - FLOOR_REACH):
        rows = mask[frame, int(lowest[frame]) - 6 : int(lowest[frame])]
        columns = np.flatnonzero(rows.any(axis=0)) + 0.5
        # Another object of the colour may be at the same height.
        near = columns[np.abs(columns - np.median(columns)) <= HALF_WIDTH]
        if len(near):
            middles.append((near[0] + near[-1]) / 2)
    return float(np.median(middles)) if middles else None
