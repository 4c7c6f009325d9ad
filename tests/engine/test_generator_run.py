"""A generator from training to the page of samples, as the quickstart does it, with the narrowest nets."""

import json

import pytest
import torch

from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.engine.config import load_config
from gmscavp.engine.trained import load_model
from gmscavp.errors import UserError
from gmscavp.inference.samples import generated_cards
from gmscavp.registry import MODELS
from tests.engine.test_tools import ROOT
from tests.running import tool

CONFIG = ROOT / 'configs/v2a_frozen_impacts.py'
PRETRAINING = ROOT / 'configs/gmscavp_impacts.py'
LOADERS = [
    f'{loader}_dataloader.{setting}'
    for loader in ('train', 'val', 'test')
    for setting in ('dataset.clip.size=32', 'num_workers=0', 'batch_size=4')
]
SMALL = [
    *LOADERS,
    'val_dataloader.dataset.clips=8',
    'test_dataloader.dataset.clips=8',
    'model.backbone.width=8',
    'model.pyramid.dim=8',
    'model.denoiser.width=24',
    'model.denoiser.depth=1',
    'model.denoiser.heads=2',
    'model.sampling.steps=2',
    'max_epochs=1',
    'val_interval=1',
]
ENCODER = {'model.video_backbone.width': 8, 'model.video_pyramid.dim': 8, 'model.audio_pyramid.dim': 8}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Rendered clips, an encoder as pretraining leaves it, and a run of the generator on it."""
    folder = tmp_path_factory.mktemp('generator')
    data = render_impacts(folder / 'impacts', train=8, test=8, workers=1, progress=False)
    torch.manual_seed(3)
    pretrained = MODELS.build(load_config(PRETRAINING, ENCODER).model)
    encoder = folder / 'encoder.pth'
    torch.save({'state_dict': pretrained.state_dict()}, encoder)
    options = [*SMALL, f'data_root={data}', f'truth={data}/events.jsonl']
    init = [f'init.video_backbone={encoder}', f'init.video_pyramid={encoder}']
    run = folder / 'run'
    said = tool('train.py', CONFIG, '--work-dir', run, '--cfg-options', *options, *init)
    assert 'video_backbone starts from' in said
    assert 'generation/onset_f1' in said
    return data, run, pretrained, options


def test_the_frozen_encoder_is_the_pretrained_one_and_the_denoiser_has_learnt(trained):
    _, run, pretrained, _ = trained
    model = load_model(load_config(run / 'v2a_frozen_impacts.py'), run)
    for part in ('video_backbone', 'video_pyramid'):
        own, theirs = (getattr(m, part).state_dict() for m in (model, pretrained))
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[name], theirs[name]) for name in own), part
    assert model.denoiser.out.weight.abs().max() > 0


def test_the_tool_judges_it_and_writes_a_page_of_samples(trained, tmp_path):
    _, run, _, options = trained
    page, figures = tmp_path / 'samples.html', tmp_path / 'figures.json'
    said = tool('test.py', CONFIG, run, '--report', page, '--out', figures, '--cfg-options', *options)
    assert 'Generation: 8 clips' in said
    found = json.loads(figures.read_text())['metrics']
    assert found['generation/N'] == 8
    assert found['generation/real_onset_f1'] > 60 > found['generation/shuffled_onset_f1']
    assert page.read_text().count('<video ') == 16


def test_generated_clips_for_the_page_of_retrieval(trained):
    _, run, _, _ = trained
    cards = generated_cards(run / 'v2a_frozen_impacts.py', run, clips=3)
    assert len({card.clip_id for card in cards}) == 3
    for card in cards:
        assert set(card.sides) == {'generated', 'real'}
        assert card.sides['generated'].movie[4:8] == b'ftyp'
        assert card.truth.clip_id == card.clip_id
        assert card.duration_s == 4
    with pytest.raises(UserError, match='is of another model'):
        generated_cards(CONFIG, run)
    encoder = run / 'bare.pth'
    torch.save({'state_dict': MODELS.build(load_config(PRETRAINING).model).state_dict()}, encoder)
    with pytest.raises(UserError, match='is no generator'):
        generated_cards(PRETRAINING, encoder)
