"""Vocoders: lengths and times kept, silence kept, pieces as the whole, losses as defined, training through the tool."""

import json
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.vocoders import Heard, page_of, rows_of
from gmscavp.compat import load_weights
from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.engine.optim_parts import PartsConstructor
from gmscavp.errors import UserError
from gmscavp.evaluation.generation.matching import MatchCounts
from gmscavp.evaluation.generation.onsets import OnsetFigures
from gmscavp.evaluation.vocoding import VocodingMetric, log_spectral_distance, mel_distance
from gmscavp.models import stft_losses
from gmscavp.models.preprocessor import LogMel
from gmscavp.models.vocoders.magnitudes import band_weights, corrected, level_of, mel_filters, mel_magnitudes
from gmscavp.registry import MODELS, VOCODERS
from tests.running import forget_runs

ROOT = Path(__file__).parents[2]
SETTINGS = dict(sample_rate=16000, n_fft=1024, hop=250, bands=64, f_min=125.0, f_max=7600.0)
KINDS = [dict(type='GriffinLim', iterations=8), dict(type='IstftVocoder', width=16, depth=2, refinements=2)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope='module')
def log_mel():
    return LogMel(**SETTINGS)


def vocoder_of(kind, **changes):
    return VOCODERS.build(SETTINGS | dict(kind) | changes).eval()


def tones(seconds=1.0, rows=2):
    """Three decaying tones and a little noise: (rows, S)."""
    t = torch.arange(round(16000 * seconds)) / 16000
    pitches = torch.tensor([[220.0, 660.0, 1500.0], [352.0, 900.0, 3100.0]])[:rows]
    sound = (torch.sin(2 * math.pi * pitches[..., None] * t) * torch.exp(-3 * t)).sum(1)
    return 0.2 * sound + 0.002 * torch.randn(rows, len(t))


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind['type'])
class TestEveryVocoder:
    @pytest.mark.parametrize('frames', [1, 2, 3, 5, 64])
    def test_gives_hop_samples_a_frame(self, kind, frames):
        sound = vocoder_of(kind)(torch.rand(2, 1, frames, 64))
        assert sound.shape == (2, frames * 250)
        assert sound.abs().max() <= 1

    def test_other_settings_fit_too(self, kind):
        other = dict(sample_rate=8000, n_fft=512, hop=128, bands=32, f_min=0.0, f_max=4000.0)
        sound = vocoder_of(kind, **other)(LogMel(**other)(tones()[:, :8000]))
        assert sound.shape == (2, 62 * 128)
        assert sound.std() > 0.01

    def test_silence_stays_silent(self, kind):
        sound = vocoder_of(kind)(torch.zeros(1, 1, 40, 64))
        assert torch.equal(sound, torch.zeros(1, 10000))

    def test_loud_and_broken_mels_give_finite_sound(self, kind):
        mel = torch.rand(1, 1, 20, 64)
        mel[..., 3] = 1.0
        mel[..., 5] = 40.0
        mel[..., 6] = -2.0
        sound = vocoder_of(kind)(mel)
        assert torch.isfinite(sound).all()
        assert sound.abs().max() <= 1

    def test_is_deterministic_and_leaves_the_generator_alone(self, kind, log_mel):
        vocoder, mel = vocoder_of(kind), log_mel(tones())
        before = torch.get_rng_state()
        assert torch.equal(vocoder(mel), vocoder(mel))
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_clip_sounds_the_same_alone_and_in_a_batch(self, kind, log_mel):
        vocoder, mel = vocoder_of(kind), log_mel(tones())
        torch.testing.assert_close(vocoder(mel)[1:], vocoder(mel[1:]), atol=1e-4, rtol=1e-3)

    @pytest.mark.parametrize('at', [3000, 8123, 12345])
    def test_an_impulse_stays_where_it_is(self, kind, log_mel, at):
        audio = torch.zeros(1, 16000)
        audio[0, at] = 0.9
        energy = vocoder_of(kind)(log_mel(audio))[0].square()
        middle = (energy * torch.arange(16000)).sum() / energy.sum()
        assert abs(float(middle.detach()) - at) < 250

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (dict(hop=600), 'lower hop 600 to 512'),
            (dict(f_min=5000.0, f_max=300.0), 'f_min 5000 and f_max 300'),
            (dict(f_max=9000.0), 'half of sample_rate'),
            (dict(bands=1), 'bands must be 2 or more'),
            (dict(n_fft=1023), 'even number'),
            (dict(hop=0), 'hop 0'),
        ],
    )
    def test_damaged_settings_are_refused(self, kind, change, message):
        with pytest.raises(UserError, match=message):
            vocoder_of(kind, **change)


