"""Codecs give standardised latents and the signal back; their training objective is what it says it is."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from gmscavp.compat import load_checkpoint_file, load_weights
from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.errors import UserError
from gmscavp.evaluation.reconstruction import ReconstructionMetric, signal_to_noise_db
from gmscavp.models import FrameAutoencoder, MelAutoencoder, MelCodec
from gmscavp.models.autoencoder import edge_error, normal_divergence
from gmscavp.models.codecs import diffusers_codec
from gmscavp.models.codecs.diffusers_codec import DiffusersCodec
from gmscavp.models.codecs.statistics import LatentStatistics
from gmscavp.registry import MODELS
from tests.running import tool

MEL = dict(type='MelAutoencoder', channels=3, strides=[(2, 2), (4, 2)], widths=[12, 16], memory=20)
FRAME = dict(type='FrameAutoencoder', channels=4, strides=[4, 2], widths=[12, 16], temporal=3, memory=20)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def autoencoder(codec, **more):
    return MODELS.build(dict(type='Autoencoder', data_preprocessor=dict(type='ClipPreprocessor'), codec=codec, **more))


def clips(number=4):
    """Discs of random colour that move over a ground, and tones with an onset: (B, 3, 4, 16, 24), (B, 1, 32, 16)."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(24.0), indexing='ij')
    video = torch.empty(number, 3, 4, 16, 24)
    mel = torch.full((number, 1, 32, 16), 0.2)
    for k in range(number):
        colour, ground = torch.rand(2, 3, 1, 1) * 2 - 1
        x, y = 4 + 8 * torch.rand(2)
        for frame in range(4):
            disc = ((columns - x - 2 * frame) ** 2 + (rows - y) ** 2 < 16).float()
            video[k, :, frame] = disc * colour + (1 - disc) * ground
        band, onset = torch.randint(12, ()), torch.randint(24, ())
        decay = torch.exp(-torch.arange(32 - int(onset)) / 8)
        mel[k, 0, onset:, band : band + 3] += 0.7 * decay[:, None]
    return video, mel


def db(model, video, mel):
    """Peak signal-to-noise ratio of the whole way through the codec."""
    model.eval()
    with torch.no_grad():
        signal, made = model.predict(video, mel)
    model.train()
    return float(signal_to_noise_db((signal - made).square().mean(), 2.0 if signal.dim() == 5 else 1.0))


def fit(model, video, mel, steps, lr=5e-3):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = lr * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        losses = model.loss(video, mel)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize(
    ('codec', 'signal', 'places'),
    [
        (MelAutoencoder(channels=3, strides=[(2, 2), (4, 2)], widths=[4, 8]), (2, 1, 32, 16), [4, 4]),
        (MelAutoencoder(channels=2, strides=[(4, 8)], widths=[8], blocks=2), (1, 1, 8, 64), [2, 8]),
        (FrameAutoencoder(channels=5, strides=[4, 2], widths=[4, 8]), (2, 3, 3, 16, 24), [3, 2, 3]),
        (FrameAutoencoder(channels=4, strides=[2], widths=[4], temporal=3), (1, 3, 1, 4, 2), [1, 2, 1]),
        (MelCodec(), (2, 1, 7, 5), [7, 5]),
    ],
)
def test_latents_have_the_places_that_the_codec_says(codec, signal, places):
    x = torch.rand(signal)
    latents = codec.encode(x)
    assert codec.places(signal[2:]) == places
    assert list(latents.shape) == [signal[0], codec.channels, *places]
    made = codec.decode(4 * latents)
    assert made.shape == x.shape
    low = -1 if codec.side == 'video' else 0
    assert low <= made.min()
    assert made.max() <= 1


@pytest.mark.parametrize('size', [(30, 16), (32, 18), (4, 16), (0, 16)])
def test_a_mel_that_does_not_divide_is_refused_with_what_to_change(size):
    codec = MelAutoencoder(channels=3, strides=[(2, 2), (4, 2)], widths=[4, 8])
    with pytest.raises(UserError, match=r'mel (frames|bands) by [84], .*change clip\.duration_s, or hop and bands'):
        codec.places(size)
    with pytest.raises(UserError, match='leave a remainder'):
        codec.encode(torch.rand(1, 1, *size))


