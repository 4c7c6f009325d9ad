"""The sigmoid loss against the sum written out, and what the head promises."""

import math

import pytest
import torch
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.heads import SigLIPHead, clip_similarity, sigmoid_loss, unit_tokens
from gmscavp.registry import MODELS
from tests.models.builders import tiny_batch, tiny_model

CLIPS, DIM, LENGTHS = 5, 16, [4, 1]


def pyramids(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ([torch.randn(CLIPS, n, DIM, generator=generator) for n in LENGTHS] for _ in range(2))


def written_out(similarity, k, b):
    """Zhai et al. 2023, equation 1, pair by pair."""
    total = 0.0
    for i in range(len(similarity)):
        for j in range(len(similarity)):
            z = 1 if i == j else -1
            total -= math.log(1 / (1 + math.exp(-z * (k * similarity[i, j].item() + b))))
    return total / len(similarity)


def test_loss_equals_the_double_loop():
    v, a = (F.normalize(torch.randn(CLIPS, 3, DIM, dtype=torch.float64), dim=-1) for _ in range(2))
    similarity = clip_similarity(v, a)
    assert sigmoid_loss(7.0 * similarity - 3.0).item() == pytest.approx(written_out(similarity, 7.0, -3.0), rel=1e-9)


def test_orthonormal_pairs_give_the_closed_form():
    k, b = 10.0, -10.0
    loss = sigmoid_loss(k * torch.eye(CLIPS) + b)
    expected = math.log1p(math.exp(-(k + b))) + (CLIPS - 1) * math.log1p(math.exp(b))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_rows_of_several_ranks_add_up_to_the_whole():
    logits = torch.randn(6, 6)
    parts = [sigmoid_loss(logits[start : start + 2], start) for start in (0, 2, 4)]
    assert (sum(parts) / 3).item() == pytest.approx(sigmoid_loss(logits).item(), rel=1e-6)


@pytest.mark.parametrize('per_scale', [False, True])
def test_head_is_the_weighted_sum_over_scales(per_scale):
    v, a = pyramids()
    head = SigLIPHead(LENGTHS, scale_weights=[0.7, 0.3], temporal_weight=0.5, per_scale=per_scale)
    if per_scale:
        head.log_scale.data[1], head.bias.data[1] = math.log(3.0), -1.0
    settings = [(10.0, -10.0), (3.0, -1.0) if per_scale else (10.0, -10.0)]
    losses = head(v, a)
    uv, ua = unit_tokens(v), unit_tokens(a)
    semantic = sum(
        w * written_out(clip_similarity(x, y), *kb) for w, x, y, kb in zip([0.7, 0.3], uv, ua, settings, strict=True)
    )
    temporal = sum(written_out(x @ y.T, 10.0, -10.0) for x, y in zip(uv[0], ua[0], strict=True)) / CLIPS
    assert losses['loss_semantic'].item() == pytest.approx(semantic, rel=1e-4)
    assert losses['loss_temporal'].item() == pytest.approx(0.7 * 0.5 * temporal, rel=1e-4)
    assert set(losses) == {'loss_semantic', 'loss_temporal', 'logit_scale', 'logit_bias'}
    assert 'loss_temporal' not in SigLIPHead(LENGTHS)(v, a)


def test_two_steps_are_enough_to_tell_moments_apart():
    v, a = ([torch.randn(CLIPS, 2, DIM)] for _ in range(2))
    losses = SigLIPHead([2], scale_weights=[1.0], temporal_weight=1.0)(v, a)
    expected = sum(written_out(x @ y.T, 10.0, -10.0) for x, y in zip(unit_tokens(v)[0], unit_tokens(a)[0], strict=True))
    assert losses['loss_temporal'].item() == pytest.approx(expected / CLIPS, rel=1e-4)


def test_scale_and_bias_are_learned_for_every_scale():
    v, a = pyramids()
    head = SigLIPHead(LENGTHS, per_scale=True)
    assert head.log_scale.exp().tolist() == pytest.approx([10.0, 10.0])
    assert head.bias.tolist() == [-10.0, -10.0]
    head(v, a)['loss_semantic'].backward()
    assert head.log_scale.grad.abs().min() > 0
    assert head.bias.grad.abs().min() > 0
    assert SigLIPHead(LENGTHS).bias.shape == (1,)


def test_embeddings_and_their_parts_multiply_to_the_weighted_similarity():
    v, a = pyramids()
    head = SigLIPHead(LENGTHS, scale_weights=[0.7, 0.3])
    parts = [w * clip_similarity(x, y) for w, x, y in zip([0.7, 0.3], unit_tokens(v), unit_tokens(a), strict=True)]
    one, other = head.embed(v), head.embed(a)
    torch.testing.assert_close(head.similarity(one, other), sum(parts))
    for expected, x, y in zip(parts, head.split_scales(one), head.split_scales(other), strict=True):
        torch.testing.assert_close(x @ y.T, expected)


def test_half_precision_features_give_float32_logits():
    v, a = pyramids()
    head = SigLIPHead(LENGTHS)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = head(v, a)['loss_semantic']
    torch.testing.assert_close(inside, head(v, a)['loss_semantic'])


def test_wrong_number_of_scale_weights_is_said():
    with pytest.raises(UserError, match='scale_weights has 2 entries, the pyramids have 3'):
        SigLIPHead([4, 2, 1], scale_weights=[0.5, 0.5])


def test_it_brings_the_loss_of_a_whole_model_down():
    torch.manual_seed(0)
    model = MODELS.build(tiny_model(head=dict(type='SigLIPHead', temporal_weight=0.1), diffusion=None))
    batch = tiny_batch(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(40):
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        loss = sum(value for name, value in losses.items() if 'loss' in name)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(losses['loss_semantic'].item())
    assert sum(history[-5:]) < 0.8 * sum(history[:5])
