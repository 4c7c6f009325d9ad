"""The diffusion objective: what it teaches, what must not collapse, and what its samples and errors promise."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.denoisers import Denoiser, TokenTransformer
from gmscavp.models.diffusion import (
    DIRECTIONS,
    MultiScaleDiffusion,
    RunningScale,
    audio_latents,
    detail_of,
    video_latents,
)
from gmscavp.registry import MODELS
from tests.models.builders import LENGTHS, tiny_batch, tiny_model

DIM = 8


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def losses_of(model, batch):
    return model(**model.data_preprocessor(batch, True), mode='loss')


def diffusion_of(kind=MultiScaleDiffusion, lengths=(1,), **changes):
    settings = dict(scheduler=dict(type='RectifiedFlow'), denoiser=dict(type=Perceptron), target='embedding')
    return kind(list(lengths), DIM, **settings | changes)


class Perceptron(Denoiser):
    """All tokens, the level and the condition side by side through two layers."""

    def __init__(self, lengths, channels, condition_lengths, condition_dim):
        super().__init__()
        self.shapes = list(zip(lengths, channels, strict=True))
        width = sum(n * c for n, c in self.shapes)
        known = width + 1 + sum(condition_lengths) * condition_dim
        self.layers = nn.Sequential(nn.Linear(known, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x, t, condition, keep=None):
        flat = torch.cat([*(part.flatten(1) for part in (*x, *condition)), t[:, None]], dim=1)
        parts = self.layers(flat).split([n * c for n, c in self.shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]


@pytest.mark.parametrize('direction', DIRECTIONS)
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


class Unstopped(MultiScaleDiffusion):
    """The mistake: the gradient of the target goes on."""

    def _clean(self, direction, video, mel, tokens):
        return tokens


def sameness_after_training(kind):
    """Length of the mean of the clips' unit tokens, of either side: 1 where all clips have one token."""
    x = torch.randn(32, 6)
    encoders = nn.ModuleList(nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, DIM)) for _ in DIRECTIONS)
    diffusion = diffusion_of(kind)
    optimizer = torch.optim.AdamW([*encoders.parameters(), *diffusion.parameters()], lr=1e-2)
    for _ in range(80):
        v, a = (encoder(x)[:, None] for encoder in encoders)
        losses = diffusion(x, x, [v], [a])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return [F.normalize(encoder(x), dim=-1).mean(0).norm().item() for encoder in encoders]


def test_targets_collapse_without_the_stop_and_not_with_it():
    assert min(sameness_after_training(Unstopped)) > 0.95
    assert max(sameness_after_training(MultiScaleDiffusion)) < 0.7


def test_halves_of_the_batch_are_disjoint_and_leave_no_clip_out():
    seen = {}

    class Watching(MultiScaleDiffusion):
        def denoising_loss(self, direction, x0, condition):
            seen[direction] = (x0[0][:, 0, 0], condition[0][:, 0, 0])
            return super().denoising_loss(direction, x0, condition)

    for clips in (6, 7):
        v, a = torch.randn(clips, 1, DIM), torch.randn(clips, 1, DIM)
        diffusion_of(Watching, half_batch=True)(torch.zeros(clips), torch.zeros(clips), [v], [a])
        unit_v, unit_a = (F.normalize(x, dim=-1)[:, 0, 0] * DIM**0.5 for x in (v, a))
        (audio, of_video), (video, of_audio) = seen['v2a'], seen['a2v']
        torch.testing.assert_close(torch.cat([audio, of_audio]), unit_a)
        torch.testing.assert_close(torch.cat([of_video, video]), unit_v)
        assert abs(len(audio) - len(video)) <= 1


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


class Knowing(Denoiser):
    """Predicts the flow towards the condition itself: a denoiser that has learnt that both sides are equal."""

    def __init__(self, lengths, channels, condition_lengths, condition_dim):
        super().__init__()

    def forward(self, x, t, condition, keep=None):
        return [(noisy - clean) / t[:, None, None].clamp(min=1e-4) for noisy, clean in zip(x, condition, strict=True)]


def unit(pyramid):
    return [F.normalize(x, dim=-1) for x in pyramid]


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('sampler', [dict(type='DDIM'), dict(type='DDIM', eta=1.0)])
def test_translation_reaches_what_the_denoiser_knows(direction, sampler):
    diffusion = diffusion_of(lengths=(2, 1), denoiser=dict(type=Knowing), sampler=sampler)
    tokens = [torch.randn(5, n, DIM) for n in (2, 1)]
    translated = diffusion.translate(direction, tokens, steps=6, samples=2)
    for x, y in zip(unit(translated), unit(tokens), strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=0)


