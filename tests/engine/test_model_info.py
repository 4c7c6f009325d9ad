"""tools/model_info.py: its figures against formulas and counts of our own, and what it says when it cannot count."""

import importlib.util
import json
import sys

import pytest
import torch
from torch import nn

from gmscavp.models import FrameViT, TinyVideoNet, TransformersAudio, TransformersVideo
from gmscavp.models.layers import TransformerBlock
from gmscavp.registry import BACKBONES
from tests.test_configs import IMPACTS, ROOT

spec = importlib.util.spec_from_file_location('model_info', ROOT / 'tools/model_info.py')
model_info = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model_info)


def parts_of(module, *batch):
    """Name -> part, for a module that takes tensors."""
    parts = model_info.parts_of(module.eval(), list(batch), lambda module, batch: module(*batch))
    return {part.name: part for part in parts}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the tool in this process; what it printed, and what it wrote."""

    def call(*arguments):
        file = tmp_path / 'info.json'
        monkeypatch.setattr(sys, 'argv', ['model_info.py', *map(str, arguments), '--json', str(file)])
        model_info.run_tool(model_info.main)
        return capsys.readouterr().out, json.loads(file.read_text())

    return call


def test_transformer_is_counted_as_the_formula_says():
    tokens, width, frames = 16, 32, 3
    net = FrameViT(width=width, depth=2, heads=4, patch=8, image_size=32, temporal_layers=[2])
    parts = parts_of(net, torch.zeros(2, 3, frames, 32, 32))
    # Twice the multiply-adds: 12 C^2 of the matrices and 2 N C of the attention, for each of N tokens.
    space = 2 * 2 * frames * tokens * (12 * width**2 + 2 * tokens * width)
    time = 2 * 2 * frames * tokens * (4 * width**2 + 2 * frames * width)
    patches = 2 * 2 * frames * tokens * 3 * 8 * 8 * width
    assert parts['patches'].flops == patches
    assert parts['layers'].flops == 2 * space + time
    assert parts['total'].flops == patches + 2 * space + time


def test_convolutions_are_counted_as_they_are_seen():
    net, counted = TinyVideoNet(width=8), []

    def note(conv, _, out):
        counted.append(2 * out.numel() * conv.weight[0].numel())

    hooks = [m.register_forward_hook(note) for m in net.modules() if isinstance(m, nn.Conv3d)]
    video = torch.zeros(1, 3, 4, 32, 32)
    net(video)
    for hook in hooks:
        hook.remove()
    parts = parts_of(net, video)
    assert parts['total'].flops == sum(counted)
    assert parts['total'].output == '1 x 4 x 16 x 16, 1 x 4 x 4 x 32'


class LooksAtValues(nn.Module):
    """Cannot run on shapes alone."""

    def __init__(self):
        super().__init__()
        self.block = TransformerBlock(16, 2)

    def forward(self, x):
        return self.block(x) if x.isfinite().all().item() else x


def test_what_looks_at_values_is_counted_with_them_and_alike():
    """On a CPU the fused attention would be missing from the count."""
    x = torch.zeros(2, 7, 16)
    whole, shapes_alone = LooksAtValues(), TransformerBlock(16, 2)
    weights = [p.clone() for p in whole.parameters()]
    assert parts_of(whole, x)['total'].flops == parts_of(shapes_alone, x)['total'].flops > 0
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), weights, strict=True))


def test_model_of_a_config(run):
    out, report = run(IMPACTS)
    parts = {part['name']: part for part in report['parts'] if not part['level']}
    assert report['batch'] == {'video': [1, 3, 16, 64, 64], 'mel': [1, 1, 256, 64]}
    total = parts.pop('total')
    assert set(parts) == {'video_backbone', 'audio_backbone', 'video_pyramid', 'audio_pyramid', 'head', 'diffusion'}
    for figure in ('parameters', 'trainable', 'flops', 'bytes'):
        assert total[figure] == sum(part[figure] for part in parts.values()) > 0
    assert total['bytes'] == 4 * total['parameters']
    stages = [part for part in report['parts'] if part['level']]
    assert sum(part['flops'] for part in stages) == parts['video_backbone']['flops'] + parts['audio_backbone']['flops']
    assert f'{total["parameters"]:,}' in out
    assert 'FLOPs = 2 x multiply-adds' in out
    assert parts['video_pyramid']['output'].startswith('1 x 16 x 64, 1 x 8 x 64')


def test_batch_frozen_parts_and_crop_are_seen(run):
    options = ['model.video_frozen=2', 'train_dataloader.dataset.clip.size=96']
    _, report = run(IMPACTS, '--batch', 3, '--cfg-options', *options)
    _, single = run(IMPACTS, '--cfg-options', *options)
    assert report['batch']['video'] == [3, 3, 16, 96, 96]
    video, alone = (r['parts'][0] for r in (report, single))
    assert video['flops'] == 3 * alone['flops']
    assert video['trainable'] == report['parts'][3]['parameters'] < video['parameters']
    _, cropped = run(ROOT / 'configs/gmscavp_folder.py')
    assert cropped['batch']['video'][-2:] == [64, 64], 'the crop, not the 80 pixels that are read'


def test_every_backbone_is_listed_or_left_out_with_a_reason(run):
    out, report = run('--backbones')
    listed = {part['name']: part for part in report['parts']}
    own = {name for name, kind in BACKBONES.module_dict.items() if kind.__module__.startswith('gmscavp.')}
    assert own <= {*listed, *report['skipped']}
    assert all(part['flops'] > 0 and part['parameters'] > 0 and part['output'] for part in listed.values())
    assert report['skipped']['TransformersVideo'] == 'needs source'
    assert 'TransformersVideo is left out' in out
    # DeiT-S: 4.6 G multiply-adds for a picture of 224 x 224 (Touvron et al. 2021).
    assert listed['FrameViT']['flops'] / 32 == pytest.approx(4.6e9, rel=0.02)


@pytest.mark.parametrize('fusion', [False, True])
def test_parts_of_the_librarys_encoders_add_up(fusion):
    pytest.importorskip('transformers', reason='the extra gmscavp[hf] is not installed')
    clap = dict(model_type='clap_audio_model', window_size=4, num_mel_bins=16, spec_size=64, depths=[1, 1])
    clap |= dict(num_attention_heads=[1, 2], patch_embeds_hidden_size=16, hidden_size=32, enable_fusion=fusion)
    clip = dict(model_type='clip_vision_model', hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    clip |= dict(intermediate_size=32, image_size=32, patch_size=16)
    model = nn.ModuleDict(
        dict(video=TransformersVideo(clip, pretrained=False), audio=TransformersAudio(clap, pretrained=False))
    ).eval()
    for side, x in (('video', torch.zeros(1, 3, 2, 32, 32)), ('audio', torch.zeros(1, 1, 256, 16))):
        whole = nn.Sequential(model[side])
        parts = model_info.parts_of(whole, [x], lambda module, batch: module(*batch))
        assert parts[0].flops == sum(part.flops for part in parts if part.level) > 0
        assert parts[0].parameters == sum(part.parameters for part in parts if part.level)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], 'give a config or --backbones'),
        ([IMPACTS, '--backbones'], 'give a config or --backbones'),
        ([IMPACTS, '--batch', 0], '--batch must be at least 1'),
        (['none.py'], 'gmscavp: config none.py does not exist'),
        ([IMPACTS, '--cfg-options', 'model.video_frozen=9'], 'TinyVideoNet has 3 parts, 9 of them cannot be frozen'),
    ],
)
def test_mistakes_end_with_one_sentence(run, capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ("model = dict(type='gmscavp.models.TinyVideoNet')", 'no train_dataloader with a dataset.clip'),
        (
            'train_dataloader = dict(dataset=dict(clip=dict(duration_s=1, fps=4, size=32, sample_rate=16000)))',
            'has no model with a data_preprocessor',
        ),
    ],
)
def test_a_config_without_a_clip_or_a_model_is_named(tmp_path, run, capsys, text, words):
    config = tmp_path / 'mine.py'
    config.write_text(text + '\n')
    with pytest.raises(SystemExit):
        run(config)
    assert words in capsys.readouterr().err
