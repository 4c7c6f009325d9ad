"""Impacts heard and seen: near perfect on what was rendered, low on silence, another clip or a shift."""

import itertools
import json

import numpy as np
import pytest

from gmscavp.datasets.impacts_render import make_scenes, render_scene, scene_truth
from gmscavp.datasets.impacts_render.scenes import FLOOR_Y, FPS, SAMPLE_RATE
from gmscavp.datasets.impacts_render.signals import PALETTE, PITCH_HZ
from gmscavp.errors import UserError
from gmscavp.evaluation.generation.matching import MatchCounts, match_times, pooled
from gmscavp.evaluation.generation.motion import find_bouncers, impact_times, motion_figures
from gmscavp.evaluation.generation.onsets import (
    detect_onsets,
    dominant_pitches,
    loudness_correlation,
    onset_figures,
    strike_levels,
)
from gmscavp.evaluation.generation.truth import read_truth

CLIPS = 8


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    """Frames, waveforms and truths of rendered clips; half of the galleries' kinds each, other seeds than tuned on."""
    scenes = make_scenes(3, CLIPS, 'mixed')
    file = tmp_path_factory.mktemp('impacts') / 'events.jsonl'
    file.write_text(''.join(json.dumps(scene_truth(scene)) + '\n' for scene in scenes))
    truths = read_truth(file)
    frames, waveforms = zip(*map(render_scene, scenes), strict=True)
    return frames, waveforms, [truths[scene.clip_id] for scene in scenes]


def heard(waveforms, truths):
    return [
        onset_figures(sound, SAMPLE_RATE, truth.events, PITCH_HZ)
        for sound, truth in zip(waveforms, truths, strict=True)
    ]


def watched(frames, truths):
    return [
        motion_figures(clip, FPS, truth.objects, PALETTE, FLOOR_Y) for clip, truth in zip(frames, truths, strict=True)
    ]


def largest_matching(a, b, tolerance):
    """By trying every assignment."""
    if len(a) > len(b):
        a, b = b, a
    return max(
        sum(abs(x - y) <= tolerance for x, y in zip(a, order, strict=True))
        for order in itertools.permutations(b, len(a))
    )


def test_matching_is_one_to_one_and_the_largest():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (np.sort(rng.uniform(0, 1, rng.integers(0, 6))) for _ in range(2))
        pairs = match_times(a, b, 0.15)
        assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs) == largest_matching(a, b, 0.15)
        assert (np.abs(a[pairs[:, 0]] - b[pairs[:, 1]]) <= 0.15).all()
    with pytest.raises(ValueError, match='rise'):
        match_times(np.array([1.0, 0.5]), b, 0.1)


def test_counts_at_the_edges():
    assert MatchCounts(3, 4, 6).f1 == pytest.approx(2 / (4 / 3 + 6 / 3))
    assert (MatchCounts(0, 0, 0).precision, MatchCounts(0, 0, 0).recall, MatchCounts(0, 0, 0).f1) == (1, 1, 1)
    assert (MatchCounts(0, 0, 5).precision, MatchCounts(0, 0, 5).f1) == (0, 0)
    assert (MatchCounts(0, 5, 0).precision, MatchCounts(0, 5, 0).f1) == (0, 0)
    assert pooled([MatchCounts(1, 2, 3), MatchCounts(2, 2, 2)]) == MatchCounts(3, 4, 5)


def test_true_sound_is_near_perfect(clips):
    _, waveforms, truths = clips
    figures = heard(waveforms, truths)
    assert np.mean([each.onsets.f1 for each in figures]) >= 0.95
    assert pooled(each.onsets for each in figures).precision >= 0.98
    on_screen = [
        found
        for each, truth in zip(figures, truths, strict=True)
        for found, event in zip(each.heard, truth.events, strict=True)
        if event.on_screen
    ]
    assert np.mean(on_screen) >= 0.9
    offsets = np.concatenate([each.offsets_s for each in figures])
    assert np.abs(offsets).mean() < 0.005
    assert abs(offsets.mean()) < 0.003
    assert np.concatenate([each.right_pitch for each in figures]).mean() >= 0.95


def test_loudness_follows_speed(clips):
    _, waveforms, truths = clips
    figures = heard(waveforms, truths)
    struck = [(truth, truth.events[k]) for each, truth in zip(figures, truths, strict=True) for k in each.alone]
    levels = np.concatenate([each.levels_db for each in figures])
    speeds = np.array([event.speed for _, event in struck])
    sources = [(truth.clip_id, event.colour, event.on_screen) for truth, event in struck]
    assert loudness_correlation(levels, speeds, sources) > 0.75
    shuffled = np.random.default_rng(0).permutation(len(levels))
    assert abs(loudness_correlation(levels[shuffled], speeds, sources)) < 0.3


def test_silence_and_noise_have_no_onsets(clips):
    truths = clips[2]
    noise = np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE)
    for sound in (np.zeros(4 * SAMPLE_RATE), 0.01 * noise, np.zeros(10), np.zeros(0)):
        assert len(detect_onsets(sound, SAMPLE_RATE)) == 0
    assert heard([np.zeros(4 * SAMPLE_RATE)], truths[:1])[0].onsets.f1 == 0