def test_own_settings_are_refused_too():
    for kind, change in [(KINDS[0], dict(iterations=0)), (KINDS[0], dict(momentum=1.0)), (KINDS[1], dict(depth=0))]:
        with pytest.raises(UserError, match=next(iter(change))):
            vocoder_of(kind, **change)


def test_magnitudes_undo_the_log_mel_exactly(log_mel):
    audio = tones(rows=1)
    filtered = log_mel.mel(audio)[..., :64].mT
    undone = mel_magnitudes(log_mel(audio)[:, 0])
    inside = (filtered > 1.001e-4) & (filtered < 10)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(undone[inside], filtered[inside], rtol=1e-4, atol=0)


def test_filters_are_those_of_the_log_mel(log_mel):
    torch.testing.assert_close(mel_filters(16000, 1024, 64, 125.0, 7600.0), log_mel.mel.mel_scale.fb)


def test_corrections_lead_to_the_bands_and_leave_no_negatives(log_mel):
    filters = mel_filters(16000, 1024, 64, 125.0, 7600.0)
    weights = band_weights(filters)
    bands = mel_magnitudes(log_mel(tones())[:, 0])
    residuals = []
    for times in (0, 4, 16):
        spectrum = corrected(level_of(bands, filters, weights), bands, filters, weights, times)
        assert spectrum.min() >= 0
        residuals.append(float((spectrum @ filters - bands).norm() / bands.norm()))
    assert residuals[1] < 0.5 * residuals[0]
    assert residuals[2] < 0.7 * residuals[1]
    clamped = (bands @ torch.linalg.pinv(filters)).clamp(min=0)
    assert residuals[2] < (clamped @ filters - bands).norm() / bands.norm()


def test_band_weights_read_a_level():
    filters = mel_filters(16000, 1024, 64, 125.0, 7600.0)
    weights = band_weights(filters)
    torch.testing.assert_close(weights.sum(1), torch.ones(513))
    assert ((weights > 0).sum(1) <= 2).all()
    # A flat spectrum of level 0.3 is read as 0.3 in every bin.
    magnitudes = torch.full((1, 513), 0.3) @ filters
    torch.testing.assert_close(magnitudes / filters.sum(0) @ weights.T, torch.full((1, 513), 0.3))


def test_griffin_lim_comes_nearer_with_more_iterations(log_mel):
    mel = log_mel(tones())
    few, many = (mel_distance(log_mel(vocoder_of(KINDS[0], iterations=n)(mel)), mel).mean() for n in (1, 50))
    assert many < 0.8 * few


@pytest.mark.parametrize('refinements', [0, 2])
def test_pieces_make_the_whole(refinements):
    vocoder = vocoder_of(KINDS[1], refinements=refinements)
    mel = torch.rand(1, 1, 150, 64)
    whole = vocoder(mel)
    torch.testing.assert_close(vocoder.in_pieces(mel, 40), whole, atol=1e-5, rtol=0)
    # And the sound of a frame depends on no mel beyond its context.
    changed = mel.clone()
    changed[:, :, 100:] = torch.rand(1, 1, 50, 64)
    same = (100 - vocoder.context) * 250
    assert torch.equal(vocoder(changed)[:, :same], whole[:, :same])
    assert (vocoder(changed)[:, 100 * 250 :] - whole[:, 100 * 250 :]).abs().max() > 1e-3


def test_equal_frames_do_not_buzz_at_the_frame_rate():
    """Without the clock sound would repeat every hop, whatever the weights."""
    mel = torch.full((1, 1, 100, 64), 0.6)
    middle = vocoder_of(KINDS[1])(mel)[0, 20 * 250 : 80 * 250]
    assert (middle[250:] - middle[:-250]).std() > 0.5 * middle.std()
    middle = vocoder_of(KINDS[1], clock=False)(mel)[0, 20 * 250 : 80 * 250]
    assert (middle[250:] - middle[:-250]).std() < 1e-3 * middle.std()


