"""The alignment classifier: its pairs, what it learns, what it lends to guidance, and how it is judged."""

import math

import pytest
import torch

from gmscavp.compat import load_weights
from gmscavp.errors import UserError
from gmscavp.evaluation.alignment import AlignmentMetric, alignment_figures
from gmscavp.models.alignment import AlignmentClassifier
from gmscavp.models.alignment.fusion import TimeFusion
from gmscavp.models.alignment.pairs import drawn, least_shift, other_clips, shifted_starts, windows
from gmscavp.models.guidance import aligned
from gmscavp.registry import MODELS
from tests.models.builders import tiny_batch

# Two seconds of 16 frames/s; a window is one second.
FRAMES, MEL_FRAMES, BANDS = 32, 128, 8


def classifier(noisy=False, **changes):
    settings = dict(
        type='AlignmentClassifier',
        data_preprocessor=dict(type='ClipPreprocessor', bands=BANDS),
        video_backbone=dict(type='TinyVideoNet', width=4, stages=1, stem_stride=4),
        video_pyramid=dict(type='PoolingPyramid', dim=16, lengths=[16], places='image', grids=[1], detail=False),
        audio_pyramid=dict(type='PoolingPyramid', dim=16, lengths=[16], places='bands', grids=[1], detail=False),
        fusion=dict(width=16, depth=1, heads=2),
        least_shift_s=0.25,
    )
    if noisy:
        settings |= dict(codec=dict(type='MelCodec'), scheduler=dict(type='RectifiedFlow', prediction='x0'))
        settings |= dict(latents=dict(width=8, strides=[(2, 2), (2, 2)]))
    else:
        settings |= dict(audio_backbone=dict(type='TinyAudioNet', width=4, strides=[(2, 2)]))
    torch.manual_seed(0)
    model = MODELS.build(settings | changes)
    assert isinstance(model, AlignmentClassifier)
    return model


def toy(clips, seed=0):
    """Flashes in the picture and bursts in the sound at the same moments; the tint of one is the band of the other."""
    generator = torch.Generator().manual_seed(seed)
    events = (torch.rand(clips, FRAMES, generator=generator) < 0.15).float()
    tint = torch.randint(2, (clips,), generator=generator)
    video = 0.1 * torch.randn(clips, 3, FRAMES, 8, 8, generator=generator) - 0.5
    mel = 0.1 * torch.rand(clips, 1, MEL_FRAMES, BANDS, generator=generator)
    for i in range(clips):
        video[i, tint[i]] += events[i, :, None, None]
        low = 4 * int(tint[i])
        mel[i, 0, :, low : low + 4] += 0.8 * events[i].repeat_interleave(MEL_FRAMES // FRAMES)[:, None]
    return video.clamp(-1, 1), mel.clamp(0, 1)


def trained(model, steps=60, clips=32):
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for step in range(steps):
        losses = model.loss(*toy(clips, seed=1 + step))
        optimiser.zero_grad()
        (losses['loss_alignment'] + losses['loss_steps']).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope='module')
def clean():
    return trained(classifier())


@pytest.fixture(scope='module')
def noisy():
    return trained(classifier(noisy=True))


def figures(model, clips=64):
    video, mel = toy(clips, seed=999)
    with torch.no_grad():
        columns = model.predict(video, mel, [f'clip{i}' for i in range(clips)], None)
    found = {kind: torch.stack(columns[kind]) for kind in ('aligned', 'shifted', 'other')}
    return alignment_figures(found, columns['levels'][0])


class Recorder(torch.nn.Module):
    """Stands for the network at the end: keeps the pairs that it is given."""

    def __init__(self):
        super().__init__()
        self.pairs = []

    def video_steps(self, pyramid):
        return pyramid[0]

    def audio_steps(self, pyramid):
        return pyramid[0]

    def forward(self, video, audio):
        self.pairs.append((video, audio))
        return video.flatten(1).sum(1) * 0 + audio.flatten(1).sum(1) * 0


class Marks(torch.nn.Module):
    """A backbone and pyramid in one: (clip, time in frames) of what it sees, read from the signal itself."""

    def __init__(self, steps_a_frame):
        super().__init__()
        self.steps_a_frame = steps_a_frame

    def forward(self, signal):
        flat = signal.flatten(3)[..., 0]
        return [torch.stack([flat[:, 0], flat[:, -1]], dim=-1)[:, :: self.steps_a_frame]]


