"""The metric of generation against the pure functions, over ranks, on perfect and on broken output; its page."""

import json
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel

from gmscavp.datasets.impacts_render import make_scenes, render_impacts, render_scene, scene_truth
from gmscavp.datasets.impacts_render import scenes as rendering
from gmscavp.datasets.impacts_render.signals import PALETTE, PITCH_HZ
from gmscavp.errors import UserError
from gmscavp.evaluation.embedders import Embedder
from gmscavp.evaluation.generation.distances import FeatureStatistics, frechet_distance, inception_score, kl_softmax
from gmscavp.evaluation.generation.exact import deranged, sound_figures
from gmscavp.evaluation.generation.judged import FeatureStream
from gmscavp.evaluation.generation.onsets import hear_onsets
from gmscavp.evaluation.generation.truth import ClipTruth, SceneFacts, TrueEvent, read_truth, within
from gmscavp.evaluation.generation_metric import GenerationMetric
from gmscavp.evaluation.generation_tables import counted_words, generation_table
from gmscavp.evaluation.samples_page import SampleCard, SamplesData, SampleSide, marked, write_samples
from gmscavp.models import ClipPreprocessor
from gmscavp.registry import EMBEDDERS, MODELS
from tests.running import forget_runs

RATE, CLIPS = rendering.SAMPLE_RATE, 8


@EMBEDDERS.register_module(force=True)
class BandEmbedder(Embedder):
    """Levels of eight bands as features, loud ones as classes; so many windows of a clip."""

    def __init__(self, windows=1, scores=True):
        self.windows, self.scores = windows, scores

    def to(self, device):
        pass

    def __call__(self, waveform, sample_rate):
        windows = waveform[:, : waveform.shape[1] // self.windows * self.windows].unflatten(1, (self.windows, -1))
        bands = torch.fft.rfft(windows).abs().square()[..., :-1].unflatten(-1, (8, -1)).mean(-1)
        levels = (bands + 1e-6).log()
        return (levels if self.windows > 1 else levels[:, 0]), (levels.mean(1) if self.scores else None)


@MODELS.register_module(force=True)
class LoudAndBright(BaseModel):
    """'Aligned' when the sound is about as loud as the picture is bright."""

    def __init__(self):
        super().__init__(ClipPreprocessor(sample_rate=RATE, bands=8))
        self.steep = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self):
        raise NotImplementedError

    def aligned_probability(self, video, mel):
        return torch.sigmoid(self.steep * (0.5 - (video.mean((1, 2, 3, 4)) / 2 + 0.5 - mel.mean((1, 2, 3))).abs()))


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
    scenes = make_scenes(5, CLIPS, 'mixed')
    file = tmp_path_factory.mktemp('impacts') / 'events.jsonl'
    file.write_text(''.join(json.dumps(scene_truth(scene)) + '\n' for scene in scenes))
    frames, sounds = zip(*map(render_scene, scenes), strict=True)
    return (
        str(file),
        [s.clip_id for s in scenes],
        [torch.from_numpy(f) for f in frames],
        [torch.from_numpy(s).float() for s in sounds],
    )


def sound_rows(rendered, made=None):
    _, clip_ids, _, sounds = rendered
    mel = torch.rand(256, 8)
    return [
        dict(clip_id=name, valid=True, waveform=wave, real_waveform=real, mel=mel, real_mel=mel, sample_rate=RATE)
        for name, wave, real in zip(clip_ids, made or sounds, sounds, strict=True)
    ]


def picture_rows(rendered, made=None):
    _, clip_ids, frames, _ = rendered
    return [
        dict(clip_id=name, valid=True, frames=video, real_frames=real, fps=rendering.FPS)
        for name, video, real in zip(clip_ids, made or frames, frames, strict=True)
    ]


def noisy(rendered, level=0.02):
    generator = torch.Generator().manual_seed(0)
    return [(sound + level * torch.randn(sound.shape, generator=generator)).clamp(-1, 1) for sound in rendered[3]]


def figures(metric, rows, batch=3, data=None):
    for start in range(0, len(rows), batch):
        metric.process(data or {}, rows[start : start + batch])
    return metric.evaluate(len(rows))


def measure(rendered, rows, **settings):
    settings = dict(embedders=dict(bands=dict(type='BandEmbedder')), truth=rendered[0]) | settings
    found = figures(GenerationMetric(**settings, device='cpu'), rows)
    return {name.removeprefix('generation/'): value for name, value in found.items()}


