"""Onsets of a waveform against the impacts that are known to sound in it: when, at which pitch, how loud.

The onset function is the rise of band levels above their recent maximum, a maximum filter over time after the idea of
SuperFlux (Boeck and Widmer 2013, who take it over frequency): a tone that trembles while it decays starts only once.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gmscavp.evaluation.generation.matching import MatchCounts, match_times
from gmscavp.evaluation.generation.truth import TrueEvent

TOLERANCE_S = 0.05
HOP_S = 0.005
WINDOW_S = 0.032
BANDS = 24
LOWEST_HZ = 150.0
# Levels count above three times the band's quiet amplitude: noise does not pass it, an impact does.
QUIET, ABOVE_QUIET = 0.2, 3.0
RANGE_DB = 60.0
SILENCE = 1e-5
MEMORY_S = 0.09
LEAST_RISE_DB = 0.6
APART_S = 0.02
STRIKE_S = 0.032
PITCH_WIDTH = 0.12


@dataclass(frozen=True)
class HeardOnset:
    """An onset of a sound: when (s), of which colour's pitch, how loud (dB against full scale)."""

    time_s: float
    colour: str
    level_db: float


@dataclass(frozen=True)
class OnsetFigures:
    """What one sound has of the events that it should have.

    onsets: counts at the tolerance. offsets_s: (M,) detected minus true time of the matched ones. heard: (E,) bool,
    which events have an onset. right_pitch: (P,) bool and levels_db: (P,), of matched events that sound alone; alone:
    their numbers among the events.
    """

    onsets: MatchCounts
    offsets_s: np.ndarray
    heard: np.ndarray
    alone: np.ndarray
    right_pitch: np.ndarray
    levels_db: np.ndarray


def onset_figures(
    waveform: np.ndarray,
    sample_rate: int,
    events: Sequence[TrueEvent],
    pitches_hz: Mapping[str, float],
    tolerance_s: float = TOLERANCE_S,
) -> OnsetFigures:
    """Compare a sound, (S,) in [-1, 1], with its events in time order; pitches_hz: colour -> pitch."""
    return compare_onsets(hear_onsets(waveform, sample_rate, pitches_hz), events, tolerance_s)


def hear_onsets(waveform: np.ndarray, sample_rate: int, pitches_hz: Mapping[str, float]) -> list[HeardOnset]:
    """All that is heard in a sound, (S,) in [-1, 1], in time order. ValueError as in `detect_onsets`."""
    times = detect_onsets(waveform, sample_rate)
    names = dominant_pitches(waveform, sample_rate, times, pitches_hz)
    levels = strike_levels(waveform, sample_rate, times)
    return [HeardOnset(*onset) for onset in zip(times.tolist(), names, levels.tolist(), strict=True)]


def compare_onsets(
    heard_onsets: Sequence[HeardOnset], events: Sequence[TrueEvent], tolerance_s: float = TOLERANCE_S
) -> OnsetFigures:
    """Compare what is heard with the events that should be, both in time order.

    Pitch and level are taken where no other event is within STRIKE_S: of two at once neither can be told.
    """
    truth = np.array([event.time_s for event in events])
    detected = np.array([onset.time_s for onset in heard_onsets])
    pairs = match_times(detected, truth, tolerance_s)
    heard = np.zeros(len(truth), bool)
    heard[pairs[:, 1]] = True
    clear = pairs[_stand_alone(truth, STRIKE_S)[pairs[:, 1]]]
    return OnsetFigures(
        onsets=MatchCounts(matched=len(pairs), detected=len(detected), true=len(truth)),
        offsets_s=detected[pairs[:, 0]] - truth[pairs[:, 1]],
        heard=heard,
        alone=clear[:, 1],
        right_pitch=np.array([heard_onsets[i].colour == events[k].colour for i, k in clear], bool),
        levels_db=np.array([heard_onsets[i].level_db for i in clear[:, 0]]),
    )