def stft_by_hand(audio, n_fft, hop):
    """Frames of one waveform by NumPy's FFT: (K, F) magnitudes."""
    padded = np.pad(audio, n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return np.maximum(np.abs(np.fft.rfft(frames * window)).T, 1e-4 * n_fft / 4)


def test_stft_losses_agree_with_a_plain_reference():
    x, y = 0.1 * torch.randn(1, 4000), 0.1 * torch.randn(1, 4000)
    convergence, distance, spectral = stft_losses.multi_resolution(x, y, [(512, 120), (256, 50)])
    pairs = [[stft_by_hand(s[0].double().numpy(), *form) for s in (x, y)] for form in ((512, 120), (256, 50))]
    assert float(convergence) == pytest.approx(
        np.mean([np.linalg.norm(b - a) / np.linalg.norm(b) for a, b in pairs]), rel=1e-4
    )
    logs = [np.log(a / b) for a, b in pairs]
    assert float(distance) == pytest.approx(np.mean([np.abs(log).mean() for log in logs]), rel=1e-4)
    roots = [np.sqrt((log**2).mean(0)).mean() for log in logs]
    assert float(spectral) == pytest.approx(np.mean(roots), abs=1.1 * 1e-3)


def test_stft_losses_vanish_at_equality_and_stay_finite_in_silence():
    x = tones()
    assert [float(term) for term in stft_losses.multi_resolution(x, x)] == pytest.approx([0, 0, 0], abs=1e-8)
    silent = torch.zeros(2, 4000, requires_grad=True)
    sum(stft_losses.multi_resolution(silent, torch.zeros(2, 4000))).backward()
    assert torch.isfinite(silent.grad).all()


def test_the_page_of_the_benchmark_gives_costs_as_ratios():
    onsets = [OnsetFigures(MatchCounts(3, 4, 4), *(np.ones(1, bool),) * 5)]
    heard = {
        'true sound': Heard([0.0], [0.0], onsets, [0.0]),
        'slow': Heard([0.5, 0.7], [5.0, 6.0], onsets, [0.02, 0.04]),
        'quick': Heard([0.4, 0.5], [4.0, 4.5], onsets, [0.01, 0.01]),
    }
    rows = rows_of(heard, 'slow')
    assert rows[0][-2:] == ['', '']
    assert rows[1] == ['slow', '0.60', '5.50', '75.0', '100.0', '0.0300', '1.00']
    assert rows[2][-1] == '0.38'
    lines = page_of(rows, 2, '').splitlines()
    assert len({line.count('|') for line in lines if line.startswith('|')}) == 1


def test_distances_are_those_of_a_known_difference(log_mel):
    mel = 0.5 * torch.rand(2, 1, 10, 64)
    torch.testing.assert_close(mel_distance(mel + 0.03, mel), torch.full((2,), 3.0))
    noise = 0.1 * torch.randn(2, 8000)
    torch.testing.assert_close(log_spectral_distance(2 * noise, noise), torch.full((2,), 6.0206), atol=1e-2, rtol=0)
    assert float(log_spectral_distance(noise, noise).max()) == 0
    # What lies under the floor does not count.
    assert float(log_spectral_distance(torch.zeros(1, 8000), torch.full((1, 8000), 1e-7))) == 0


def test_the_metric_counts_what_could_not_be_read(log_mel):
    sound = 0.1 * torch.randn(2, 8000)
    rows = dict(audio=0.5 * sound, true_audio=sound, mel=log_mel(0.5 * sound), true_mel=log_mel(sound))
    clips = [
        dict(zip(rows, row, strict=True), valid=valid)
        for *row, valid in zip(*rows.values(), (True, False), strict=True)
    ]
    metric = VocodingMetric()
    metric.process(None, clips)
    figures = metric.evaluate(2)
    assert (figures['vocoding/clips'], figures['vocoding/skipped']) == (1, 1)
    assert figures['vocoding/log_spectral_distance'] == pytest.approx(6.02, abs=0.3)
    metric.process(None, clips[1:])
    with pytest.raises(UserError, match='none of the 1 clips'):
        metric.evaluate(1)


def training_model(**changes):
    model = dict(
        type='VocoderTraining',
        data_preprocessor=dict(type='SoundPreprocessor', bands=64),
        vocoder=dict(type='IstftVocoder', width=32, depth=2, refinements=1),
        window_frames=16,
    )
    return MODELS.build(model | changes)


ADVERSARY = dict(type='SpectrogramDiscriminator', resolutions=[(256, 64)], width=4, depth=2)
OPTIMISER = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3))


def optimiser_of(model):
    parts = ['vocoder', 'discriminator'] if model.discriminator else ['vocoder']
    return PartsConstructor(dict.fromkeys(parts, OPTIMISER))(model)


def batch_of(audio):
    return dict(video=torch.zeros(len(audio), 1, 3, 4, 4, dtype=torch.uint8), audio=audio)