def marked(clips):
    """Signals that hold, in the first and the last channel or band, which clip and which moment they are of."""
    who = torch.arange(clips).float()
    when = torch.arange(FRAMES).float()
    video = torch.zeros(clips, 3, FRAMES, 4, 4)
    video[:, 0] = who[:, None, None, None]
    video[:, -1] = when[:, None, None]
    mel = torch.zeros(clips, 1, MEL_FRAMES, BANDS)
    mel[:, 0, :, 0] = who[:, None]
    mel[:, 0, :, -1] = when.repeat_interleave(4)[None]
    return video, mel


class MelMarks(torch.nn.Module):
    def forward(self, mel):
        return [torch.stack([mel[:, 0, ::4, 0], mel[:, 0, ::4, -1]], dim=-1)]


def recorded(clips, predict=False, **changes):
    """The pairs that a batch of marked clips gives: [(video marks, audio marks)], aligned, shifted, other."""
    model = classifier(**changes, step_weight=0.0)
    model.video_backbone, model.audio_backbone = Marks(1), MelMarks()
    model.video_pyramid = model.audio_pyramid = torch.nn.Identity()
    model.fusion = Recorder()
    if predict:
        model.predict(*marked(clips), [f'clip{i}' for i in range(clips)], None)
    else:
        model.loss(*marked(clips))
    return model.fusion.pairs


@pytest.mark.parametrize('seed', range(3))
def test_wrong_pairs_differ_in_what_they_should_and_in_nothing_else(seed):
    torch.manual_seed(seed)
    for (video, audio), kind in zip(recorded(16), ('aligned', 'shifted', 'other'), strict=True):
        who, when = (audio - video)[..., 0], (audio - video)[..., 1]
        assert video.shape == (16, 16, 2)
        # Cut, not rolled: every step of either side follows the one before.
        assert (video[:, :, 1].diff(dim=1) == 1).all(), kind
        assert (audio[:, :, 1].diff(dim=1) == 1).all(), kind
        if kind == 'aligned':
            assert not who.any()
            assert not when.any()
        elif kind == 'shifted':
            assert not who.any()
            assert (when == when[:, :1]).all()
            assert when.abs().min() >= 4, 'a quarter of a second of 16 frames/s'
            assert when.max() > 4
            assert when.min() < -4
        else:
            assert (who != 0).all()
            assert sorted(audio[:, 0, 0].tolist()) == list(range(16))


def test_shares_and_crops_say_how_many_pairs_are_made():
    torch.manual_seed(0)
    counts = [len(video) for video, _ in recorded(16, shifted=0.5, other=0.25, crops=2)]
    assert counts == [16, 8, 4] * 2
    assert [len(video) for video, _ in recorded(16, other=0.0)] == [16, 16]
    assert 'accuracy_other' not in classifier(other=0.0).loss(*toy(4))


def test_starts_of_shifts_are_all_there_are_and_alike_on_both_sides():
    starts = shifted_starts(6, 3)
    expected = [[a, b] for a in range(7) for b in range(7) if abs(a - b) >= 3]
    assert starts.tolist() == expected
    assert sorted(starts[:, 0].tolist()) == sorted(starts[:, 1].tolist())
    with pytest.raises(UserError, match='leaves 2 frames of the clip for shifts, the least shift is 3'):
        shifted_starts(2, 3)


@pytest.mark.parametrize(
    ('least_s', 'duration_s', 'frames', 'expected'), [(0.3, 4, 64, 5), (0.3, 1, 10, 3), (0.25, 4, 16, 1), (0, 4, 64, 1)]
)
def test_the_least_shift_is_rounded_up_to_frames(least_s, duration_s, frames, expected):
    assert least_shift(least_s, duration_s, frames) == expected