def test_translation_is_repeatable_and_the_same_in_any_batch():
    diffusion = diffusion_of(lengths=(2, 1))
    tokens = [torch.randn(5, n, DIM) for n in (2, 1)]
    state = torch.get_rng_state()
    whole = diffusion.translate('v2a', tokens, steps=4, samples=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state), 'asking for a translation must not change a run'
    alone = diffusion.translate('v2a', [x[3:4] for x in tokens], steps=4, samples=3, seed=1)
    other = diffusion.translate('v2a', tokens, steps=4, samples=3, seed=2)
    for x, y, z in zip(whole, alone, other, strict=True):
        torch.testing.assert_close(x[3:4], y)
        assert not torch.allclose(x, z)


def test_translation_is_the_mean_of_its_samples():
    """Of many draws the mean comes nearer to that of as many others."""
    diffusion = diffusion_of()
    tokens = [torch.randn(4, 1, DIM)]

    def distance(samples):
        one, other = (diffusion.translate('v2a', tokens, 5, samples, seed)[0] for seed in (0, 1))
        return (one - other).norm()

    assert distance(64) < 0.4 * distance(1)


def test_latents_are_translated_to_their_own_shape():
    diffusion = MODELS.build(tiny_model()).diffusion
    tokens = [torch.randn(2, n, 16) for n in LENGTHS]
    assert [x.shape for x in diffusion.translate('v2a', tokens, steps=2)] == [(2, n, 4) for n in LENGTHS]
    assert [x.shape for x in diffusion.translate('a2v', tokens, steps=2)] == [(2, n, 12) for n in LENGTHS]


