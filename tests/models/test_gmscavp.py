"""The model as a whole: its terms, where gradients go, and what it says when parts do not fit."""

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models.diffusion import audio_latents, video_latents
from gmscavp.registry import MODELS
from tests.models.builders import LENGTHS, tiny_batch, tiny_model


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


@pytest.mark.parametrize('direction', ['v2a', 'a2v'])
def test_latent_diffusion_teaches_only_the_encoder_of_its_condition(direction):
    cfg = tiny_model()
    cfg['diffusion'] |= dict(directions=[direction])
    model = MODELS.build(cfg)
    # The denoiser's gates start at zero effect of the level, but not of the condition.
    losses_of(model, tiny_batch())[f'loss_diffusion_{direction}'].backward()
    taught, other = ('video', 'audio') if direction == 'v2a' else ('audio', 'video')

    def touched(side):
        parts = (getattr(model, f'{side}_backbone'), getattr(model, f'{side}_pyramid'))
        return sum(p.grad.abs().sum().item() for part in parts for p in part.parameters() if p.grad is not None)

    assert touched(taught) > 0
    assert touched(other) == 0


def test_embedding_targets_are_stopped():
    """Without the stop both sides would agree on one constant: the target's encoder must get no gradient."""
    cfg = tiny_model()
    cfg['diffusion'] |= dict(directions=['v2a'], target='embedding')
    model = MODELS.build(cfg)
    losses_of(model, tiny_batch())['loss_diffusion_v2a'].backward()
    assert all(p.grad is None for p in model.audio_backbone.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.video_backbone.parameters())


def test_half_batch_gives_each_direction_its_half():
    cfg = tiny_model()
    cfg['diffusion'] |= dict(half_batch=True)
    diffusion = MODELS.build(cfg).diffusion
    assert [diffusion._rows(6, d) for d in ('v2a', 'a2v')] == [slice(None, 3), slice(3, None)]


def test_null_condition_hides_the_condition_wholly():
    denoiser = MODELS.build(tiny_model()).diffusion.denoisers['v2a']
    x = [torch.randn(2, n, 4) for n in LENGTHS]
    one, other = ([torch.randn(2, n, 16) for n in LENGTHS] for _ in range(2))
    t, hidden = torch.tensor([0.3, 0.7]), torch.tensor([False, False])
    shown = torch.tensor([True, True])
    for a, b in zip(denoiser(x, t, one, hidden), denoiser(x, t, other, hidden), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(denoiser(x, t, one, shown), denoiser(x, t, one), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.allclose(denoiser(x, t, one)[0], denoiser(x, t, other)[0])


def test_scales_do_not_see_each_other_in_the_denoiser():
    denoiser = MODELS.build(tiny_model()).diffusion.denoisers['v2a']
    condition = [torch.randn(2, n, 16) for n in LENGTHS]
    x = [torch.randn(2, n, 4) for n in LENGTHS]
    t = torch.tensor([0.3, 0.7])
    before = denoiser(x, t, condition)
    x[2] = torch.randn(2, 1, 4)
    after = denoiser(x, t, condition)
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[2], after[2])


def test_latents_are_averages():
    mel, video = torch.rand(2, 1, 32, 8), torch.rand(2, 3, 8, 16, 16)
    fine, coarse = audio_latents(mel, [4, 1], [4, 2])
    torch.testing.assert_close(fine[0, 1, 2], mel[0, 0, 8:16, 4:6].mean())
    torch.testing.assert_close(coarse[1, 0, 1], mel[1, 0, :, 4:].mean())
    latent = video_latents(video, [4], [2])[0].reshape(2, 4, 3, 2, 2)
    torch.testing.assert_close(latent[1, 2, 0, 1, 0], video[1, 0, 4:6, 8:, :8].mean())


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