def test_a_picture_that_does_not_divide_is_refused_with_what_to_change():
    codec = FrameAutoencoder(strides=[4, 2], widths=[4, 8])
    for size, name in ((60, 'rows'), (7, 'rows')):
        with pytest.raises(UserError, match=rf'{name} by 8, and {size} {name} .*change clip\.size'):
            codec.encode(torch.rand(1, 3, 2, size, 64))


@pytest.mark.parametrize(
    ('kind', 'settings', 'said'),
    [
        (MelAutoencoder, dict(strides=[(2, 2)], widths=[4, 8]), 'widths has as many entries'),
        (MelAutoencoder, dict(strides=[(2, 0)], widths=[4]), 'pairs of whole numbers'),
        (MelAutoencoder, dict(strides=[], widths=[]), 'pairs of whole numbers'),
        (FrameAutoencoder, dict(temporal=2), 'odd number of frames'),
    ],
)
def test_settings_that_make_no_codec_are_refused(kind, settings, said):
    with pytest.raises(UserError, match=said):
        kind(**settings)


def test_a_part_of_a_long_mel_is_coded_and_decoded_as_in_the_whole():
    """But for the edges: what makes windows of a long sound fit together."""
    codec = MelAutoencoder(channels=3, strides=[(2, 2), (2, 2)], widths=[4, 8]).eval()
    mel = torch.rand(1, 1, 256, 16)
    whole, part = codec.encode(mel), codec.encode(mel[:, :, 64:192])
    edge = 8
    torch.testing.assert_close(part[:, :, edge:-edge], whole[:, :, 16 + edge : 48 - edge], rtol=0, atol=1e-5)
    made, own = codec.decode(whole), codec.decode(whole[:, :, 16:48])
    torch.testing.assert_close(own[:, :, 32:-32], made[:, :, 96:160], rtol=0, atol=1e-5)
    assert not torch.allclose(part[:, :, 0], whole[:, :, 16], atol=1e-4), (
        'the edges must differ, or nothing is compared'
    )


def test_frames_stand_alone_unless_time_is_joined():
    video = torch.rand(1, 3, 5, 16, 16)
    alone, joined = (FrameAutoencoder(strides=[4, 2], widths=[4, 8], temporal=frames) for frames in (1, 3))
    torch.nn.init.normal_(joined.joined.convolution.weight)
    for codec, reach in ((alone, 0), (joined, 1)):
        latents = codec.encode(video)
        other = latents.clone()
        other[:, :, 2] += 1
        differs = (codec.decode(latents) - codec.decode(other)).abs().amax((0, 1, 3, 4)) > 1e-6
        assert differs.tolist() == [abs(frame - 2) <= reach for frame in range(5)]