@pytest.mark.parametrize('scheduler', ['RectifiedFlow', 'ScaledLinearDDPM'])
def test_matching_error_is_least_for_the_right_candidate(scheduler):
    """A denoiser trained for a while on pairs v = a knows which candidate belongs to a condition."""
    diffusion = diffusion_of(scheduler=dict(type=scheduler), null_prob=0.0)
    optimizer = torch.optim.AdamW(diffusion.parameters(), lr=5e-3)
    for _ in range(200):
        x = torch.randn(64, 1, DIM)
        loss = sum(diffusion(x, x, [x], [x]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(20, 1, DIM)
    query, candidate = x.repeat_interleave(20, 0), x.repeat(20, 1, 1)
    for direction in DIRECTIONS:
        error = diffusion.matching_error(direction, [candidate], [query]).view(20, 20)
        assert (error.argmin(1) == torch.arange(20)).float().mean() >= 0.8


def test_matching_error_does_not_depend_on_the_company():
    diffusion = diffusion_of(lengths=(2, 1))
    x0, condition = ([torch.randn(6, n, DIM) for n in (2, 1)] for _ in range(2))
    whole = diffusion.matching_error('a2v', x0, condition, times=3, seed=5)
    alone = diffusion.matching_error('a2v', [x[4:] for x in x0], [x[4:] for x in condition], times=3, seed=5)
    assert whole.shape == (6,)
    torch.testing.assert_close(whole[4:], alone)
    # Tokens are compared by direction alone, as alignment does.
    longer = diffusion.matching_error('a2v', [3 * x for x in x0], condition, times=3, seed=5)
    torch.testing.assert_close(whole, longer)


def embedding_model(**changes):
    cfg = tiny_model(**changes)
    cfg['diffusion'] |= dict(target='embedding', half_batch=True)
    return MODELS.build(cfg).eval()


def test_queries_mix_the_translation_in():
    model = embedding_model(translation=dict(weight=0.25, samples=2, steps=3, seed=4))
    batch = model.data_preprocessor(tiny_batch(3))
    with torch.no_grad():
        predictions = model(**batch, mode='predict')
        v, a = model.encode_video(batch['video']), model.encode_audio(batch['mel'])
        heard = model.head.embed(model.diffusion.translate('v2a', v, steps=3, samples=2, seed=4))
        seen = model.head.embed(model.diffusion.translate('a2v', a, steps=3, samples=2, seed=4))
    for side, tokens, translated in (('video', v, heard), ('audio', a, seen)):
        query = torch.stack([p[f'{side}_query'] for p in predictions])
        torch.testing.assert_close(query, 0.75 * model.head.embed(tokens) + 0.25 * translated)
    # A gallery's plain embedding then gives the mixed similarity.
    gallery = torch.stack([p['audio_embedding'] for p in predictions])
    mixed = 0.75 * model.head.embed(v) @ gallery.T + 0.25 * heard @ gallery.T
    torch.testing.assert_close(torch.stack([p['video_query'] for p in predictions]) @ gallery.T, mixed)


def test_predictions_carry_tokens_for_reranking_when_asked():
    model = embedding_model(rerank=dict(top=2, times=3))
    batch = model.data_preprocessor(tiny_batch(3))
    with torch.no_grad():
        predictions = model(**batch, mode='predict')
        expected = model.encode_audio(batch['mel'])
    assert 'video_query' not in predictions[0]
    assert [x.shape for x in predictions[1]['video_tokens']] == [(n, 16) for n in LENGTHS]
    audio = [torch.stack(scale) for scale in zip(*(p['audio_tokens'] for p in predictions), strict=True)]
    for x, y in zip(audio, expected, strict=True):
        torch.testing.assert_close(x, y)
    video = [torch.stack(scale) for scale in zip(*(p['video_tokens'] for p in predictions), strict=True)]
    error = model.matching_error('v2a', video, audio)
    torch.testing.assert_close(error, model.diffusion.matching_error('v2a', audio, video, times=3))


@pytest.mark.parametrize('name', ['translation', 'rerank'])
def test_translation_and_reranking_say_what_they_need(name):
    for diffusion in (None, tiny_model()['diffusion']):
        with pytest.raises(UserError, match=f"{name} needs diffusion with target='embedding' in both directions"):
            MODELS.build(tiny_model(diffusion=diffusion, **{name: {}}))
        off = dict(weight=0) if name == 'translation' else dict(top=0)
        assert getattr(MODELS.build(tiny_model(diffusion=diffusion, **{name: off})), name) is None
    with pytest.raises(UserError, match=f'{name} has no setting'):
        embedding_model(**{name: dict(wieght=1)})
    with pytest.raises(UserError, match=name):
        embedding_model(**{name: dict(weight=2.0) if name == 'translation' else dict(top=-1)})
    with pytest.raises(UserError, match='matching_error needs diffusion'):
        MODELS.build(tiny_model()).matching_error('v2a', [], [])


def test_detail_takes_what_lasts_out_of_fine_scales_alone():
    lasting = torch.randn(3, 1, 5)
    latents = [torch.randn(3, 4, 5), torch.randn(3, 1, 5)]
    fine, coarse = detail_of([x + lasting for x in latents])
    plain, _ = detail_of(latents)
    torch.testing.assert_close(fine, plain)
    torch.testing.assert_close(coarse, latents[1] + lasting)


def test_running_scale_standardises_and_stands_still_in_evaluation():
    scale = RunningScale(2)
    batches = [[5 + 3 * torch.randn(64, 4, 2), -1 + 0.1 * torch.randn(64, 1, 2)] for _ in range(200)]
    for batch in batches:
        out = scale(batch)
    for x in out:
        assert x.mean().abs() < 0.3
        assert 0.8 < x.std() < 1.2
    before = {name: value.clone() for name, value in scale.state_dict().items()}
    scale.eval()(batches[0])
    torch.testing.assert_close(scale.state_dict(), before)


def test_an_aligned_denoiser_hears_of_a_moment_from_its_own_token():
    """Without attention to the condition the token of the same scale and step is all that can be told."""
    settings = dict(type='TokenTransformer', width=8, depth=1, heads=1, aligned=True)
    diffusion = diffusion_of(lengths=(4, 1), denoiser=settings)
    denoiser = diffusion.denoisers['v2a']
    for block in denoiser.blocks:
        for attention in (block.self_attention, block.cross_attention):
            torch.nn.init.zeros_(attention.out.weight)
    x = [torch.randn(1, length, DIM) for length in (4, 1)]
    condition = [torch.randn(1, length, DIM) for length in (4, 1)]
    other = [part.clone() for part in condition]
    other[0][:, 2] += 1
    told = [denoiser(x, torch.ones(1), tokens)[0] for tokens in (condition, other)]
    changed = (told[0] - told[1]).abs().amax(dim=(0, 2)) > 1e-6
    assert changed.tolist() == [False, False, True, False]
    silent = [denoiser(x, torch.ones(1), tokens, torch.tensor([False]))[0] for tokens in (condition, other)]
    torch.testing.assert_close(*silent)


def test_an_aligned_denoiser_refuses_a_condition_of_other_lengths():
    with pytest.raises(UserError, match='same lengths'):
        TokenTransformer([4, 1], [3, 3], [2, 1], 8, aligned=True)


def test_the_denoiser_sees_what_the_noise_scheduler_scales():
    """EDM's noise reaches 80 times the signal; a network is to see about unit variance (Karras et al. 2022, c_in)."""
    seen = []

    class Watching(Perceptron):
        def forward(self, x, t, condition, keep=None):
            seen.append(torch.cat([part.flatten() for part in x]).std().item())
            return super().forward(x, t, condition, keep)

    edm = dict(type='EDM', prediction='edm')
    diffusion = diffusion_of(scheduler=edm, denoiser=dict(type=Watching))
    tokens = [torch.randn(256, 1, DIM)]
    diffusion.denoising_loss('v2a', tokens, tokens)
    sampled = diffusion.translate('v2a', tokens, steps=5)
    assert all(0.5 < deviation < 2 for deviation in seen)
    assert torch.isfinite(sampled[0]).all()
