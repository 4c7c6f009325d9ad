"""The generator: what it is trained on, what guides it, windows without seams, samples that depend on their seed alone."""

import itertools

import pytest
import torch
from torch._dynamo.utils import counters

from gmscavp.errors import UserError
from gmscavp.models import Sampling
from gmscavp.models.sampling import fade_weights, window_starts, windowed
from gmscavp.registry import MODELS

TINY = dict(
    type='CrossModalGenerator',
    data_preprocessor=dict(type='ClipPreprocessor', sample_rate=16000, hop=250, bands=16, n_fft=512, keep_audio=True),
    direction='v2a',
    size=[32, 16],
    window=8,
    backbone=dict(type='TinyVideoNet', width=8, stages=1),
    pyramid=dict(type='ConvPyramid', dim=16, lengths=[8, 4, 1], places='image', grids=[1, 2]),
    denoiser=dict(type='LatentTransformer', patch=[4, 8], width=24, depth=1, heads=2),
    scheduler=dict(type='RectifiedFlow'),
    codec=dict(type='MelCodec'),
)


def tiny(**changes):
    torch.manual_seed(0)
    model = MODELS.build({**TINY, **changes})
    # The last layer starts at zero, where nothing would depend on anything.
    for weight in model.denoiser.parameters():
        if weight.dim() > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


def clips(count=2, frames=8):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, frames, 32, 32, generator=generator) * 2 - 1


def test_every_trained_part_gets_a_gradient_and_frozen_ones_none():
    video, mel = clips(), torch.rand(2, 1, 32, 16)
    model = tiny(null_prob=0.5).train()
    # Several draws, so that some clip has its condition and some has none.
    sum(model.loss(video, mel)['loss_diffusion'] for _ in range(8)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    model = tiny(frozen=True).train()
    model.loss(video, mel)['loss_diffusion'].backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith('video_'))
    assert not model.video_backbone.training
    assert model.denoiser.out.weight.grad is not None


def test_the_loss_is_that_of_the_definition():
    model = tiny(null_prob=0.0)
    video, mel = clips(), torch.rand(2, 1, 32, 16)
    torch.manual_seed(5)
    loss = model.loss(video, mel)['loss_diffusion']
    torch.manual_seed(5)
    t = model.scheduler.sample_t(2, mel.device)
    x0 = (mel - 0.5) / 0.25
    eps = torch.randn_like(x0)
    at = t.view(-1, 1, 1, 1)
    predicted = model.denoiser((1 - at) * x0 + at * eps, t, model.encode(video))
    assert torch.allclose(loss, (predicted - (eps - x0)).square().mean(), rtol=1e-5)


def test_several_draws_are_the_batch_with_every_clip_several_times():
    model = tiny()
    video, mel = clips(), torch.rand(2, 1, 32, 16)
    torch.manual_seed(5)
    repeated = model.loss(video.repeat_interleave(3, 0), mel.repeat_interleave(3, 0))['loss_diffusion']
    model.draws = 3
    torch.manual_seed(5)
    assert torch.allclose(model.loss(video, mel)['loss_diffusion'], repeated, rtol=1e-5)
    with pytest.raises(UserError, match='draws'):
        tiny(draws=0)


def test_same_seed_same_sound_other_seed_other_sound_and_batches_do_not_matter():
    model, video = tiny(), clips(3)
    made = model.generate(video, Sampling(steps=4))
    assert made.shape == (3, 1, 32, 16)
    assert torch.equal(made, model.generate(video, Sampling(steps=4)))
    assert not torch.allclose(made, model.generate(video, Sampling(steps=4, seed=1)), atol=1e-2)
    assert torch.allclose(made[:2], model.generate(video[:2], Sampling(steps=4)), atol=1e-5)


@pytest.mark.parametrize('frames', [8, 13])
def test_samples_at_once_are_those_of_their_seeds(frames):
    model, video = tiny(), clips(2, frames)
    made = model.generate(video, Sampling(steps=4, seed=3), samples=3).unflatten(0, (2, 3))
    for k in range(3):
        alone = model.generate(video, Sampling(steps=4, seed=3 + k))
        assert torch.allclose(made[:, k], alone, atol=1e-5)
        assert not torch.allclose(made[:, k], made[:, k - 1], atol=1e-2)
    # One draw after the other would not be that of a sample's own seed.
    with pytest.raises(UserError, match='EulerAncestral draws noise'):
        model.generate(video, Sampling(sampler=dict(type='EulerAncestral')), samples=2)
    assert not model.solver(Sampling(sampler=dict(type='DDIM'))).stochastic
    assert model.solver(Sampling(sampler=dict(type='DDIM', eta=0.5))).stochastic