def test_the_loss_of_steps_is_least_where_every_step_finds_its_own():
    torch.manual_seed(0)
    fusion = TimeFusion([6], 16, 16, width=16, heads=2)
    with torch.no_grad():
        for linear in fusion.likeness:
            linear.weight.copy_(torch.eye(16))
            linear.bias.zero_()
    # Both heads tell the steps apart.
    steps = torch.eye(8).repeat(1, 2).expand(3, -1, -1)
    video, sound = steps[:, :6], torch.stack([steps[i, at : at + 6] for i, at in enumerate((0, 2, 1))])
    late = torch.tensor([0.0, 2.0, 1.0])
    with torch.no_grad():
        fusion.log_scale.fill_(math.log(50))
    assert fusion.step_loss(video[:1], sound[:1], late[:1]).item() < 1e-3
    assert fusion.step_loss(video, sound, late).item() < 1e-3
    assert fusion.step_loss(sound, video, -late).item() < 1e-3
    assert fusion.step_loss(video, sound, late + 1).item() > 10
    alike = torch.zeros(3, 6, 16)
    assert fusion.step_loss(alike, alike, late).item() == pytest.approx(math.log(6))
    # What a window shows throughout says nothing of time.
    torch.testing.assert_close(
        fusion.step_loss(video + torch.randn(3, 1, 16), sound, late + 1), fusion.step_loss(video, sound, late + 1)
    )
    # No step of either window belongs to one of the other: too far, or half a step apart.
    assert fusion.step_loss(video, sound, late + 9).item() == 0
    assert fusion.step_loss(video, sound, late + 0.5).item() == 0


def test_likeness_looks_at_the_sound_of_the_lag():
    torch.manual_seed(0)
    fusion = TimeFusion([6], 16, 16, width=16, heads=2, lags=2)
    video, audio = torch.randn(2, 3, 6, 16)
    maps = zip(fusion.likeness, (video, audio), strict=True)
    parts = [linear(x - x.mean(1, keepdim=True)) - linear.bias for linear, x in maps]
    seen, heard = (torch.nn.functional.normalize(part.unflatten(-1, (2, 8)), dim=-1) for part in parts)
    found = fusion._likeness(video, audio).unflatten(-1, (2, 5))
    for step in range(6):
        for lag in range(-2, 3):
            inside = 0 <= step + lag < 6
            expected = (seen[:, step] * heard[:, step + lag]).sum(-1) if inside else torch.zeros(3, 2)
            torch.testing.assert_close(found[:, step, :, lag + 2], expected)


def test_coarse_scales_stand_at_the_steps_that_they_cover():
    torch.manual_seed(0)
    fusion = TimeFusion([6, 2, 1], 16, 16, width=16)
    pyramid = [torch.randn(2, length, 16) for length in (6, 2, 1)]
    parts = [project(x) for project, x in zip(fusion.video, pyramid, strict=True)]
    expected = parts[0] + parts[1].repeat_interleave(3, dim=1) + parts[2]
    torch.testing.assert_close(fusion.video_steps(pyramid), expected)


def test_windows_and_others_against_plain_indexing():
    signal = torch.arange(2 * 3 * 10).view(2, 3, 10)
    cut = windows(signal, torch.tensor([1, 6]), 4)
    assert torch.equal(cut[0], signal[0, :, 1:5])
    assert torch.equal(cut[1], signal[1, :, 6:10])
    for seed in range(10):
        other = other_clips(5, torch.Generator().manual_seed(seed))
        assert sorted(other.tolist()) == list(range(5))
        assert (other != torch.arange(5)).all()
    seen = {tuple(row) for row in drawn(200, torch.tensor([[0, 1], [2, 3]])).tolist()}
    assert seen == {(0, 1), (2, 3)}


@pytest.mark.parametrize('kind', [False, True], ids=['clean', 'noisy'])
def test_evaluation_is_the_same_in_every_batch_and_run(kind):
    model = classifier(noisy=kind).eval()
    video, mel = toy(6)
    names = [f'clip{i}' for i in range(6)]
    with torch.no_grad():
        whole = model.predict(video, mel, names, None)
        torch.manual_seed(7)
        again = model.predict(video, mel, names, None)
        part = model.predict(video[2:4], mel[2:4], names[2:4], None)
        elsewhere = classifier(noisy=kind, seed=1).eval().predict(video, mel, names, None)
    for name in ('aligned', 'shifted'):
        torch.testing.assert_close(torch.stack(whole[name]), torch.stack(again[name]), rtol=0, atol=0)
        torch.testing.assert_close(torch.stack(whole[name])[2:4], torch.stack(part[name]))
        assert not torch.equal(torch.stack(whole[name]), torch.stack(elsewhere[name]))
    assert len(whole['levels'][0]) == (5 if kind else 0)