def detect_onsets(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """(S,) -> (N,) seconds, rising. None for silence. Raises ValueError unless the waveform is one finite channel.

    A peak counts when it is the highest within APART_S and LEAST_RISE_DB above the median of the 0.1 s around it. An
    onset in the last half WINDOW_S is not found.
    """
    if waveform.ndim != 1 or not np.isfinite(waveform).all():
        raise ValueError(f'the waveform must be (S,) finite numbers, got {waveform.shape}.')
    if len(waveform) < WINDOW_S * sample_rate:
        return np.empty(0)
    rise = onset_strength(waveform, sample_rate)
    reach, around = round(APART_S / HOP_S), round(0.1 / HOP_S)
    highest = _windows(rise, reach).max(axis=1)
    usual = np.median(_windows(rise, around), axis=1)
    peaks = np.flatnonzero((rise >= highest) & (rise > LEAST_RISE_DB + usual))
    kept: list[int] = []
    for peak in peaks:  # of a plateau the first counts
        if not kept or peak - kept[-1] > reach:
            kept.append(int(peak))
    return np.array(kept) * _hop(sample_rate) / sample_rate


def onset_strength(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mean over bands of the rise above the maximum of the last MEMORY_S: (S,) -> (F,) dB, frames HOP_S apart.

    Needs WINDOW_S or more of sound.
    """
    levels = _band_levels(waveform, sample_rate)
    memory, lag = round(MEMORY_S / HOP_S), 2
    before = np.pad(levels, ((0, 0), (memory + lag, 0)))[:, :-lag]
    past = np.lib.stride_tricks.sliding_window_view(before, memory + 1, axis=1).max(axis=-1)
    return np.maximum(levels - past[:, : levels.shape[1]], 0).mean(axis=0)


def dominant_pitches(
    waveform: np.ndarray, sample_rate: int, times_s: np.ndarray, pitches_hz: Mapping[str, float]
) -> list[str]:
    """The name of the pitch whose surroundings (12% each side) gain most energy at each time."""
    gained, frequency = _gained_spectra(waveform, sample_rate, times_s)
    near = [np.abs(frequency / pitch - 1) < PITCH_WIDTH for pitch in pitches_hz.values()]
    energy = np.stack([gained[:, band].sum(axis=1) for band in near], axis=1)
    return [list(pitches_hz)[k] for k in energy.argmax(axis=1)]


def strike_levels(waveform: np.ndarray, sample_rate: int, times_s: np.ndarray) -> np.ndarray:
    """(N,) dB against full scale: the energy that the STRIKE_S after each time have more than those before."""
    gained, _ = _gained_spectra(waveform, sample_rate, times_s)
    return 10 * np.log10(gained.sum(axis=1) + SILENCE**2)


def loudness_correlation(levels_db: np.ndarray, speeds: np.ndarray, sources: Sequence[Hashable]) -> float:
    """Spearman's correlation of level and speed, each less the median of its source: (N,), (N,) -> -1..1.

    sources: whose impact it is, such as (clip, colour). Objects differ in loudness at one speed; sources heard once
    say nothing and are left out. nan where fewer than three impacts are left or nothing varies.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, source in enumerate(sources):
        groups.setdefault(source, []).append(number)
    rows = [np.array(numbers) for numbers in groups.values() if len(numbers) > 1]
    if sum(map(len, rows)) < 3:
        return float('nan')
    level = np.concatenate([levels_db[k] - np.median(levels_db[k]) for k in rows])
    log_speed = np.log(np.maximum(speeds, 1e-6))
    speed = np.concatenate([log_speed[k] - np.median(log_speed[k]) for k in rows])
    if np.ptp(level) == 0 or np.ptp(speed) == 0:
        return float('nan')
    return float(np.corrcoef(_ranks(level), _ranks(speed))[0, 1])


def _band_levels(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """(S,) -> (BANDS, F) dB above the band's quiet level, 0 where below it."""
    hop, length = _hop(sample_rate), round(WINDOW_S * sample_rate)
    size = 2 * length
    # Only whole windows: the cut at the end would be a click in every band.
    padded = np.pad(waveform.astype(np.float64), (length // 2, 0))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(length), size)) ** 2
    amplitude = np.sqrt(power @ _band_weights(np.fft.rfftfreq(size, 1 / sample_rate)).T).T / length
    floor = np.maximum(ABOVE_QUIET * np.quantile(amplitude, QUIET, axis=1, keepdims=True), SILENCE)
    floor = np.maximum(floor, amplitude.max() * 10 ** (-RANGE_DB / 20))
    return 20 * np.log10(np.maximum(amplitude / floor, 1))


def _band_weights(frequency: np.ndarray) -> np.ndarray:
    """(K,) Hz -> (BANDS, K): triangles from LOWEST_HZ to nearly the highest frequency, even in pitch, of sum 1."""
    edges = np.geomspace(LOWEST_HZ, 0.94 * frequency[-1], BANDS + 2)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.clip(np.minimum((frequency - low) / (middle - low), (high - frequency) / (high - middle)), 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def _gained_spectra(waveform: np.ndarray, sample_rate: int, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power after minus before each time, where positive: (N, K), and the frequencies (K,) in Hz."""
    length = round(STRIKE_S * sample_rate)
    fade = np.hanning(2 * length)[length:]
    padded = np.pad(waveform.astype(np.float64), length)
    starts = np.clip(np.rint(np.asarray(times_s) * sample_rate).astype(int), 0, len(waveform))[:, None]
    index = starts + np.arange(length)
    after = np.fft.rfft(padded[index + length] * fade, 4 * length)
    before = np.fft.rfft(padded[index] * fade[::-1], 4 * length)
    gained = np.maximum(np.abs(after) ** 2 - np.abs(before) ** 2, 0) / length**2
    return gained, np.fft.rfftfreq(4 * length, 1 / sample_rate)


def _stand_alone(times_s: np.ndarray, apart_s: float) -> np.ndarray:
    """(E,) rising -> (E,) bool: no other within apart_s."""
    gaps = np.concatenate([[np.inf], np.diff(times_s), [np.inf]])
    return (gaps[:-1] >= apart_s) & (gaps[1:] >= apart_s)


def _hop(sample_rate: int) -> int:
    return round(HOP_S * sample_rate)


def _windows(values: np.ndarray, reach: int) -> np.ndarray:
    """(F,) -> (F, 2 reach + 1): each value with its neighbours; zeros past the ends."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, reach), 2 * reach + 1)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Places from 0; equal values share the mean of theirs."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[group]
