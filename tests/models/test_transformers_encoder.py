"""Encoders of `transformers`: what ours gives is what the library's own model gives on the same input."""

import importlib
import json
import math

import pytest
import torch

from gmscavp.compat import torchaudio
from gmscavp.errors import UserError
from gmscavp.models import TransformersAudio, TransformersVideo
from gmscavp.models.backbones.transformers_encoder import loading
from gmscavp.models.preprocessor import LogMel
from gmscavp.registry import BACKBONES

transformers = pytest.importorskip('transformers', reason='the extra gmscavp[hf] is not installed')

LAYERS = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
VIDEOMAE = LAYERS | dict(
    model_type='videomae', image_size=32, patch_size=16, num_frames=4, decoder_hidden_size=8,
    decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=8,
)  # fmt: skip
CLIP = LAYERS | dict(model_type='clip_vision_model', image_size=32, patch_size=8, projection_dim=8)
AST = LAYERS | dict(model_type='audio-spectrogram-transformer', max_length=64, num_mel_bins=32)
CLAP = dict(
    model_type='clap_audio_model', hidden_size=32, window_size=4, num_mel_bins=16, spec_size=64, depths=[1, 1],
    num_attention_heads=[1, 2], patch_embeds_hidden_size=16, projection_dim=8,
)  # fmt: skip
TEXT = LAYERS | dict(vocab_size=50, projection_dim=8, bos_token_id=0, eos_token_id=1, pad_token_id=1)
KINDS = [VIDEOMAE, CLIP, AST, CLAP]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr('socket.socket.connect', lambda *_: pytest.fail('a connection was tried'))


def library(name, settings):
    """The library's own model of a config, random, with norms and positions that show when they are left out."""
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**{key: value for key, value in settings.items() if key != 'model_type'}))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


def random_backbone(settings, **more):
    kind = (
        TransformersVideo
        if settings['model_type'] in (VIDEOMAE['model_type'], CLIP['model_type'])
        else TransformersAudio
    )
    return kind(settings, pretrained=False, **more)


def example(settings):
    if settings in (VIDEOMAE, CLIP):
        return torch.rand(2, 3, 4, 32, 32) * 2 - 1
    return torch.rand(2, 1, 64, settings['num_mel_bins'])