def test_pairs_of_evaluation_are_what_they_are_called():
    other, own, shifted = recorded(6, predict=True)
    assert not (own[1] - own[0]).any()
    assert (other[1][..., 0] != other[0][..., 0]).all()
    assert ((shifted[1] - shifted[0])[..., 1].abs() >= 4).all()
    assert not (shifted[1] - shifted[0])[..., 0].any()


def test_it_learns_a_toy_synchrony_task(clean):
    found = figures(clean)
    assert found['accuracy'] > 0.85
    assert found['accuracy_shifted'] > 0.8
    video, mel = toy(32, seed=77)
    with torch.no_grad():
        together = clean.aligned_probability(video, mel)
        apart = clean.aligned_probability(video, mel.roll(1, 0))
        late = clean.aligned_probability(video, mel.roll(24, 2))
    assert together.shape == (32,)
    assert together.mean() > 0.75
    assert apart.mean() < 0.35
    assert late.mean() < 0.35


def test_the_noisy_one_is_right_where_there_is_something_to_hear(noisy):
    found = figures(noisy)
    assert found['accuracy_at_0.1'] > 0.8
    assert found['accuracy_at_0.1'] > found['accuracy_at_0.9']
    assert found['accuracy'] == pytest.approx(sum(found[f'accuracy_at_{u:g}'] for u in noisy.levels) / 5)
    video, mel = toy(16, seed=5)
    with torch.no_grad():
        assert noisy.aligned_probability(video, mel).mean() > 0.6


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_guidance_raises_the_probability_of_alignment(noisy, mode):
    """One step of guidance from the sound of other moments, x0 = what stands there already."""
    torch.manual_seed(0)
    path, t = noisy.scheduler, torch.tensor(0.2)
    video, mel = toy(16, seed=5)
    with mode():
        tokens = noisy.encode_video(video)
        x = noisy.codec.encode(mel.roll(24, 2))
        guidance = aligned(lambda x, t: x, lambda x, t: noisy.log_prob(x, t, tokens), path.alpha_sigma, 20.0)
        moved = guidance(x, t)
        before, after = (noisy.log_prob(each, t, tokens) for each in (x, moved))
    assert (moved - x).isfinite().all()
    assert ((moved - x).flatten(1).abs().amax(1) > 0).all()
    assert before.shape == (16,)
    assert (before <= 0).all()
    assert (after > before).float().mean() > 0.9


def test_the_slope_is_the_derivative(noisy):
    video, mel = toy(2, seed=3)
    tokens, t = noisy.encode_video(video).detach(), torch.tensor(0.4)
    x = noisy.codec.encode(mel).requires_grad_()
    (slope,) = torch.autograd.grad(noisy.log_prob(x, t, tokens).sum(), x)
    assert slope.isfinite().all()
    assert (slope.flatten(1).norm(dim=1) > 0).all()
    direction = slope / slope.norm()
    with torch.no_grad():
        ends = [noisy.log_prob(x + step * direction, t, tokens).sum() for step in (0.02, -0.02)]
    assert slope.norm().item() == pytest.approx((ends[0] - ends[1]).item() / 0.04, rel=0.05)
    assert not torch.allclose(noisy.log_prob(x, t, tokens), noisy.log_prob(x, t / 2, tokens)), 'it is told the level'


def test_a_batch_of_one_has_shifted_pairs_only():
    losses = classifier().loss(*toy(1))
    assert set(losses) == {'loss_alignment', 'loss_steps', 'accuracy_aligned', 'accuracy_shifted'}
    with pytest.raises(UserError, match='a batch of 1 leaves no wrong pair'):
        classifier(shifted=0.0).loss(*toy(1))
    columns = classifier().eval().predict(*toy(1), ['a'], None)
    assert columns['other'][0].isnan().all()
    assert columns['shifted'][0].isfinite().all()