def test_the_metric_is_the_pure_functions_of_all_clips_at_once(rendered):
    made = noisy(rendered)
    found = measure(rendered, sound_rows(rendered, made))
    both = [BandEmbedder()(torch.stack(list(side)), RATE) for side in (rendered[3], made)]
    statistics = [FeatureStatistics(8), FeatureStatistics(8)]
    for side, (features, _) in zip(statistics, both, strict=True):
        side.add(features)
    (_, real), (_, fake) = both
    assert found['FD_bands'] == pytest.approx(frechet_distance(*statistics), rel=1e-9)
    assert found['KL_bands'] == pytest.approx(kl_softmax(real, fake).mean().item(), rel=1e-6)
    other = kl_softmax(real[deranged(CLIPS)], fake).mean().item()
    assert found['shuffled_KL_bands'] == pytest.approx(other, rel=1e-6)
    assert found['IS_bands'] == pytest.approx(inception_score(fake, 1)[0], rel=1e-6)
    truths = [read_truth(rendered[0])[name] for name in rendered[1]]
    heard = [hear_onsets(sound.numpy(), RATE, PITCH_HZ) for sound in made]
    for prefix, held_against in (('', truths), ('shuffled_', [truths[number] for number in deranged(CLIPS)])):
        for name, value in sound_figures(heard, held_against).items():
            assert found[prefix + name] == pytest.approx(value, nan_ok=True), prefix + name


def test_features_are_not_kept_and_what_a_sampler_filled_up_does_not_count(rendered):
    rows = sound_rows(rendered, noisy(rendered))
    rows[3] |= dict(valid=False)
    whole, cut = (
        GenerationMetric(embedders=dict(bands=dict(type='BandEmbedder', windows=2)), device='cpu') for _ in range(2)
    )
    expected = figures(whole, rows)
    assert (expected['generation/skipped'], expected['generation/N']) == (1, CLIPS - 1)
    cut.process({}, rows)
    # A sampler that fills up begins again with the first.
    cut.process({}, [rows[0]])
    found = cut.evaluate(CLIPS)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True)
    assert figures(cut, rows) == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True), 'an evaluation starts afresh'


def test_a_stream_of_features_holds_few_and_equals_all_at_once():
    features = [torch.randn(3, 4, generator=torch.Generator().manual_seed(number)) for number in range(700)]
    stream, most = FeatureStream('judge'), 0
    for start in range(0, 700, 7):
        stream.add([(number, features[number]) for number in range(start, start + 7)])
        most = max(most, len(stream._waiting))
    stream.settle(lambda number: number < 698)
    assert most <= 256 + 7
    assert not stream._waiting
    once = FeatureStatistics(4)
    once.add(torch.cat(features[:698]))
    assert stream.statistics.count == 3 * 698
    assert np.allclose(stream.statistics.mean, once.mean, rtol=0, atol=1e-12)
    assert np.allclose(stream.statistics.covariance, once.covariance, rtol=1e-12, atol=1e-14)
    stream.add([(1, torch.full((1, 4), math.nan))])
    with pytest.raises(UserError, match='judge gives features that are not finite'):
        stream.settle(bool)


def test_the_real_sound_is_near_the_ceiling_and_another_clips_truth_far_below(rendered):
    found = measure(rendered, sound_rows(rendered))
    assert found['FD_bands'] < 1e-9
    assert found['KL_bands'] == pytest.approx(0, abs=1e-9)
    assert found['onset_f1_all'] > 95
    assert found['onset_recall'] > 90
    assert found['pitch_accuracy'] > 85
    assert found['timing_error_ms'] < 5
    assert found['loudness_correlation'] > 0.6
    for name in [name for name in found if name.startswith('real_')]:
        assert found[name] == pytest.approx(found[name.removeprefix('real_')]), name
    assert found['shuffled_onset_f1_all'] < 45
    assert found['shuffled_onset_f1'] < found['onset_f1'] - 30
    assert found['shuffled_KL_bands'] > 0.01


