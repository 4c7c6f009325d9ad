"""Tiles must give the dense losses and gradients, at any tile size, and hold nothing of the size of all pairs."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis.strategies import floats, integers, lists, none, sampled_from
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models import tiled_contrast
from gmscavp.models.heads import MultiScaleInfoNCE, SigLIPHead, semantic_nce, sigmoid_loss
from gmscavp.models.tiled_contrast import tiled_nce, tiled_sigmoid
from tests.largest import Largest

CLIPS, DIM, LENGTHS = 30, 24, [4, 2, 1]
NCE = dict(scale_weights=[0.5, 0.2, 0.3], temporal_weight=0.4, per_scale=True)
HEADS = {
    'nce': (MultiScaleInfoNCE, NCE, 1),
    'ignore': (MultiScaleInfoNCE, NCE | dict(same_video='ignore', segment_weight=0.3), 3),
    'nce alone': (MultiScaleInfoNCE, dict(temporal_weight=0.0), 1),
    'siglip alone': (SigLIPHead, dict(init_bias=-3.0), 1),
    'siglip': (SigLIPHead, dict(scale_weights=[0.5, 0.2, 0.3], temporal_weight=0.4, per_scale=True), 1),
}


def pyramids(clips=CLIPS, noise=2.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    video = [torch.randn(clips, n, DIM, generator=generator) for n in LENGTHS]
    audio = [x + noise * torch.randn(x.shape, generator=generator) for x in video]
    return [[x.to(dtype) for x in side] for side in (video, audio)]


def run(name, sides, log_scale=1.5, **way):
    """Every logged value and every gradient of a head: tokens of both sides, then parameters."""
    kind, settings, segments = HEADS[name]
    head = kind(LENGTHS, **settings, **way)
    with torch.no_grad():
        head.log_scale.copy_(log_scale + torch.arange(len(head.log_scale)) / 10)
    video, audio = ([x.clone().requires_grad_() for x in side] for side in sides)
    losses = head(video, audio, segments)
    # Not all terms alike, so that the gradient of each is seen.
    sum((2 + index) * value for index, value in enumerate(losses.values()) if value.requires_grad).backward()
    return losses, [x.grad for x in [*video, *audio, *head.parameters()]]


def assert_equal(found, expected, rel=1e-6):
    (losses, gradients), (dense_losses, dense_gradients) = found, expected
    assert losses.keys() == dense_losses.keys()
    for term, value in losses.items():
        assert value.item() == pytest.approx(dense_losses[term].item(), rel=rel), term
    for index, (one, other) in enumerate(zip(gradients, dense_gradients, strict=True)):
        assert one.dtype == other.dtype
        assert (one.double() - other.double()).norm() <= rel * other.double().norm(), index


@pytest.mark.parametrize('name', HEADS)
def test_tiles_of_any_size_give_the_dense_loss_and_gradient(name):
    sides = pyramids()
    dense = run(name, sides)
    for way in (dict(tile=1), dict(tile=7), dict(tile=8), dict(tile=30), dict(tile=999), dict(gather='ring')):
        assert_equal(run(name, sides, **way), dense)


@pytest.mark.parametrize('name', ['nce', 'ignore', 'siglip'])
def test_a_logit_scale_of_a_hundred_neither_overflows_nor_loses_the_far_pairs(name):
    # exp(100) is more than float32 holds; unalike pairs, so that the loss is large.
    sides = pyramids(noise=50.0)
    assert_equal(run(name, sides, log_scale=4.4, tile=7), run(name, sides, log_scale=4.4), rel=3e-6)


def test_where_the_task_is_solved_tiles_are_no_further_from_the_truth_than_the_dense_loss():
    """There the gradient is a small difference, which float32 itself blurs; float64 says what it is."""
    kind, settings, _ = HEADS['nce']

    def gradient(way, dtype):
        # The heads compute in float32, so the truth is written out.
        video, audio = ([x.to(dtype).requires_grad_() for x in side] for side in pyramids(noise=0.3))
        if dtype == torch.float64:
            loss = 0
            for w, *sides in zip(settings['scale_weights'], video, audio, strict=True):
                v, a = (F.normalize(x, dim=-1).flatten(1) for x in sides)
                logits, right = 10 * v @ a.T * (DIM / a.shape[1]), torch.arange(CLIPS)
                loss = loss + w * sum(F.cross_entropy(x, right) for x in (logits, logits.T)) / 2
        else:
            head = kind(LENGTHS, **settings | dict(temporal_weight=0.0), init_scale=10.0, **way)
            loss = head(video, audio)['loss_semantic']
        loss.backward()
        return torch.cat([x.grad.double().flatten() for x in video + audio])

    truth = gradient({}, torch.float64)
    dense, tiled = ((gradient(way, torch.float32) - truth).norm() for way in ({}, dict(tile=7)))
    assert dense <= 1e-4 * truth.norm()
    assert tiled <= 1.5 * dense + 1e-6 * truth.norm()


@pytest.mark.parametrize('name', ['nce alone', 'siglip alone'])
def test_half_precision_tokens_and_autocast_give_float32_logits(name):
    sides = pyramids(dtype=torch.bfloat16)
    dense, plain = run(name, sides), run(name, sides, tile=7)
    # The gradient of a bfloat16 token is rounded to it.
    assert_equal(plain, dense, rel=1e-3)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = run(name, sides, tile=7)
    assert inside[0]['loss_semantic'].dtype == torch.float32
    assert inside[0]['loss_semantic'].item() == pytest.approx(dense[0]['loss_semantic'].item(), rel=1e-6)
    assert_equal(inside, plain, rel=1e-6)


@pytest.mark.parametrize('name', ['nce', 'ignore', 'siglip'])
def test_nothing_of_the_size_of_all_pairs_is_ever_made(name):
    clips = 300
    sides = pyramids(clips)
    with Largest() as dense:
        run(name, sides)
    assert dense.numbers >= clips**2
    with Largest() as tiled:
        run(name, sides, tile=16)
    # The tokens of the finest scale themselves.
    assert tiled.numbers <= clips * LENGTHS[0] * max(DIM, LENGTHS[0]) < clips**2


@pytest.mark.parametrize('kind', [MultiScaleInfoNCE, SigLIPHead])
@pytest.mark.parametrize('setting', [dict(tile=0), dict(tile=2.5), dict(tile=True), dict(gather='some')])
def test_settings_that_cannot_be_followed_are_said(kind, setting):
    with pytest.raises(UserError, match=r'head: (tile must be a number|gather must be one of all, ring)'):
        kind(LENGTHS, **setting)


@given(
    name=sampled_from(['nce', 'ignore', 'siglip']),
    clips=integers(1, 7),
    lengths=lists(integers(1, 4), min_size=1, max_size=3),
    dim=integers(1, 9),
    tile=none() | integers(1, 24),
    log_scale=floats(-2, 4),
    seed=integers(0, 2**31),
)
def test_any_shape_in_any_tiles_gives_the_dense_loss_and_gradient(name, clips, lengths, dim, tile, log_scale, seed):
    kind, settings, segments = HEADS[name]
    settings = {key: value for key, value in settings.items() if key != 'scale_weights'}
    generator = torch.Generator().manual_seed(seed)
    sides = [[torch.randn(clips * segments, n, dim, generator=generator) for n in lengths] for _ in range(2)]
    found = []
    for way in ({}, dict(tile=tile, gather='all' if tile else 'ring')):
        head = kind(lengths, **settings, **way)
        with torch.no_grad():
            head.log_scale.fill_(log_scale)
        video, audio = ([x.clone().requires_grad_() for x in side] for side in sides)
        losses = head(video, audio, segments)
        losses['loss_semantic'].backward()
        found.append((losses['loss_semantic'].item(), [x.grad for x in [*video, *audio, *head.parameters()]]))
    (loss, gradients), (tiled_loss, tiled_gradients) = found
    assert tiled_loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
    for one, other in zip(tiled_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * (1 + math.exp(log_scale)))


@given(
    sizes=lists(integers(1, 6), min_size=1, max_size=4),
    tile=none() | integers(1, 8),
    ignore_within=integers(1, 3),
    seed=integers(0, 2**31),
)
@example(sizes=[2, 3], tile=3, ignore_within=2, seed=0)
def test_tiles_of_all_ranks_are_the_whole_matrix_each_pair_once(sizes, tile, ignore_within, seed):
    sizes = [size * ignore_within for size in sizes]
    clips, factors = sum(sizes), torch.tensor([0.5, 3.0])
    generator = torch.Generator().manual_seed(seed)
    video, audio = ([torch.randn(clips, 4, generator=generator) for _ in factors] for _ in range(2))
    rows = torch.arange(clips)
    out = (rows[:, None] // ignore_within == rows // ignore_within) & (rows[:, None] != rows)
    expected = torch.stack([f * v @ a.T for f, v, a in zip(factors, video, audio, strict=True)])
    expected = expected.masked_fill(out, torch.finfo(torch.float32).min)
    found, times, right = torch.zeros_like(expected), torch.zeros(2, clips, clips), torch.zeros(2, clips)
    starts = [sum(sizes[:rank]) for rank in range(len(sizes))]
    with pytest.MonkeyPatch.context() as patch:
        for rank, start in enumerate(starts):
            patch.setattr(tiled_contrast, 'world', lambda rank=rank: (rank, len(sizes)))
            plan = tiled_contrast._Plan(sizes, tile, False, ignore_within)
            assert plan.own == slice(start, start + sizes[rank])
            own = [v[plan.own] for v in video]
            for owner, first in enumerate(starts):
                block = [a[first : first + sizes[owner]] for a in audio]
                for t in plan.tiles(own, block, owner, factors):
                    assert t.logits.shape == own[t.s][t.i].shape[:1] + block[t.s][t.j].shape[:1]
                    assert max(t.logits.shape) <= (tile or max(sizes))
                    place = t.s, slice(start + t.i.start, start + t.i.stop), t.column
                    found[place], times[place] = t.logits, times[place] + 1
                    if t.right:
                        right[t.s, place[1]] += 1
                        torch.testing.assert_close(t.logits.diagonal(), expected[t.s].diagonal()[place[1]])
            # The mean over ranks is the mean over rows.
            assert plan.share == pytest.approx(len(sizes) / clips)
    assert (times == 1).all()
    assert (right == 1).all()
    torch.testing.assert_close(found, expected)


def test_tiles_of_one_scale_without_settings_are_the_dense_terms():
    generator = torch.Generator().manual_seed(0)
    v, a = (F.normalize(torch.randn(6, 1, 8, generator=generator), dim=-1) for _ in range(2))
    scale, sides = torch.tensor([7.0]), ([v.flatten(1)], [a.flatten(1)])
    torch.testing.assert_close(tiled_nce(*sides, scale)[0], semantic_nce(v, a, v, a, scale, 0))
    logits = 7 * sides[0][0] @ sides[1][0].T - 2
    torch.testing.assert_close(tiled_sigmoid(*sides, scale, torch.tensor([-2.0]))[0], sigmoid_loss(logits))