def test_the_statistics_are_those_of_all_batches():
    x = torch.randn(6, 8, 3, 5) * torch.tensor([2.0, 0.1, 5.0]).view(3, 1) + torch.tensor([3.0, -1.0, 0.0]).view(3, 1)
    statistics = LatentStatistics(3)
    for batch in x:
        statistics.update(batch)
    joint = x.flatten(0, 1).transpose(0, 1).flatten(1)
    torch.testing.assert_close(statistics.mean, joint.mean(1))
    torch.testing.assert_close(statistics.variance, joint.var(1, correction=0))
    torch.testing.assert_close(statistics.restore(statistics.standardise(x[0])), x[0])
    standard = statistics.standardise(x.flatten(0, 1)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(standard.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(standard.std(1, correction=0), torch.ones(3))


def test_the_statistics_forget_what_was_long_ago():
    statistics = LatentStatistics(1, memory=10)
    for value in [100.0] * 5 + [1.0] * 200:
        statistics.update(value + torch.randn(64, 1, 8))
    assert statistics.mean.item() == pytest.approx(1.0, abs=0.1)
    assert statistics.variance.item() == pytest.approx(1.0, abs=0.2)


def test_divergence_is_the_closed_form_and_what_torch_says():
    mean, log_variance = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    said = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(normal_divergence(mean, log_variance), said)
    assert normal_divergence(torch.zeros(3), torch.zeros(3)) == 0


def test_edges_count_where_they_are_and_levels_do_not():
    x = torch.rand(1, 1, 16, 16)
    assert edge_error(x, x + 0.3, [1, 2]) < 1e-6
    step, late = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    step[..., 8:], late[..., 9:] = 1, 1
    # Of 16 x 15 differences along the columns 16 are missing and 16 too many; along the rows there are none.
    assert edge_error(step, late, [1]) == pytest.approx(2 * 16 / (16 * 15) / 2)
    assert edge_error(step, late, [1, 2]) > edge_error(step, late, [2]) / 2 > 0


@pytest.mark.parametrize('codec', [MEL, FRAME], ids=['mel', 'frame'])
def test_a_short_overfit_gives_the_signal_back_from_standard_latents(codec):
    video, mel = clips()
    model = autoencoder(codec, kl_weight=1e-4)
    before = db(model, video, mel)
    losses = fit(model, video, mel, 150)
    assert set(losses) == {'loss_l1', 'loss_l2', 'loss_edges', 'loss_kl'}
    after = db(model, video, mel)
    assert after > before + 8, (before, after)
    latents = model(video, mel, mode='tensor').transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(len(latents)), rtol=0, atol=0.15)
    torch.testing.assert_close(latents.std(1), torch.ones(len(latents)), rtol=0, atol=0.15)


@pytest.mark.parametrize('codec', [MEL, FRAME], ids=['mel', 'frame'])
def test_every_parameter_is_reached_and_every_term_is_weighted(codec):
    video, mel = clips(2)
    model = autoencoder(codec, l2_weight=0.5, kl_weight=0.1, edge_weight=2.0)
    state = torch.random.get_rng_state()
    losses = model(video, mel, mode='loss')
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    torch.random.set_rng_state(state)
    signal = model.signal(video, mel)
    mean, log_variance = model.codec.posterior(signal)
    made = model.codec.reconstruct(mean + torch.randn_like(mean) * (log_variance / 2).exp())
    assert losses['loss_l1'].item() == pytest.approx(F.l1_loss(made, signal).item(), rel=1e-5)
    assert losses['loss_l2'].item() == pytest.approx(0.5 * F.mse_loss(made, signal).item(), rel=1e-5)
    assert losses['loss_kl'].item() == pytest.approx(0.1 * normal_divergence(mean, log_variance).item(), rel=1e-5)
    fold = (lambda x: x.transpose(1, 2).flatten(0, 1)) if signal.dim() == 5 else (lambda x: x)
    edges = 2 * edge_error(fold(signal), fold(made), [1, 2, 4])
    assert losses['loss_edges'].item() == pytest.approx(edges.item(), rel=1e-5)


def test_a_run_of_frames_is_taken_from_the_clip():
    model = autoencoder(FRAME, frames=2)
    seen = []
    posterior = model.codec.posterior
    model.codec.posterior = lambda signal: seen.append(signal) or posterior(signal)
    video = torch.arange(6.0).view(1, 1, 6, 1, 1).expand(2, 3, 6, 16, 16)
    for _ in range(40):
        model.loss(video, torch.empty(0))
    starts = {int(x[0, 0, 0, 0, 0]) for x in seen}
    assert all(x.shape[2] == 2 and x[0, 0, 1, 0, 0] - x[0, 0, 0, 0, 0] == 1 for x in seen)
    assert starts == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ('codec', 'settings', 'said'),
    [
        (dict(type='MelCodec'), {}, 'MelCodec has nothing to train'),
        (MEL, dict(frames=2), 'frames is for a codec of video'),
        (MEL, dict(l1_weight=0.0, l2_weight=0.0), 'l1_weight or l2_weight must be above 0'),
    ],
)
def test_an_autoencoder_that_cannot_train_is_refused(codec, settings, said):
    with pytest.raises(UserError, match=said):
        autoencoder(codec, **settings)