def test_what_is_seen_counts_for_what_a_video_can_tell(rendered):
    """The impacts that are seen and nothing else: full marks, more than the real sound has."""
    made = []
    since = torch.arange(RATE // 4) / RATE
    for truth in (read_truth(rendered[0])[name] for name in rendered[1]):
        sound = torch.zeros(4 * RATE + len(since))
        for event in (event for event in truth.events if event.on_screen):
            tone = 0.3 * torch.sin(2 * math.pi * PITCH_HZ[event.colour] * since) * torch.exp(-since / 0.03)
            sound[int(event.time_s * RATE) :][: len(since)] += tone
        made.append(sound[: 4 * RATE].clamp(-1, 1))
    found = measure(rendered, sound_rows(rendered, made), embedders={})
    assert found['onset_precision'] > 95
    assert found['onset_f1'] > 88
    assert found['onset_f1'] > found['real_onset_f1']
    assert found['onset_recall_all'] < found['onset_recall']


def test_silent_and_broken_sound_is_counted_and_scores_as_silence(rendered):
    made = [sound.clone() for sound in rendered[3]]
    made[0][:] = 0
    made[1][100] = float('nan')
    made[2][:] = float('inf')
    made[3] = torch.zeros(0)
    found = measure(rendered, sound_rows(rendered, made))
    assert (found['silent'], found['not_finite'], found['N']) == (4, 2, CLIPS)
    whole = measure(rendered, sound_rows(rendered))
    assert found['onset_recall_all'] < 0.75 * whole['onset_recall_all']
    assert found['FD_bands'] > 1
    assert all(math.isfinite(value) for value in found.values())
    nothing = measure(rendered, sound_rows(rendered, [torch.zeros(4 * RATE)] * CLIPS))
    assert nothing['silent'] == CLIPS
    assert nothing['onset_f1'] == 0
    assert math.isnan(nothing['timing_error_ms'])
    assert '8 silent' in counted_words(nothing)


def test_video_perfect_shuffled_small_and_blank(rendered):
    found = measure(rendered, picture_rows(rendered))
    assert found['impact_f1'] > 90
    assert found['colours_right'] > 80
    assert found['clips_right'] >= found['clips_exact'] > 0
    assert found['clips_right'] > 80
    assert found['shuffled_clips_right'] < 20
    moved = [video.roll(3, 0) for video in rendered[2]]
    late = measure(rendered, picture_rows(rendered, moved))
    assert late['clips_right'] < 20 < late['colours_right'], 'right colours at wrong times are not right'
    assert found['position_error_px'] < 1
    assert found['shuffled_impact_f1'] < 30
    assert found['shuffled_colours_right'] < 50
    assert not [name for name in found if 'bands' in name]
    large = [video.repeat_interleave(2, 1).repeat_interleave(2, 2) for video in rendered[2]]
    assert measure(rendered, picture_rows(rendered, large))['position_error_px'] < 1
    blank = measure(rendered, picture_rows(rendered, [torch.zeros_like(video) for video in rendered[2]]))
    assert (blank['blank'], blank['impact_f1']) == (CLIPS, 0)
    assert math.isnan(blank['position_error_px'])


def test_rows_stay_small_and_examples_are_those_of_the_last_evaluation(rendered):
    metric = GenerationMetric(
        embedders=dict(bands=dict(type='BandEmbedder')), truth=rendered[0], examples=2, device='cpu'
    )
    metric.process({}, sound_rows(rendered))
    for row in metric.results:
        assert 'sounds' not in row
        parts = [scores for pair in row['judged'].values() for scores in pair]
        assert sum(part.numel() for part in parts) == 16, 'class scores alone'
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts)
    assert len(metric.examples) == 2
    metric.evaluate(CLIPS)
    assert set(metric.details['clips']) == {example.clip_id for example in metric.examples}
    assert metric.details['clips'][rendered[1][0]]['onset_f1_all'] > 80
    metric.process({}, sound_rows(rendered)[4:])
    assert [example.clip_id for example in metric.examples] == rendered[1][4:6]


def test_a_window_of_the_clip_has_the_truth_of_that_window(rendered):
    start = RATE
    rows = sound_rows(rendered, [sound[start : start + 2 * RATE] for sound in rendered[3]])
    for row in rows:
        row['real_waveform'] = row['waveform']
    metric = GenerationMetric(truth=rendered[0], device='cpu')
    found = figures(metric, rows, CLIPS, {'start_s': torch.full((CLIPS,), 1.0)})
    assert found['generation/onset_f1_all'] > 85
    wrong = figures(metric, rows, CLIPS, {'start_s': torch.full((CLIPS,), 1.3)})
    assert wrong['generation/onset_f1_all'] < 60
    truth = read_truth(rendered[0])[rendered[1][0]]
    assert within(truth, 0.0, 4.0) == truth
    assert all(0 <= event.time_s < 0.5 for event in within(truth, 1.0, 0.5).events)