def test_it_trains_and_is_judged_as_the_runner_does():
    # Clips of half a second hold eight frames.
    pyramid = dict(type='PoolingPyramid', dim=16, lengths=[4], grids=[1])
    model = classifier(
        video_pyramid=dict(**pyramid, places='image'),
        audio_pyramid=dict(**pyramid, places='bands'),
        least_shift_s=0.1,
        video_frozen=True,
    )
    batch = tiny_batch(5)
    batch['valid'][1] = False
    metric = AlignmentMetric()
    model.train()
    assert not model.video_backbone.stem.training
    assert model.audio_backbone.stem.training
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    assert losses['loss_alignment'].isfinite()
    rows = model.eval()(**model.data_preprocessor(batch, False), mode='predict')
    metric.process(None, rows)
    found = metric.compute_metrics(metric.results)
    assert (found['N'], found['skipped']) == (4, 1)
    assert sum(row['other'].isnan().any().item() for row in rows) == 1, 'the sound of the clip that was not read'
    for row in rows:
        row['valid'] = False
    with pytest.raises(UserError, match='none of the 5 clips'):
        metric.compute_metrics(rows)


def test_a_generator_starts_its_classifier_from_the_file_of_its_training(noisy, tmp_path):
    torch.save({'state_dict': noisy.state_dict()}, tmp_path / 'run.pth')
    model = classifier(noisy=True)
    assert load_weights(model, tmp_path / 'run.pth', 'classifier') == []
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), noisy.parameters(), strict=True))
    with pytest.raises(UserError, match='holds no weights of classifier'):
        load_weights(classifier(), tmp_path / 'run.pth', 'classifier')


def test_figures_by_hand():
    nan = math.nan
    found = alignment_figures(
        {
            'aligned': torch.tensor([[0.9, 0.5], [0.6, 0.4]]),
            'shifted': torch.tensor([[0.1, 0.5], [0.7, 0.2]]),
            'other': torch.tensor([[0.2, nan], [nan, nan]]),
        },
        [0.1, 0.9],
    )
    assert found['accuracy_aligned'] == 0.5
    assert found['accuracy_shifted'] == 0.5
    assert found['accuracy_other'] == 1
    assert found['accuracy'] == (0.5 + 0.75) / 2
    assert found['accuracy_at_0.1'] == (1 + (0.5 + 1) / 2) / 2
    assert found['accuracy_at_0.9'] == (0 + 0.5) / 2, 'one half is no decision'
    assert 'accuracy_other_at_0.9' not in found
    with pytest.raises(ValueError, match='no aligned or no wrong pairs'):
        alignment_figures({'aligned': torch.tensor([nan]), 'shifted': torch.tensor([0.1])})


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(audio_backbone=None), 'either audio_backbone, for clean sounds, or scheduler and codec'),
        (dict(scheduler=dict(type='RectifiedFlow')), 'either audio_backbone'),
        (dict(window=1.0), 'window is a share of the clip'),
        (dict(shifted=0.0, other=0.0), 'not both 0'),
        (dict(step_weight=-1.0), 'step_weight must be 0 or above'),
        (dict(crops=0), 'crops must be 1 or more'),
        (dict(levels=[1.0]), 'noise levels from 0 to below 1'),
        (dict(fusion=dict(width=15, heads=2)), 'does not divide into 2 heads'),
        (
            dict(audio_pyramid=dict(type='PoolingPyramid', dim=16, lengths=[8], places='bands', grids=[1])),
            r'video pyramid has lengths \[16\], the audio pyramid \[8\]',
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        classifier(**changes)


def test_signals_that_do_not_fit_are_refused():
    video, mel = toy(2)
    with pytest.raises(UserError, match='127 steps do not divide into the video'):
        classifier().loss(video, mel[:, :, :127])
    model = classifier()
    tokens = model.encode_video(video)
    with pytest.raises(UserError, match='a classifier that knows the noise'):
        model.log_prob(mel, torch.tensor(0.5), tokens)
    with pytest.raises(UserError, match='takes one window a clip'):
        classifier()(video, mel, segments=2, mode='loss')


def test_a_longer_clip_is_judged_by_all_its_windows(clean):
    """The second window with another clip's sound: in between."""
    video, mel = toy(32, seed=11)
    wrong = mel.roll(1, 0)
    with torch.no_grad():
        logit = [torch.logit(clean.aligned_probability(video, sound)) for sound in (mel, wrong)]
        halves = torch.cat([mel[:, :, :64], wrong[:, :, 64:]], dim=2)
        mixed = torch.logit(clean.aligned_probability(video, halves))
    assert (logit[1] < mixed).float().mean() > 0.8
    assert (mixed < logit[0]).float().mean() > 0.8