def test_the_metric_is_peak_signal_to_noise_over_the_clips_that_could_be_read():
    metric = ReconstructionMetric()
    signal = torch.zeros(1, 1, 8, 8)
    shown = [(0.1, 1.0, True), (0.02, 2.0, True), (5.0, 1.0, False)]
    rows = [dict(valid=v, signal=signal, reconstruction=signal + e, signal_range=r) for e, r, v in shown]
    metric.process({}, rows)
    assert not any(torch.is_tensor(value) for clip in metric.results for value in clip.values())
    figures = metric.compute_metrics(metric.results)
    assert figures == {'psnr': pytest.approx((20 + 40) / 2), 'mae': pytest.approx((0.1 + 0.01) / 2), 'skipped': 1}
    assert signal_to_noise_db(torch.zeros(()), 2.0).item() == pytest.approx(100)
    metric.results = [dict(valid=True, psnr=float('nan'), mae=1.0)]
    with pytest.raises(UserError, match='training has diverged'):
        metric.compute_metrics(metric.results)
    with pytest.raises(UserError, match='none of the 1 clips'):
        metric.compute_metrics([dict(valid=False, psnr=1.0, mae=1.0)])


def test_a_prediction_is_a_row_for_each_clip_whatever_its_segments():
    video, mel = clips(4)
    model = autoencoder(MEL).eval()
    valid = torch.tensor([True, False])
    rows = model(video, mel, clip_id=['a', 'b'], valid=valid, segments=2, mode='predict')
    assert [(row['clip_id'], row['valid'], row['signal_range']) for row in rows] == [
        ('a', True, 1.0),
        ('b', False, 1.0),
    ]
    torch.testing.assert_close(rows[1]['signal'], mel[2:])
    torch.testing.assert_close(rows[1]['reconstruction'], model.codec.decode(model.codec.encode(mel[2:])))