def test_alignment_is_judged_by_a_trained_classifier(rendered, tmp_path):
    config, weights = tmp_path / 'judge.py', tmp_path / 'judge.pth'
    config.write_text("model = dict(type='LoudAndBright')\n")
    torch.save({'state_dict': LoudAndBright().state_dict()}, weights)
    alignment = dict(config=str(config), checkpoint=str(weights))
    made = [torch.zeros(4 * RATE)] * CLIPS
    data = {
        'video': torch.full((CLIPS, 2, 3, 8, 8), 255, dtype=torch.uint8),
        'audio': torch.rand(CLIPS, 4 * RATE, generator=torch.Generator().manual_seed(0)) * 2 - 1,
    }
    metric = GenerationMetric(alignment=alignment, device='cpu')
    found = figures(metric, sound_rows(rendered, made), CLIPS, data)
    assert found['generation/alignment_accuracy'] == 0
    assert found['generation/real_alignment_accuracy'] == 100
    frames = [torch.zeros(2, 8, 8, 3, dtype=torch.uint8)] * CLIPS
    found = figures(metric, picture_rows(rendered, frames), CLIPS, data)
    assert found['generation/alignment_accuracy'] == 0
    config.write_text("model = dict(type='ClipPreprocessor')\n")
    with pytest.raises(UserError, match='does not fit'):
        GenerationMetric(alignment=alignment, device='cpu')
    with pytest.raises(UserError, match='has no checkpoint'):
        GenerationMetric(alignment=alignment | dict(checkpoint=str(tmp_path / 'none.pth')), device='cpu')


def test_what_is_wrong_is_said(rendered, tmp_path):
    with pytest.raises(UserError, match='render the data set first'):
        GenerationMetric(truth=str(tmp_path / 'none.jsonl'))
    rows = sound_rows(rendered)
    rows[2]['clip_id'] = 'stranger'
    with pytest.raises(UserError, match='knows nothing of clip stranger'):
        measure(rendered, rows)
    rows = picture_rows(rendered)
    del rows[0]['fps']
    with pytest.raises(UserError, match='gives no fps'):
        measure(rendered, rows)
    unread = [row | dict(valid=False) for row in sound_rows(rendered)]
    with pytest.raises(UserError, match='none of the 8 clips'):
        measure(rendered, unread)
    alone = measure(rendered, sound_rows(rendered)[:1])
    assert math.isnan(alone['FD_bands'])
    assert not [name for name in alone if name.startswith('shuffled')]


def test_the_scene_is_that_of_the_renderer():
    """Evaluation must not import the data sets; the numbers stand in both."""
    facts = SceneFacts()
    assert dict(facts.palette) == PALETTE
    assert facts.pitches_hz == pytest.approx(PITCH_HZ)
    assert (facts.floor_y, facts.side) == (rendering.FLOOR_Y, rendering.SIDE)


def test_the_table_puts_real_and_chance_beside_each_figure(rendered):
    found = measure(rendered, sound_rows(rendered, noisy(rendered)))
    table = generation_table(found)
    assert table.headings == ['', 'generated', 'real', 'another clip']
    rows = dict(table.rows)
    assert set(rows) >= {'Frechet distance (bands)', 'KL (bands)', 'seen impacts heard: F1, %', 'right pitch, %'}
    assert rows['KL (bands)'][1] == ''
    assert float(rows['all impacts heard: F1, %'][2]) == pytest.approx(found['shuffled_onset_f1_all'], abs=0.06)


def card(clip_id, truth=None):
    frames, mel = np.zeros((4, 8, 8, 3), np.uint8), np.full((16, 8), np.nan, np.float32)
    sides = {name: SampleSide(b'mp4 of ' + name.encode(), frames, mel) for name in ('generated', 'real')}
    return SampleCard(clip_id, sides, 4.0, truth, {'onset_f1': 50.0, 'shuffled_onset_f1': 1.0, 'KL_<b>': math.nan})


def test_the_page_has_two_players_a_clip_and_escapes_what_is_hostile(rendered, tmp_path):
    hostile = '"><script>alert(1)</script>\ud800'
    truth = read_truth(rendered[0])[rendered[1][0]]
    cards = [card('a', truth), card(hostile), SampleCard('gone', why_not=f'no file {hostile}')]
    file = tmp_path / 'page.html'
    metrics = {'generation/N': 3.0, 'generation/onset_f1': 12.5, 'generation/timing_error_ms': math.nan}
    write_samples(file, SamplesData(hostile, metrics, cards, {'config': hostile}))
    page = file.read_text('utf-8')
    assert page.count('<video ') == 4
    assert page.count('data:video/mp4;base64,') == 4
    assert '<script' not in page
    assert '<b>' not in page
    assert page.count('&lt;script&gt;') == 5
    assert 'http' not in page.replace('http-equiv', '')
    assert '12.5' in page
    assert [path.name for path in tmp_path.iterdir()] == ['page.html']