def test_windows_are_cut_from_sound_and_mel_alike(log_mel):
    model, audio = training_model(), tones(2.0)
    mel = log_mel(audio)
    sound, window = model.windows(audio, mel)
    assert (sound.shape, window.shape) == ((2, 4000), (2, 1, 16, 64))
    for row in range(2):
        starts = [k for k in range(mel.shape[2] - 15) if torch.equal(mel[row, :, k : k + 16], window[row])]
        assert len(starts) == 1
        assert torch.equal(audio[row, starts[0] * 250 :][:4000], sound[row])
    short, filled = model.windows(audio[:, :2000], mel[:, :, :8])
    assert torch.equal(short, torch.nn.functional.pad(audio[:, :2000], (0, 2000)))
    assert (filled[:, :, 8:] == 0).all()


def test_the_gradient_reaches_every_parameter():
    model = training_model()
    losses = model(**model.data_preprocessor(batch_of(tones()), True), mode='loss')
    assert set(losses) == {'loss_convergence', 'loss_log_spectral', 'loss_mel'}
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_the_two_parts_learn_apart():
    model = training_model(discriminator=ADVERSARY)
    wrappers = optimiser_of(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    log = model.train_step(batch_of(tones()), wrappers)
    assert set(log) >= {'loss', 'loss_discriminator', 'loss_adversarial', 'loss_features', 'loss_mel'}
    # The discriminator's own loss is none of the vocoder's.
    parts = [log[name] for name in log if name not in ('loss', 'loss_discriminator')]
    assert float(log['loss'].detach()) == pytest.approx(float(sum(parts).detach()), rel=1e-5)
    still = [name for name, p in model.named_parameters() if torch.equal(before[name], p)]
    assert not still
    with pytest.raises(UserError, match='optimiser of its own'):
        model.train_step(batch_of(tones()), wrappers['vocoder'])


def test_every_part_must_have_an_optimiser():
    model = training_model(discriminator=ADVERSARY)
    with pytest.raises(UserError, match='leaves out discriminator'):
        PartsConstructor(dict(vocoder=OPTIMISER))(model)
    with pytest.raises(UserError, match="names 'critic'"):
        PartsConstructor(dict(vocoder=OPTIMISER, critic=OPTIMISER))(model)


def test_an_overfit_lowers_every_loss():
    plain = dict(type='IstftVocoder', width=32, depth=2, corrections=0, refinements=0)
    model, audio = training_model(vocoder=plain), tones(0.256)
    optimiser = torch.optim.AdamW(model.vocoder.parameters(), 3e-3)
    batch = model.data_preprocessor(batch_of(audio), True)
    history = []
    for _ in range(60):
        losses = model(**batch, mode='loss')
        history.append({name: float(value.detach()) for name, value in losses.items()})
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    first, last = history[0], history[-1]
    assert last['loss_mel'] < 0.35 * first['loss_mel']
    assert last['loss_log_spectral'] < 0.75 * first['loss_log_spectral']
    assert last['loss_convergence'] < first['loss_convergence']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(window_frames=3), 'raise window_frames to 5'),
        (dict(resolutions=[]), 'resolutions must hold'),
        (dict(vocoder=dict(type='GriffinLim')), 'nothing to train'),
        (dict(discriminator=ADVERSARY | dict(width=0)), 'width, depth'),
    ],
)
def test_damaged_training_settings_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        training_model(**change)


@pytest.fixture(scope='module')
def impacts(tmp_path_factory):
    return render_impacts(tmp_path_factory.mktemp('data') / 'impacts', train=4, test=4, workers=1, progress=False)


@pytest.mark.parametrize('config', ['vocoder_impacts', 'vocoder_adversarial_impacts'])
def test_the_tool_trains_and_the_weights_serve_elsewhere(config, impacts, tmp_path, monkeypatch):
    few = [f'data_root={impacts}', 'batch_size=2', 'num_workers=0', 'max_epochs=1', 'val_interval=1']
    few += ['val_dataloader.dataset.clips=2', 'model.vocoder.width=16', 'model.vocoder.depth=1']
    options = ['--work-dir', str(tmp_path), '--cfg-options', *few]
    monkeypatch.setattr(sys, 'argv', ['train.py', f'configs/{config}.py', *options])
    monkeypatch.chdir(ROOT)
    forget_runs()
    runpy.run_path('tools/train.py', run_name='__main__')
    lines = [json.loads(line) for line in next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    assert {'vocoding/mel_distance', 'vocoding/log_spectral_distance'} <= lines[-1].keys()
    (best,) = tmp_path.glob('best_vocoding_mel_distance_*.pth')
    vocoder = vocoder_of(KINDS[1], width=16, depth=1, refinements=0)
    assert load_weights(vocoder, best, 'vocoder') == []