def test_a_trained_checkpoint_starts_a_codec_bit_for_bit(tmp_path):
    data = render_impacts(tmp_path / 'impacts', train=8, test=4, workers=1, progress=False)
    small = ['model.codec.channels=2', 'model.codec.widths=[4,8]', 'batch_size=4', 'num_workers=0', 'max_epochs=1']
    few = ['val_interval=1', 'val_dataloader.dataset.clips=4', f'data_root={data}']
    work_dir = tmp_path / 'run'
    tool('train.py', 'configs/frame_autoencoder_impacts.py', '--work-dir', work_dir, '--cfg-options', *small, *few)
    scalars = [json.loads(line) for line in next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    figures = next(line for line in scalars if 'reconstruction/psnr' in line)
    assert math.isfinite(figures['reconstruction/psnr'])
    assert figures['reconstruction/skipped'] == 0
    (best,) = work_dir.glob('best_reconstruction_psnr*.pth')
    codec = FrameAutoencoder(channels=2, strides=[4, 2], widths=[4, 8])
    assert load_weights(codec, best, 'codec') == []
    saved = load_checkpoint_file(best)['state_dict']
    own = codec.state_dict()
    assert {f'codec.{name}' for name in own} == {name for name in saved if name.startswith('codec.')}
    assert all(torch.equal(value, saved[f'codec.{name}']) for name, value in own.items())
    assert own['statistics.batches'] == 2


@pytest.fixture
def saved(tmp_path):
    """A small AutoencoderKL of the library, in a folder as a release has it."""
    diffusers = pytest.importorskip('diffusers', reason='the extra gmscavp[hf] is not installed')

    def save(channels=3, name='vae', **settings):
        model = diffusers.AutoencoderKL(
            in_channels=channels, out_channels=channels, latent_channels=4, block_out_channels=(8, 8, 8),
            down_block_types=['DownEncoderBlock2D'] * 3, up_block_types=['UpDecoderBlock2D'] * 3, norm_num_groups=4,
            **settings,
        )  # fmt: skip
        model.save_pretrained(tmp_path / name)
        return tmp_path / name, model.eval()

    return save


def test_frames_go_through_the_librarys_autoencoder(saved, monkeypatch):
    monkeypatch.setattr('socket.socket.connect', lambda *_: pytest.fail('a connection was tried'))
    folder, model = saved(scaling_factor=0.5, shift_factor=0.25)
    codec = DiffusersCodec(str(folder), chunk=2)
    video = torch.rand(2, 3, 3, 16, 24) * 2 - 1
    latents = codec.encode(video)
    assert list(latents.shape) == [2, 4, *codec.places(video.shape[2:])] == [2, 4, 3, 4, 6]
    with torch.no_grad():
        own = model.encode(video[1, :, 2][None]).latent_dist.mean
        torch.testing.assert_close(latents[1, :, 2], (own[0] - 0.25) * 0.5, rtol=0, atol=1e-5)
        made = model.decode(own).sample[0].clamp(-1, 1)
    torch.testing.assert_close(codec.decode(latents)[1, :, 2], made, rtol=0, atol=1e-5)
    assert not any(p.requires_grad for p in codec.parameters())


def test_channels_are_standardised_as_the_folder_says(saved):
    folder, model = saved(scaling_factor=2.0, latents_mean=[0.0, 1.0, 2.0, 3.0], latents_std=[1.0, 2.0, 4.0, 8.0])
    codec = DiffusersCodec(str(folder))
    video = torch.rand(1, 3, 1, 8, 8) * 2 - 1
    own = model.encode(video[:, :, 0]).latent_dist.mean
    expected = (own - torch.arange(4.0).view(4, 1, 1)) * 2 / (2.0 ** torch.arange(4)).view(4, 1, 1)
    torch.testing.assert_close(codec.encode(video)[:, :, 0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('bands_first', [False, True])
def test_a_mel_goes_through_it_with_time_first(saved, channels, bands_first):
    folder, model = saved(channels, scaling_factor=0.5)
    codec = DiffusersCodec(str(folder), side='audio', bands_first=bands_first)
    mel = torch.rand(2, 1, 16, 8)
    latents = codec.encode(mel)
    assert list(latents.shape) == [2, 4, 4, 2]
    picture = (2 * mel - 1).repeat(1, channels, 1, 1)
    with torch.no_grad():
        own = model.encode(picture.mT if bands_first else picture).latent_dist.mean
        made = (model.decode(own).sample.mean(1, keepdim=True) + 1) / 2
    torch.testing.assert_close(latents, 0.5 * (own.mT if bands_first else own), rtol=0, atol=1e-5)
    torch.testing.assert_close(codec.decode(latents), (made.mT if bands_first else made).clamp(0, 1), rtol=0, atol=1e-5)


def test_a_folder_that_will_not_do_is_refused_in_words(saved, tmp_path):
    folder, _ = saved()
    with pytest.raises(UserError, match='10 rows leave a remainder'):
        DiffusersCodec(str(folder)).encode(torch.rand(1, 3, 1, 10, 16))
    with pytest.raises(UserError, match='needs 3'):
        DiffusersCodec(str(saved(1, 'one')[0]))
    with pytest.raises(UserError, match=r'no config\.json .*give .*vae'):
        DiffusersCodec(str(tmp_path))
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other/config.json').write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(UserError, match='holds a UNet2DModel'):
        DiffusersCodec(str(tmp_path / 'other'))
    with pytest.raises(UserError, match="side must be 'video' or 'audio'"):
        DiffusersCodec(str(folder), side='picture')


def test_weights_that_are_missing_or_damaged_are_refused_not_made_up(saved):
    safetensors = pytest.importorskip('safetensors.torch')
    folder, _ = saved()
    file = folder / 'diffusion_pytorch_model.safetensors'
    weights = safetensors.load_file(file)
    safetensors.save_file({name: x for name, x in weights.items() if 'quant_conv' not in name}, file)
    with pytest.raises(UserError, match='lacks 4 weights of AutoencoderKL, for example '):
        DiffusersCodec(str(folder))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match='cannot be loaded'):
        DiffusersCodec(str(folder))
    file.unlink()
    with pytest.raises(UserError, match='cannot be loaded'):
        DiffusersCodec(str(folder))


def test_without_the_library_it_says_how_to_install_it(tmp_path, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(diffusers_codec.importlib, 'import_module', absent)
    (tmp_path / 'config.json').write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(UserError, match=r'install it with: pip install -c .*gmscavp\[hf\]'):
        DiffusersCodec(str(tmp_path))