@pytest.mark.parametrize(
    'denoiser',
    [
        TINY['denoiser'] | dict(depth=2),
        dict(type='UNetDenoiser', width=8, multipliers=[1], attention_levels=[], heads=2, context=16),
    ],
    ids=['LatentTransformer', 'UNetDenoiser'],
)
def test_compiled_it_makes_the_same_and_is_compiled_once(denoiser):
    plain, model = tiny(denoiser=denoiser), tiny(denoiser=denoiser)
    # Graphs without machine code, which takes half a minute to make; benchmarks/sampling.py tests that.
    model.denoiser.compile_steps('eager')
    assert plain.state_dict().keys() == model.state_dict().keys()
    torch._dynamo.reset()
    counters.clear()
    for video, settings in (
        (clips(1), Sampling(steps=2)),
        (clips(2)[1:], Sampling(steps=3, seed=1, sampler=dict(type='Heun'))),
        (clips(1, 21), Sampling(steps=2, overlap=0.4)),
        (clips(1), Sampling(steps=2, guidance=1.0)),
    ):
        assert torch.allclose(model.generate(video, settings), plain.generate(video, settings), atol=1e-5)
        assert counters['stats']['unique_graphs'] == 1, 'blocks, steps, clips and windows share what was compiled'
    model.generate(clips(2), Sampling(steps=2))
    assert counters['stats']['unique_graphs'] == 2, 'another number of clips at once is compiled by itself'
    torch._dynamo.reset()


def test_the_condition_matters_and_guidance_0_forgets_it():
    model, video = tiny(), clips()
    other = video.flip(0)
    noise = torch.randn(2, 1, 32, 16, generator=torch.Generator().manual_seed(0))
    for guidance, same in ((1.0, False), (3.0, False), (0.0, True)):
        first, second = (model.generate(v, Sampling(steps=3, guidance=guidance), noise) for v in (video, other))
        assert torch.allclose(first, second, atol=1e-6) == same, guidance


def test_every_sampler_makes_a_finite_sound_and_tells_its_progress():
    model, video = tiny(), clips(1)
    for name in ('Euler', 'Heun', 'Midpoint', 'DDIM', 'EulerAncestral', 'DPMSolver2M'):
        seen = []
        settings = Sampling(steps=3, sampler=dict(type=name))
        made = model.generate(video, settings, progress=lambda done, of: seen.append((done, of)))  # noqa: B023
        assert made.isfinite().all()
        assert seen[-1][0] <= seen[-1][1]
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    with pytest.raises(UserError, match='no sampler is called'):
        model.generate(video, Sampling(sampler=dict(type='Eular')))


@pytest.mark.parametrize(('frames', 'expected'), [(8, 32), (13, 52), (3, 12), (30, 120)])
def test_a_sound_is_as_long_as_its_video(frames, expected):
    assert tiny().generate(clips(1, frames), Sampling(steps=2)).shape == (1, 1, expected, 16)


def test_a_long_signal_of_one_denoiser_is_as_without_windows():
    # A denoiser that looks at each place alone sees the same through every window.
    x = torch.randn(2, 3, 50, 4)
    starts = window_starts(50, 16, 4)
    whole = windowed([lambda x, t: x * t + 1] * len(starts), starts, 16, 50)
    assert torch.allclose(whole(x, torch.tensor(0.5)), x * 0.5 + 1, atol=1e-6)


@pytest.mark.parametrize(('total', 'length', 'overlap'), itertools.product((5, 16, 17, 40, 1000), (16,), (0, 3, 8, 15)))
def test_windows_cover_everything_and_overlap_enough(total, length, overlap):
    starts = window_starts(total, length, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(total - length, 0)
    assert all(0 < b - a <= length - overlap for a, b in itertools.pairwise(starts))
    whole = torch.zeros(max(total, length))
    for start, weight in zip(starts, fade_weights(starts, length, total), strict=True):
        assert (weight >= 0).all()
        whole[start : start + length] += weight
    assert torch.allclose(whole, torch.ones_like(whole), atol=1e-6)


def test_a_long_video_shares_its_noise_and_has_no_jump_where_windows_meet():
    model = tiny()
    video = clips(1, 32)
    video[:] = video[:, :, :1]  # a still scene: nothing but the windows could make a seam
    noise = torch.randn(1, 1, 1, 16, generator=torch.Generator().manual_seed(0)).expand(1, 1, 128, 16)
    made = model.generate(video, Sampling(steps=4, overlap=0.5), noise)
    jumps = (made[0, 0, 1:] - made[0, 0, :-1]).abs().mean(1)
    seams = [start * 4 for start in window_starts(32, 8, 4)[1:]]
    # Patches of 4 steps meet there as well, which an untrained network does not smooth.
    inside = [at for at in range(4, 128, 4) if at not in seams]
    assert jumps[[at - 1 for at in seams]].mean() <= 1.25 * jumps[[at - 1 for at in inside]].mean()


def test_mistakes_are_said_in_words():
    with pytest.raises(UserError, match='direction must be one of'):
        tiny(direction='a2a')
    with pytest.raises(UserError, match='needs a codec of the other side'):
        tiny(direction='a2v')
    with pytest.raises(UserError, match='does not divide'):
        tiny(size=[30, 16])
    with pytest.raises(UserError, match=r'model\.size is \[32, 16\]'):
        tiny().loss(clips(), torch.rand(2, 1, 31, 16))
    with pytest.raises(UserError, match='no vocoder'):
        tiny().sound(torch.rand(1, 1, 32, 16))
    with pytest.raises(UserError, match='needs a classifier'):
        tiny().generate(clips(), Sampling(alignment=1.0))
    for wrong in (dict(steps=0), dict(guidance=-1.0), dict(overlap=0.9), dict(alignment=-0.1)):
        with pytest.raises(UserError):
            Sampling(**wrong)