def test_marks_stand_where_the_impacts_are():
    event = TrueEvent(1.0, 50.0, 'red')
    truth = ClipTruth('clip', (event, TrueEvent(3.0, 50.0, 'blue', on_screen=False)), ())
    strip = marked(np.zeros((10, 400, 3), np.uint8), truth, 4.0)[10:].astype(int)
    bright = np.flatnonzero((strip.max(axis=(0, 2)) - strip.min(axis=(0, 2))) > 50)
    assert set(bright) == {99, 100, 299, 300}
    assert (strip[3, 100] == 255).all()
    assert (strip[3, 300] < 100).all()


@MODELS.register_module(force=True)
class EchoGenerator(BaseModel):
    """Gives back what it should have made, or silence."""

    def __init__(self, direction='v2a'):
        super().__init__(ClipPreprocessor(sample_rate=RATE, bands=8, keep_audio=True))
        self.direction, self.loud = direction, torch.nn.Parameter(torch.ones(()))

    def forward(self, video, mel, audio, clip_id, valid, mode, **_):
        assert mode == 'predict'
        if self.direction == 'v2a':
            columns = dict(waveform=self.loud * audio, real_waveform=audio, mel=mel[:, 0], real_mel=mel[:, 0])
            rest = dict(sample_rate=RATE)
        else:
            frames = ((video + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
            columns, rest = dict(frames=frames, real_frames=frames), dict(fps=4)
        columns |= dict(clip_id=clip_id, valid=valid.tolist())
        return [dict(zip(columns, row, strict=True)) | rest for row in zip(*columns.values(), strict=True)]


CONFIG = """
default_scope = 'gmscavp'
model = dict(type='EchoGenerator', direction='{direction}')
test_dataloader = dict(
    batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='Impacts', data_root='{root}', split='test', clips=4, replace_bad=False, window=dict(type='CentreWindow'),
        clip=dict(duration_s=4.0, fps=4, size=32, sample_rate=16000, backend='pyav'),
    ),
)
test_evaluator = dict(type='GenerationMetric', truth='{root}/events.jsonl', examples=3, device='cpu')
test_cfg = dict(type='TestLoop')
"""


@pytest.mark.parametrize(('direction', 'loud'), [('v2a', 0.0), ('a2v', 1.0)])
def test_the_tool_writes_table_figures_and_page(tmp_path, monkeypatch, capsys, direction, loud):
    root = render_impacts(tmp_path / 'impacts', train=0, test=4, workers=1, progress=False)
    (root / 'video' / f'{read_first(root)}.mp4').write_bytes(b'')
    config, weights = tmp_path / 'echo.py', tmp_path / 'echo.pth'
    config.write_text(CONFIG.format(direction=direction, root=root))
    model = EchoGenerator(direction)
    torch.nn.init.constant_(model.loud, loud)
    torch.save({'state_dict': model.state_dict()}, weights)
    said = tool(monkeypatch, capsys, config, weights, '--out', tmp_path / 'o.json', '--report', tmp_path / 'o.html')
    assert 'another clip' in said
    assert '1 could not be read' in said
    written = json.loads((tmp_path / 'o.json').read_text())
    figures_ = written['metrics']
    assert (figures_['generation/N'], figures_['generation/skipped']) == (3, 1)
    if direction == 'v2a':
        assert figures_['generation/silent'] == 3
        assert figures_['generation/timing_error_ms'] is None
    else:
        assert figures_['generation/colours_right'] == figures_['generation/real_colours_right']
    page = (tmp_path / 'o.html').read_text()
    assert page.count('<video ') == 2 * 3
    with pytest.raises(SystemExit):
        tool(monkeypatch, capsys, config, weights, '--picture', tmp_path / 'o.png')
    assert '--picture needs RetrievalMetric' in capsys.readouterr().err


def read_first(root):
    return next(iter(read_truth(root / 'events.jsonl')))


def tool(monkeypatch, capsys, *arguments):
    forget_runs()
    monkeypatch.setattr(sys, 'argv', ['test.py', *map(str, arguments)])
    runpy.run_path(str(Path(__file__).parents[2] / 'tools' / 'test.py'), run_name='__main__')
    return capsys.readouterr().out