def normed(video, mean, std):
    return ((video + 1) / 2 - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(3, 1, 1, 1)


def test_videomae_is_the_librarys(tmp_path):
    model = library('VideoMAEModel', VIDEOMAE)
    model.save_pretrained(tmp_path)
    video = example(VIDEOMAE)
    (features,) = TransformersVideo(str(tmp_path)).eval()(video)
    pixels = normed(video, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    own = model(pixel_values=pixels.transpose(1, 2)).last_hidden_state
    assert features.shape == (2, 2, 4, 16)
    torch.testing.assert_close(features.flatten(1, 2), own, rtol=0, atol=1e-6)


def test_clip_is_the_librarys_for_every_frame(tmp_path):
    model = library('CLIPVisionModel', CLIP)
    model.save_pretrained(tmp_path)
    video = example(CLIP)
    backbone = TransformersVideo(str(tmp_path)).eval()
    (features,) = backbone(video)
    assert features.shape == (2, 4, 16, 16)
    pixels = normed(video, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    for t in range(4):
        own = model(pixel_values=pixels[:, :, t]).last_hidden_state
        torch.testing.assert_close(features[:, t], own[:, 1:], rtol=0, atol=1e-6)
    assert backbone(torch.zeros(1, 3, 2, 48, 40))[0].shape == (1, 2, 6 * 5, 16)


def test_ast_is_the_librarys(tmp_path):
    model = library('ASTModel', AST)
    model.save_pretrained(tmp_path)
    backbone, mel = TransformersAudio(str(tmp_path)).eval(), example(AST)
    (features,) = backbone(mel)
    assert features.shape == (2, 5, 2, 16)
    own = model(input_values=backbone.adapter.filter_bank(mel)).last_hidden_state[:, 2:]
    # The library's tokens run through time first, then through the bands.
    torch.testing.assert_close(features.transpose(1, 2).flatten(1, 2), own, rtol=0, atol=1e-6)


def test_ast_of_shorter_clips_keeps_the_positions_of_their_moments(tmp_path):
    model = library('ASTModel', AST)
    model.save_pretrained(tmp_path)
    short = TransformersAudio(str(tmp_path), frames=40)
    assert short(torch.rand(1, 1, 40, 32))[0].shape == (1, 3, 2, 16)
    whole = model.embeddings.position_embeddings
    kept = short.adapter.encoder.embeddings.position_embeddings
    torch.testing.assert_close(kept[:, :2], whole[:, :2])
    torch.testing.assert_close(kept[:, 2:].view(2, 3, 16), whole[:, 2:].view(2, 5, 16)[:, :3])


def kaldi_bank(audio):
    fbank = importlib.import_module('torchaudio.compliance.kaldi').fbank
    return (fbank(audio, sample_frequency=16000, window_type='hanning', num_mel_bins=128) + 4.2677393) / (2 * 4.5689974)


def test_our_mel_is_brought_to_the_filter_bank_of_ast():
    """Noise whose colour and loudness change, as AST would hear it (torchaudio's Kaldi features) and from our mel."""
    # The import of compat is what makes that of torchaudio's parts possible.
    assert torchaudio
    noise = torch.randn(1, 32000)
    smooth = torch.nn.functional.avg_pool1d(noise[None], 9, 1, 4)[0]
    loudness = torch.exp(2 * torch.sin(torch.linspace(0, 20, 32000)))
    audio = 0.02 * loudness * torch.where(torch.arange(32000) < 16000, noise, smooth)
    backbone = TransformersAudio(AST | dict(num_mel_bins=128, max_length=200), pretrained=False)
    ours = backbone.adapter.filter_bank(LogMel(16000, 512, 160, 128, 20.0, 8000.0)(audio))[0]
    theirs = kaldi_bank(audio)
    # Their frames are not centred: the k-th of theirs lies at our (k + 1)-th.
    ours, theirs = ours[2:191, 10:], theirs[1:190, 10:]
    assert (ours - theirs).mean().abs() < 0.05
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.9
    # Smoothed over time, band by band, what remains is not the noise's own scatter.
    assert (ours.mean(0) - theirs.mean(0)).abs().mean() < 0.06


@pytest.mark.parametrize('fusion', [False, True])
@pytest.mark.parametrize('frames', [256, 100])
def test_clap_is_the_librarys_on_the_repeated_mel(tmp_path, fusion, frames):
    model = library('ClapAudioModel', CLAP | dict(enable_fusion=fusion))
    model.save_pretrained(tmp_path)
    backbone, mel = TransformersAudio(str(tmp_path)).eval(), torch.rand(2, 1, frames, 16)
    (features,) = backbone(mel)
    repeated = mel.repeat(1, 4 if fusion else 1, 3, 1)[:, :, :256] * 100 - 80 + 10 * math.log10(48000 / 1024)
    own = model(input_features=repeated, is_longer=torch.zeros(2, 1)).last_hidden_state
    assert own.shape == (2, 32, 2, 32), 'channels, bands, steps'
    steps = round(32 * frames / 256)
    assert features.shape == (2, steps, 2, 32)
    torch.testing.assert_close(features, own.permute(0, 3, 2, 1)[:, :steps], rtol=0, atol=1e-6)


def test_clap_gives_steps_in_time_and_bands_from_low_to_high():
    """A patch that is loud alone is loudest where it is: the library folds time into the picture's height."""
    backbone = random_backbone(CLAP).eval()
    quiet = torch.zeros(1, 1, 256, 16)
    for frame, band in ((0, 0), (96, 0), (160, 12), (255, 15)):
        loud = quiet.clone()
        loud[0, 0, frame // 8 * 8 : frame // 8 * 8 + 8, band // 8 * 8 : band // 8 * 8 + 8] = 1
        change = (backbone(loud)[0] - backbone(quiet)[0]).abs().sum(-1)[0]
        step, place = divmod(int(change.argmax()), 2)
        assert (step, place) == (frame // 8, band // 8)


def whole_models():
    clip = transformers.CLIPModel(transformers.CLIPConfig(vision_config=CLIP, text_config=TEXT, projection_dim=8))
    clap = transformers.ClapModel(transformers.ClapConfig(audio_config=CLAP, text_config=TEXT, projection_dim=8))
    with_head = library('ClapAudioModelWithProjection', CLAP)
    tubes = library('VideoMAEForPreTraining', VIDEOMAE)
    classes = library('ASTForAudioClassification', AST)
    return {
        'CLIP with text': (clip, clip.vision_model, TransformersVideo),
        'CLIP with projection': (*(2 * (library('CLIPVisionModelWithProjection', CLIP),)), TransformersVideo),
        'CLAP with text': (clap, clap.audio_model, TransformersAudio),
        'CLAP with projection': (with_head, with_head.audio_model, TransformersAudio),
        'VideoMAE with decoder': (tubes, tubes.videomae, TransformersVideo),
        'AST with classes': (classes, classes.audio_spectrogram_transformer, TransformersAudio),
    }


@pytest.mark.parametrize(
    'name',
    [
        'CLIP with text',
        'CLIP with projection',
        'CLAP with text',
        'CLAP with projection',
        'VideoMAE with decoder',
        'AST with classes',
    ],
)
def test_encoder_is_found_inside_of_larger_models(tmp_path, name):
    whole, inside, kind = whole_models()[name]
    whole.half().save_pretrained(tmp_path)
    inside = getattr(inside, 'vision_model', inside)
    own = dict(inside.named_parameters())
    loaded = dict(kind(str(tmp_path)).adapter.encoder.named_parameters())
    assert set(own) - set(loaded) <= {'post_layernorm.weight', 'post_layernorm.bias'}
    for parameter_name, p in loaded.items():
        assert p.dtype == torch.float32
        torch.testing.assert_close(p, own[parameter_name].float(), msg=parameter_name)


@pytest.mark.parametrize('settings', KINDS, ids=lambda s: s['model_type'])
def test_every_parameter_has_a_gradient_and_a_part_and_checkpointing_changes_nothing(settings):
    plain, saving = random_backbone(settings), random_backbone(settings, gradient_checkpointing=settings is not CLAP)
    saving.load_state_dict(plain.state_dict())
    held = [id(p) for part in plain.by_depth() for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in plain.parameters())
    assert len(plain.by_depth()) == 3
    x = example(settings)
    for net in (plain, saving):
        for module in net.train().modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        (features,) = net(x)
        assert features.shape[-1:] == torch.Size(net.out_channels)
        features.square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert p.grad is not None, f'{name}: DistributedDataParallel would wait for it'
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize('settings', KINDS, ids=lambda s: s['model_type'])
def test_a_folder_gives_its_architecture_alone_when_weights_are_not_wanted(tmp_path, settings):
    backbone = random_backbone(settings)
    backbone.adapter.encoder.config.save_pretrained(tmp_path)
    kind = type(backbone).__name__
    again = BACKBONES.build(dict(type=kind, source=str(tmp_path), pretrained=False))
    assert [p.shape for p in again.parameters()] == [p.shape for p in backbone.parameters()]
    with pytest.raises(UserError, match='cannot be loaded'):
        BACKBONES.build(dict(type=kind, source=str(tmp_path)))


def test_a_missing_library_says_the_one_command(monkeypatch):
    monkeypatch.setattr(loading, 'transformers', None)
    with pytest.raises(UserError, match=r'pip install -c requirements/constraints.txt "gmscavp\[hf\]"'):
        TransformersVideo('MCG-NJU/videomae-base')


def test_damaged_and_foreign_folders_are_named(tmp_path):
    library('CLIPVisionModel', CLIP).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'clip_vision_model' is none that this backbone takes; it takes audio-spec"):
        TransformersAudio(str(tmp_path))
    weights = tmp_path / 'model.safetensors'
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match='cannot be loaded'):
        TransformersVideo(str(tmp_path))
    weights.write_bytes(whole)
    settings = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps(settings | dict(num_hidden_layers=3)))
    with pytest.raises(UserError, match=r'lacks \d+ weights of CLIPVisionModel, for example encoder.layers.2'):
        TransformersVideo(str(tmp_path))
    (tmp_path / 'config.json').write_text('{')
    with pytest.raises(UserError, match='cannot be loaded'):
        TransformersVideo(str(tmp_path))
    (tmp_path / 'config.json').unlink()
    with pytest.raises(UserError, match='has no config'):
        TransformersVideo(str(tmp_path))
    with pytest.raises(UserError, match='is no folder'):
        TransformersVideo(str(tmp_path / 'nowhere'))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: TransformersVideo(CLIP), 'a config, which has no weights: set pretrained=False'),
        (lambda: random_backbone(CLIP | dict(hiden_size=4)), "no setting 'hiden_size'. Did you mean hidden_size"),
        (lambda: TransformersVideo(LAYERS, pretrained=False), "model_type 'None' is none"),
        (
            lambda: TransformersVideo(CLIP | dict(hidden_size=15), pretrained=False),
            'the config cannot be loaded.* not a multiple',
        ),
        (lambda: random_backbone(VIDEOMAE)(torch.zeros(1, 3, 8, 32, 32)), 'takes 4 frames of 32 x 32 .* have 8 x 32'),
        (lambda: random_backbone(CLIP)(torch.zeros(1, 3, 2, 7, 32)), 'hold no patch of 8'),
        (lambda: random_backbone(AST)(torch.zeros(1, 1, 64, 64)), 'bands=32 .n_fft=512, hop=160'),
        (lambda: random_backbone(AST)(torch.zeros(1, 1, 60, 32)), 'the mel has 60 frames, the backbone is for 64'),
        (lambda: random_backbone(AST, frames=65), 'positions for 16 to 64 frames, not for 65'),
        (lambda: random_backbone(CLAP)(torch.zeros(1, 1, 64, 32)), 'bands=16 .n_fft=1024, hop=480'),
        (lambda: random_backbone(CLAP)(torch.zeros(1, 1, 257, 16)), 'up to 256 frames and the mel has 257'),
        (lambda: random_backbone(CLAP, gradient_checkpointing=True), 'leave gradient_checkpointing out'),
        (lambda: random_backbone(CLAP, frames=64), 'leave audio_backbone.frames out'),
    ],
)
def test_what_does_not_fit_is_said(make, message):
    with pytest.raises(UserError, match=message):
        make()
