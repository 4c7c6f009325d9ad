"""Judges of sound: against plain references of their published definitions, and what they say of missing files."""

import importlib.util

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.evaluation.embedders import CLAP, PANNs, RunEmbedder, VGGish, at_rate, vggish
from gmscavp.models import ClipClassifier
from gmscavp.registry import EMBEDDERS, MODELS

RATE = 16_000
CLASSIFIER = dict(
    data_preprocessor=dict(type='ClipPreprocessor', sample_rate=RATE, bands=16),
    audio_backbone=dict(type='TinyAudioNet', width=4, strides=[(2, 2)]),
    classes=['a', 'b', 'c'],
    bands=2,
    width=8,
)


def sounds(samples=RATE, clips=2):
    return 0.3 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    model = ClipClassifier(**CLASSIFIER).eval()
    config, work_dir = tmp_path / 'classifier.py', tmp_path / 'work_dir'
    config.write_text(f"model = dict(type='ClipClassifier', **{CLASSIFIER!r})\n")
    work_dir.mkdir()
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, work_dir / 'epoch_3.pth')
    (work_dir / 'last_checkpoint').write_text('/elsewhere/since/moved/epoch_3.pth')
    return str(config), work_dir, model


def test_a_run_gives_the_features_and_scores_of_its_model(run):
    config, work_dir, model = run
    for checkpoint in (work_dir, work_dir / 'epoch_3.pth'):
        features, scores = EMBEDDERS.build(dict(type='RunEmbedder', config=config, checkpoint=str(checkpoint)))(
            sounds(), RATE
        )
        with torch.no_grad():
            own = model(model.data_preprocessor.log_mel(sounds()))
        torch.testing.assert_close((features, scores), own)
        assert (features.shape, scores.shape) == ((2, 8), (2, 3))


def test_sound_of_another_rate_is_brought_to_the_judges(run):
    embedder = RunEmbedder(run[0], str(run[1]))
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(2 * RATE) / RATE)[None]
    fine = torch.sin(2 * torch.pi * 440 * torch.arange(4 * RATE) / (2 * RATE))[None]
    close, _ = embedder(fine, 2 * RATE)
    own, _ = embedder(tone, RATE)
    # Read at the wrong rate the tone is an octave off.
    wrong, _ = embedder(fine[:, : 2 * RATE], RATE)
    assert (close - own).abs().max() < 0.3 * (wrong - own).abs().max()
    assert at_rate(tone, RATE, RATE, 3 * RATE).shape == (1, 3 * RATE)


def test_a_run_that_is_not_there_or_no_classifier_is_named(run, tmp_path):
    config, work_dir, _ = run
    with pytest.raises(UserError, match=r'has no config none\.py'):
        RunEmbedder('none.py', str(work_dir))
    with pytest.raises(UserError, match=r'no checkpoint .*tools/train.py'):
        RunEmbedder(config, str(tmp_path / 'none'))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='no checkpoint'):
        RunEmbedder(config, str(tmp_path / 'empty'))
    other = tmp_path / 'other.py'
    other.write_text(f"model = dict(type='ClipClassifier', **{CLASSIFIER | dict(width=9)!r})\n")
    with pytest.raises(UserError, match='does not fit'):
        RunEmbedder(str(other), str(work_dir))
    preprocessor = MODELS.build(dict(type='ClipPreprocessor'))
    torch.save(preprocessor.state_dict(), tmp_path / 'weights.pth')
    other.write_text("model = dict(type='ClipPreprocessor')\n")
    with pytest.raises(UserError, match='no classifier of sound'):
        RunEmbedder(str(other), str(tmp_path / 'weights.pth'))


