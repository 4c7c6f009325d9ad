"""Identities of the contrastive terms, and what the embedding promises."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import integers, sampled_from
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.heads import (
    ContrastiveHead,
    DenseHead,
    MultiScaleInfoNCE,
    SigLIPHead,
    clip_similarity,
    multi_scale_nce,
    semantic_nce,
    siglip,
    temporal_nce,
    unit_tokens,
)
from gmscavp.models.heads import dense as heads_dense

CLIPS, STEPS, DIM = 6, 4, 32
SCALE = torch.tensor(14.3)


def orthonormal(clips: int, steps: int) -> torch.Tensor:
    """Tokens that are all at right angles: (clips, steps, clips * steps)."""
    return torch.eye(clips * steps).reshape(clips, steps, clips * steps)


def test_orthonormal_pairs_give_the_closed_form():
    tokens = orthonormal(CLIPS, STEPS)
    k = SCALE.item()
    loss = semantic_nce(tokens, tokens, tokens, tokens, SCALE, 0)
    assert loss.item() == pytest.approx(math.log(1 + (CLIPS - 1) * math.exp(-k)), rel=1e-4, abs=1e-7)
    loss = temporal_nce(tokens, tokens, SCALE)
    assert loss.item() == pytest.approx(math.log(1 + (STEPS - 1) * math.exp(-k)), rel=1e-4, abs=1e-7)


def test_constant_features_give_log_of_the_number_of_candidates():
    tokens = F.normalize(torch.ones(CLIPS, STEPS, DIM), dim=-1)
    assert semantic_nce(tokens, tokens, tokens, tokens, SCALE, 0).item() == pytest.approx(math.log(CLIPS), rel=1e-5)
    assert temporal_nce(tokens, tokens, SCALE).item() == pytest.approx(math.log(STEPS), rel=1e-5)


def test_semantic_term_equals_the_sum_written_out():
    v, a = (F.normalize(torch.randn(CLIPS, STEPS, DIM, dtype=torch.float64), dim=-1) for _ in range(2))
    expected = 0.0
    similarity = [[sum(v[i, s] @ a[j, s] for s in range(STEPS)) / STEPS for j in range(CLIPS)] for i in range(CLIPS)]
    for i in range(CLIPS):
        row = [math.exp(SCALE * similarity[i][j]) for j in range(CLIPS)]
        column = [math.exp(SCALE * similarity[j][i]) for j in range(CLIPS)]
        expected -= (math.log(row[i] / sum(row)) + math.log(column[i] / sum(column))) / (2 * CLIPS)
    assert semantic_nce(v, a, v, a, SCALE, 0).item() == pytest.approx(expected, rel=1e-9)


def test_temporal_term_equals_the_sum_written_out():
    v, a = (F.normalize(torch.randn(CLIPS, STEPS, DIM, dtype=torch.float64), dim=-1) for _ in range(2))
    expected = 0.0
    for i in range(CLIPS):
        for s in range(STEPS):
            row = [math.exp(SCALE * (v[i, s] @ a[i, m])) for m in range(STEPS)]
            column = [math.exp(SCALE * (v[i, m] @ a[i, s])) for m in range(STEPS)]
            expected -= (math.log(row[s] / sum(row)) + math.log(column[s] / sum(column))) / (2 * CLIPS * STEPS)
    assert temporal_nce(v, a, SCALE).item() == pytest.approx(expected, rel=1e-9)


def pyramids(lengths):
    return ([torch.randn(CLIPS, n, DIM) for n in lengths] for _ in range(2))


def test_head_is_the_weighted_sum_over_scales():
    lengths, weights = [4, 2, 1], [0.5, 0.2, 0.3]
    v, a = pyramids(lengths)
    losses = MultiScaleInfoNCE(lengths, scale_weights=weights, temporal_weight=0.7)(v, a)
    k = torch.tensor(1 / 0.07)
    uv, ua = unit_tokens(v), unit_tokens(a)
    semantic = sum(w * semantic_nce(x, y, x, y, k, 0) for w, x, y in zip(weights, uv, ua, strict=True))
    temporal = sum(w * 0.7 * temporal_nce(x, y, k) for w, x, y in zip(weights[:2], uv[:2], ua[:2], strict=True))
    assert losses['loss_semantic'].item() == pytest.approx(semantic.item(), rel=1e-5)
    assert losses['loss_temporal'].item() == pytest.approx(temporal.item(), rel=1e-5)
    assert set(losses) == {'loss_semantic', 'loss_temporal', 'logit_scale'}


def test_inner_product_of_embeddings_is_the_weighted_multi_scale_similarity():
    lengths, weights = [4, 2, 1], [0.5, 0.2, 0.3]
    v, a = pyramids(lengths)
    head = MultiScaleInfoNCE(lengths, scale_weights=weights)
    expected = sum(w * clip_similarity(x, y) for w, x, y in zip(weights, unit_tokens(v), unit_tokens(a), strict=True))
    torch.testing.assert_close(head.embed(v) @ head.embed(a).T, expected)


def test_parts_of_the_embedding_belong_to_the_scales():
    lengths, weights = [4, 2, 1], [0.5, 0.2, 0.3]
    v, a = pyramids(lengths)
    head = MultiScaleInfoNCE(lengths, scale_weights=weights)
    parts = zip(*(head.split_scales(head.embed(x)) for x in (v, a)), strict=True)
    scales = zip(weights, unit_tokens(v), unit_tokens(a), strict=True)
    for (one, other), (weight, x, y) in zip(parts, scales, strict=True):
        torch.testing.assert_close(one @ other.T, weight * clip_similarity(x, y))
    torch.testing.assert_close(head.similarity(head.embed(v), head.embed(a)), head.embed(v) @ head.embed(a).T)


def test_a_head_without_scales_has_one_part():
    class Plain(ContrastiveHead):
        def forward(self, video, audio, segments=1):
            return {}

        def embed(self, pyramid):
            return pyramid[0][:, 0]

    head = Plain()
    v, a = (head.embed(p) for p in pyramids([1]))
    assert head.split_scales(v)[0] is v
    torch.testing.assert_close(head.similarity(v[:2], a), v[:2] @ a.T)


def test_logit_scale_is_learned_and_clamped():
    v, a = pyramids([2, 1])
    head = MultiScaleInfoNCE([2, 1], per_scale=True)
    sum(value for name, value in head(v, a).items() if 'loss' in name).backward()
    assert head.log_scale.grad.abs().min() > 0
    with torch.no_grad():
        head.log_scale.fill_(50.0)
    torch.testing.assert_close(head.logit_scales(), torch.full((2,), 100.0))


def test_half_precision_features_give_float32_logits():
    v, a = pyramids([4, 1])
    head = MultiScaleInfoNCE([4, 1])
    exact = head(v, a)['loss_semantic']
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = head(v, a)['loss_semantic']
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, exact)


def test_wrong_number_of_scale_weights_is_said():
    with pytest.raises(UserError, match='scale_weights has 2 entries, the pyramids have 3'):
        MultiScaleInfoNCE([4, 2, 1], scale_weights=[0.5, 0.5])


@given(integers(1, 4), integers(1, 4), integers(1, 3), sampled_from([1, 2]), integers(0, 2**31))
def test_terms_of_any_ranks_are_in_the_mean_that_of_all_rows(ranks, own, steps, ignore_within, seed):
    own *= ignore_within
    generator = torch.Generator().manual_seed(seed)
    shape = (ranks * own, steps, 5)
    v, a = (F.normalize(torch.randn(shape, generator=generator), dim=-1) for _ in range(2))
    parts = [slice(start, start + own) for start in range(0, ranks * own, own)]
    each = [semantic_nce(v[p], a[p], v, a, SCALE, p.start, ignore_within) for p in parts]
    whole = semantic_nce(v, a, v, a, SCALE, 0, ignore_within)
    assert torch.stack(each).mean().item() == pytest.approx(whole.item(), rel=1e-5, abs=1e-6)
    # By the definition: rows of one video are no candidates of each other.
    logits = SCALE * torch.einsum('ild,jld->ij', v, a) / steps
    rows = torch.arange(len(v))
    out = (rows[:, None] // ignore_within == rows // ignore_within) & (rows[:, None] != rows)
    expected = sum(-x.masked_fill(out, -math.inf).log_softmax(dim=1).diagonal().mean() for x in (logits, logits.T)) / 2
    assert whole.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


def test_what_is_not_said_is_as_in_the_papers():
    v, a = pyramids([3, 1])
    nce = dict(temporal_weight=0.1, init_scale=1 / 0.07, max_scale=100.0, per_scale=False, segment_weight=0.0)
    said = MultiScaleInfoNCE([3, 1], [0.5, 0.5], **nce, same_video='negative')(v, a, 2)
    silent = MultiScaleInfoNCE([3, 1])
    assert silent(v, a, 2) == said
    assert silent.log_scale.shape == (1,)
    assert silent.logit_scales().tolist() == pytest.approx([1 / 0.07] * 2)
    siglip = SigLIPHead([3, 1])
    said = SigLIPHead([3, 1], [0.5, 0.5], temporal_weight=0.0, init_scale=10.0, init_bias=-10.0, per_scale=False)
    assert siglip(v, a) == said(v, a)
    assert siglip(v, a)['logit_scale'].item() == pytest.approx(10)
    assert siglip(v, a)['logit_bias'].item() == -10
    dense = DenseHead([3])
    dense.log_scale.data.fill_(math.log(99.0))
    tokens = torch.randn(CLIPS, 3, 1, DIM)
    assert dense([tokens], [tokens])['logit_scale'].item() == pytest.approx(99)


def test_terms_are_there_where_there_is_something_to_contrast():
    for lengths, temporal in (([1, 1], False), ([2, 1], True)):
        v, a = pyramids(lengths)
        for head in (MultiScaleInfoNCE(lengths, segment_weight=1.0), SigLIPHead(lengths, temporal_weight=1.0)):
            assert ('loss_temporal' in head(v, a)) == temporal
            assert 'loss_segment' not in head(v, a)
        assert 'loss_segment' in MultiScaleInfoNCE(lengths, segment_weight=1.0)(v, a, 2)


@pytest.mark.parametrize('way', [{}, dict(tile=2)])
def test_every_term_counts_by_the_rows_of_its_rank(monkeypatch, way):
    v, a = pyramids([4, 1])
    heads = [MultiScaleInfoNCE([4, 1], segment_weight=1.0, **way), SigLIPHead([4, 1], temporal_weight=1.0, **way)]
    dense, tokens = DenseHead([4]), [[x[0][:, :, None]] for x in (v, a)]
    whole = [head(v, a, 2) for head in heads] + [dense(*tokens)]
    for module in (multi_scale_nce, siglip, heads_dense):
        monkeypatch.setattr(module, 'share_of_rank', lambda _sizes: 0.25)
    for before, after in zip(whole, [*(head(v, a, 2) for head in heads), dense(*tokens)], strict=True):
        for name in before:
            # Tiles know the sizes of all ranks themselves.
            share = 1 if 'loss' not in name or (way and name == 'loss_semantic' and len(before) > 2) else 0.25
            assert after[name].item() == pytest.approx(share * before[name].item(), rel=1e-6)
