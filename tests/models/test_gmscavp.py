"""The model as a whole: its terms, what it predicts, and what it says when parts do not fit."""

import pickle

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.registry import MODELS
from tests.models.builders import tiny_batch, tiny_model


def losses_of(model, batch):
    return model(**model.data_preprocessor(batch, True), mode='loss')


def total(losses):
    return sum(value for name, value in losses.items() if 'loss' in name)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize('target', ['latent', 'embedding'])
@pytest.mark.parametrize('scheduler', ['RectifiedFlow', 'ScaledLinearDDPM'])
def test_every_term_has_its_name_and_every_parameter_a_gradient(target, scheduler):
    cfg = tiny_model()
    cfg['diffusion'] |= dict(target=target, scheduler=dict(type=scheduler))
    model = MODELS.build(cfg)
    losses = losses_of(model, tiny_batch())
    named = {'loss_semantic', 'loss_temporal', 'loss_diffusion_v2a', 'loss_diffusion_a2v', 'logit_scale'}
    assert set(losses) == named
    total(losses).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without, 'DistributedDataParallel would wait for these for ever'


def test_a_few_steps_bring_every_term_down():
    model = MODELS.build(tiny_model())
    batch = tiny_batch(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        losses = losses_of(model, batch)
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items() if 'loss' in name})
    for name in history[0]:
        first, last = (sum(h[name] for h in part) for part in (history[:5], history[-5:]))
        assert last < first, name


def test_predictions_carry_clip_ids_and_what_could_not_be_read():
    model = MODELS.build(tiny_model()).eval()
    batch = tiny_batch(3)
    batch['valid'] = torch.tensor([True, False, True])
    predictions = model(**model.data_preprocessor(batch, False), mode='predict')
    assert [p['clip_id'] for p in predictions] == ['clip0', 'clip1', 'clip2']
    assert [p['valid'] for p in predictions] == [True, False, True]
    v, a = model(**model.data_preprocessor(batch, False), mode='tensor')
    torch.testing.assert_close(torch.stack([p['audio_embedding'] for p in predictions]), a)
    torch.testing.assert_close(v.norm(dim=1), torch.ones(3))


def test_a_clips_prediction_travels_without_its_batch():
    model = MODELS.build(tiny_model()).eval()
    size = {}
    for clips in (1, 12):
        with torch.no_grad():
            predictions = model(**model.data_preprocessor(tiny_batch(clips), False), mode='predict')
        size[clips] = len(pickle.dumps(predictions[0]))
    assert size[12] <= size[1] + 8


def test_parts_that_do_not_fit_are_named():
    cfg = tiny_model()
    cfg['video_pyramid'] |= dict(in_channels=[512])
    with pytest.raises(UserError, match=r'video: backbone gives channels \[8, 16\], pyramid expects \[512\]'):
        MODELS.build(cfg)
    cfg = tiny_model()
    cfg['audio_pyramid'] |= dict(lengths=[8, 1])
    with pytest.raises(UserError, match='give both the same lengths'):
        MODELS.build(cfg)
    cfg = tiny_model()
    cfg['diffusion'] |= dict(target='pixels')
    with pytest.raises(UserError, match='latent, embedding'):
        MODELS.build(cfg)


def test_unknown_name_says_which_are_near_and_what_to_import():
    with pytest.raises(UserError, match=r"no pyramid is called 'ConvPyramide'. Did you mean ConvPyramid.*import"):
        MODELS.build(tiny_model(video_pyramid=dict(type='ConvPyramide')))
    with pytest.raises(UserError, match=r"no model is called 'GMSCAPV'. Did you mean GMSCAVP"):
        MODELS.build(tiny_model(type='GMSCAPV'))