def released_cnn14(n_fft=512, width=2, classes=5):
    """Random weights under the released names."""
    torch.manual_seed(0)
    weights = {'logmel_extractor.melW': torch.rand(n_fft // 2 + 1, 64) * 0.1}
    weights |= {f'bn0.{name}': torch.rand(64) + 0.5 for name in ('weight', 'bias', 'running_mean', 'running_var')}
    weights['bn0.num_batches_tracked'] = torch.tensor(3)
    channels = 1
    for block in range(1, 7):
        out = width * 2 ** (block - 1)
        for number, before in ((1, channels), (2, out)):
            weights[f'conv_block{block}.conv{number}.weight'] = torch.randn(out, before, 3, 3) / (3 * before**0.5)
            for name in ('weight', 'bias', 'running_mean', 'running_var'):
                weights[f'conv_block{block}.bn{number}.{name}'] = torch.rand(out) + 0.5
            weights[f'conv_block{block}.bn{number}.num_batches_tracked'] = torch.tensor(3)
        channels = out
    for name, size in (('fc1', channels), ('fc_audioset', classes)):
        weights |= {f'{name}.weight': torch.randn(size, channels) / channels**0.5, f'{name}.bias': torch.randn(size)}
    weights['spectrogram_extractor.stft.conv_real.weight'] = torch.zeros(3)
    return weights


def norm(x, weights, name):
    statistics = (weights[f'{name}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias'))
    return F.batch_norm(x, *statistics)


def plain_cnn14(waveform, weights, hop):
    """As the paper says it, by the released names: frames by hand, then the layers."""
    filters = weights['logmel_extractor.melW']
    n_fft = 2 * (len(filters) - 1)
    padded = F.pad(waveform[:, None], (n_fft // 2, n_fft // 2), mode='reflect')[:, 0]
    frames = padded.unfold(-1, n_fft, hop) * torch.hann_window(n_fft)
    mel = 10 * torch.log10((torch.fft.rfft(frames).abs() ** 2 @ filters).clamp(min=1e-10))
    x = norm(mel.transpose(1, 2)[..., None], weights, 'bn0')[..., 0].transpose(1, 2)[:, None]
    for block in range(1, 7):
        for number in (1, 2):
            x = F.conv2d(x, weights[f'conv_block{block}.conv{number}.weight'], padding=1)
            x = norm(x, weights, f'conv_block{block}.bn{number}').relu()
        x = F.avg_pool2d(x, 2) if block < 6 else x
    x = x.mean(3)
    x = F.linear(x.max(2).values + x.mean(2), weights['fc1.weight'], weights['fc1.bias']).relu()
    return x, F.linear(x, weights['fc_audioset.weight'], weights['fc_audioset.bias'])


@pytest.mark.parametrize('n_fft', [512, 1024])
def test_panns_is_cnn14_as_released(tmp_path, n_fft):
    weights = released_cnn14(n_fft)
    torch.save({'model': weights}, tmp_path / 'cnn14.pth')
    embedder = PANNs(str(tmp_path / 'cnn14.pth'))
    rate = {512: 16_000, 1024: 32_000}[n_fft]
    assert embedder.sample_rate == rate
    waveform = sounds(rate)
    found = embedder(waveform, rate)
    assert found[0].shape == (2, 64)
    torch.testing.assert_close(found, plain_cnn14(waveform, weights, rate // 100), rtol=1e-4, atol=1e-4)
    assert embedder(waveform[:, :100], rate)[1].shape == (2, 5), 'a very short sound'


def test_panns_refuses_what_is_no_released_file(tmp_path):
    with pytest.raises(UserError, match='zenodo'):
        PANNs(str(tmp_path / 'none.pth'))
    weights = released_cnn14()
    file = tmp_path / 'file.pth'
    for missing, said in (('fc_audioset.bias', 'lacks fc_audioset.bias'), ('conv_block3.bn1.bias', 'is no Cnn14')):
        torch.save({'model': {name: value for name, value in weights.items() if name != missing}}, file)
        with pytest.raises(UserError, match=said):
            PANNs(str(file))
    torch.save({'model': weights | {'logmel_extractor.melW': torch.rand(300, 64)}}, file)
    with pytest.raises(UserError, match='none of Cnn14'):
        PANNs(str(file))


def test_vggish_hears_what_the_paper_says():
    """A frame by hand: 25 ms, periodic Hann, FFT of 512, triangles straight in mel, ln(x + 0.01)."""
    waveform = sounds(RATE // 2, 1)
    mel = vggish.log_mel(waveform, vggish.mel_filters())[0]
    assert mel.shape == (1 + (RATE // 2 - 400) // 160, 64)
    frame = waveform[0, 160 * 7 : 160 * 7 + 400].double().numpy()
    frame = frame * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400))
    magnitude = np.abs(np.fft.rfft(frame, 512))
    edges = np.linspace(*(1127 * np.log(1 + np.array([125, 7500]) / 700)), 66)
    for band in (0, 20, 63):
        total = 0.0
        for bin_, value in enumerate(magnitude[1:], start=1):
            place = 1127 * np.log(1 + bin_ * 16000 / 512 / 700)
            low, middle, high = edges[band : band + 3]
            total += value * max(0, min((place - low) / (middle - low), (high - place) / (high - middle)))
        assert mel[7, band].item() == pytest.approx(np.log(total + 0.01), abs=1e-4)


def small_vggish(activation):
    """A network under the names of torchvggish that keeps its layout: four halvings, channels last."""
    features = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.MaxPool2d(16))
    embeddings = torch.nn.Sequential(torch.nn.Linear(6 * 4 * 2, 128), *([torch.nn.ReLU()] if activation else []))
    return torch.nn.ModuleDict({'features': features, 'embeddings': embeddings})


def test_vggish_refuses_another_network(tmp_path, monkeypatch):
    monkeypatch.setattr(vggish, '_network', small_vggish)
    torch.save({'features.0.weight': torch.zeros(64, 1, 3, 3)}, tmp_path / 'part.pth')
    with pytest.raises(UserError, match='is no VGGish: 3 missing'):
        VGGish(str(tmp_path / 'part.pth'))


def test_vggish_gives_windows_in_order_channels_last(tmp_path, monkeypatch):
    monkeypatch.setattr(vggish, '_network', small_vggish)
    torch.manual_seed(0)
    network = small_vggish(False)
    torch.save(network.state_dict() | {'pproc.pca_means': torch.zeros(128)}, tmp_path / 'vggish.pth')
    embedder = VGGish(str(tmp_path / 'vggish.pth'))
    waveform = sounds(4 * RATE)
    features, scores = embedder(waveform, RATE)
    assert scores is None
    assert features.shape == (2, 4, 128)
    mel = vggish.log_mel(waveform, vggish.mel_filters())
    with torch.no_grad():
        second = network['features'](mel[1:, None, 96:192])[0]
        own = network['embeddings'](torch.stack([second[:, t, f] for t in range(6) for f in range(4)]).flatten())
    torch.testing.assert_close(features[1, 1], own)
    assert embedder(waveform[:, :100], RATE)[0].shape == (2, 1, 128)
    assert VGGish(str(tmp_path / 'vggish.pth'), activation=True)(waveform, RATE)[0].min() == 0


def test_vggish_has_the_names_and_size_of_the_released_file(tmp_path):
    with torch.device('meta'):
        network = vggish._network(activation=True)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert {name.rpartition('.')[0] for name in shapes} == {
        *(f'features.{layer}' for layer in (0, 3, 6, 8, 11, 13)), *(f'embeddings.{layer}' for layer in (0, 2, 4))
    }  # fmt: skip
    assert shapes['embeddings.0.weight'] == (4096, 512 * 4 * 6)
    assert sum(value.numel() for value in network.state_dict().values()) == 72_141_184
    with pytest.raises(UserError, match='torchvggish'):
        VGGish(str(tmp_path / 'none.pth'))


@pytest.mark.skipif(importlib.util.find_spec('transformers') is None, reason='the extra gmscavp[hf] is not installed')
def test_clap_is_the_librarys(tmp_path, monkeypatch):
    monkeypatch.setattr('socket.socket.connect', lambda *_: pytest.fail('a connection was tried'))
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    audio = dict(
        model_type='clap_audio_model', hidden_size=32, window_size=4, num_mel_bins=16, spec_size=64, depths=[1, 1],
        num_attention_heads=[1, 2], patch_embeds_hidden_size=16, projection_dim=8,
    )  # fmt: skip
    text = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50,
        projection_dim=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    model = transformers.ClapModel(transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=8))
    model.eval().save_pretrained(tmp_path)
    extract = transformers.ClapFeatureExtractor(
        feature_size=16, max_length_s=2, truncation='rand_trunc', padding='repeatpad'
    )
    extract.save_pretrained(tmp_path)
    waveform = sounds(48_000)
    embedder = CLAP(str(tmp_path))
    features, scores = embedder(waveform, 48_000)
    mel = extract(list(waveform.numpy()), sampling_rate=48_000, return_tensors='pt')
    with torch.no_grad():
        own = model.get_audio_features(**mel).pooler_output
    torch.testing.assert_close(F.normalize(features, dim=-1), own, rtol=1e-4, atol=1e-5)
    assert scores is None
    long = sounds(3 * 48_000)
    torch.testing.assert_close(embedder(long, 48_000)[0], embedder(long, 48_000)[0], rtol=0, atol=0)


def test_clap_needs_its_folder_and_its_library(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r'has no config.json|install it with'):
        CLAP(str(tmp_path))
    monkeypatch.setattr('gmscavp.evaluation.embedders.clap.transformers', None)
    with pytest.raises(UserError, match='pip install'):
        CLAP(str(tmp_path))


def test_a_judge_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"no embedder is called 'PaSST'.*Known: .*PANNs"):
        EMBEDDERS.build(dict(type='PaSST', weights='x'))