def test_another_clips_sound_and_a_late_sound_score_low(clips):
    _, waveforms, truths = clips
    other = pooled(each.onsets for each in heard(waveforms, truths[4:] + truths[:4]))
    late = pooled(each.onsets for each in heard([np.roll(sound, SAMPLE_RATE // 10) for sound in waveforms], truths))
    assert other.f1 < 0.35
    assert late.f1 < 0.35


def test_onsets_move_with_the_sound_and_not_with_its_level(clips):
    sound = clips[1][0]
    times = detect_onsets(sound, SAMPLE_RATE)
    quiet = detect_onsets(0.05 * sound, SAMPLE_RATE)
    late = detect_onsets(np.concatenate([sound[:1] * np.zeros(8000), sound]), SAMPLE_RATE)
    np.testing.assert_allclose(quiet, times, atol=0.006)
    assert len(match_times(late, times + 0.5, 0.006)) >= 0.9 * len(times)


@pytest.mark.parametrize('sample_rate', [16_000, 44_100])
def test_tones_of_known_pitch_and_level(sample_rate):
    since = np.arange(int(0.4 * sample_rate)) / sample_rate
    sound = np.zeros(3 * sample_rate)
    times = np.array([0.3, 0.9, 1.5, 2.1])
    for time, pitch, level in zip(times, PITCH_HZ.values(), (0.4, 0.2, 0.1, 0.05), strict=False):
        first = int(time * sample_rate)
        sound[first : first + len(since)] += level * np.sin(2 * np.pi * pitch * since) * np.exp(-since / 0.1)
    np.testing.assert_allclose(detect_onsets(sound, sample_rate), times, atol=0.012)
    assert dominant_pitches(sound, sample_rate, times, PITCH_HZ) == list(PITCH_HZ)[:4]
    np.testing.assert_allclose(np.diff(strike_levels(sound, sample_rate, times)), -6.02, atol=0.5)


def test_a_trembling_tone_starts_once():
    since = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * 900 * since) * np.exp(-since / 0.2) * (0.6 + 0.4 * np.cos(2 * np.pi * 12 * since))
    assert len(detect_onsets(np.concatenate([np.zeros(8000), 0.3 * tone]), SAMPLE_RATE)) == 1


def test_a_damaged_waveform_is_refused():
    with pytest.raises(ValueError, match='finite'):
        detect_onsets(np.full(100, np.nan), SAMPLE_RATE)
    with pytest.raises(ValueError, match='waveform'):
        detect_onsets(np.zeros((2, 100)), SAMPLE_RATE)


def test_loudness_needs_impacts_that_can_be_compared():
    levels, speeds = np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 40])
    assert loudness_correlation(levels, speeds, 'aaaa') == pytest.approx(1)
    assert loudness_correlation(-levels, speeds, 'aaaa') == pytest.approx(-1)
    assert np.isnan(loudness_correlation(levels, speeds, 'abcd'))
    assert np.isnan(loudness_correlation(np.ones(4), speeds, 'aaaa'))
    # A loud object that falls slowly says nothing about how its own impacts differ.
    assert loudness_correlation(np.array([1.0, 2, 51, 52]), np.array([30.0, 40, 3, 4]), 'aabb') > 0.8


def test_true_frames_are_near_perfect(clips):
    frames, _, truths = clips
    figures = watched(frames, truths)
    assert pooled(each.impacts for each in figures).f1 >= 0.95
    assert pooled(each.coloured_impacts for each in figures).f1 >= 0.95
    assert pooled(each.colours for each in figures).f1 >= 0.95
    assert np.concatenate([each.x_errors for each in figures]).mean() < 1
    assert np.abs(np.concatenate([each.offsets_s for each in figures])).mean() < 0.015


def test_frames_of_another_clip_and_of_nothing_score_low(clips):
    frames, _, truths = clips
    figures = watched(frames, truths[4:] + truths[:4])
    assert pooled(each.impacts for each in figures).f1 < 0.4
    assert pooled(each.coloured_impacts for each in figures).f1 < 0.25
    nothing = watched([np.zeros_like(frames[0]), np.full_like(frames[0], 255)], truths[:2])
    assert [each.impacts.f1 for each in nothing] == [0, 0]
    assert pooled(each.colours for each in nothing).detected == 0


def test_turns_between_frames():
    times = np.array([0.313, 1.02, 1.777])
    moments = (np.arange(40) + 0.5) / 16
    lowest = 56 - 70 * np.abs(moments[:, None] - times).min(axis=1)
    np.testing.assert_allclose(impact_times(lowest, 16, 56), times, atol=1e-9)
    assert len(impact_times(lowest - 20, 16, 56)) == 0  # in the air
    assert len(impact_times(np.full(40, -np.inf), 16, 56)) == 0


def test_frames_of_another_kind_are_refused():
    with pytest.raises(ValueError, match='uint8'):
        find_bouncers(np.zeros((4, 64, 64, 3), np.float32), FPS, PALETTE, FLOOR_Y)


def test_truth_that_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(UserError, match='render the data set first'):
        read_truth(tmp_path / 'events.jsonl')
    file = tmp_path / 'events.jsonl'
    for line in ('{', '[]', '{"clip_id": "a"}', '{"clip_id": "a", "objects": 3, "distractors": []}'):
        file.write_text('\n' + line + '\n')
        with pytest.raises(UserError, match='line 2 is damaged'):
            read_truth(file)
