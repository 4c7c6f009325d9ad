"""Attention and embeddings against their definitions."""

import itertools
import math

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models import layers
from gmscavp.models.layers import Attention, Rotation, attend, sinusoid


def plain_attention(query, key, value, mask=None):
    out = torch.empty_like(query)
    for b in range(query.shape[0]):
        for h in range(query.shape[2]):
            logits = query[b, :, h] @ key[b, :, h].T / math.sqrt(query.shape[-1])
            if mask is not None:
                logits = logits.masked_fill(~mask, -math.inf)
            out[b, :, h] = logits.softmax(-1) @ value[b, :, h]
    return out


@pytest.mark.parametrize('masked', [False, True])
def test_attention_is_the_softmax_average(masked):
    query, key, value = torch.randn(2, 5, 3, 8), torch.randn(2, 7, 3, 8), torch.randn(2, 7, 3, 8)
    mask = torch.rand(5, 7) < 0.6 if masked else None
    if masked:
        mask[:, 0] = True
    torch.testing.assert_close(attend(query, key, value, mask), plain_attention(query, key, value, mask))


def test_xformers_is_used_on_cuda_alone_and_never_with_a_mask(monkeypatch):
    """A stand-in for the library, which has no CPU kernel."""
    calls = []

    def memory_efficient_attention(query, key, value):
        calls.append(query.shape)
        return query

    class OnCuda(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(layers, 'memory_efficient_attention', memory_efficient_attention)
    x = torch.randn(1, 4, 2, 8)
    attend(x, x, x)
    assert not calls
    gpu = x.as_subclass(OnCuda)
    attend(gpu, x, x)
    assert calls == [(1, 4, 2, 8)]
    attend(gpu, x, x, torch.ones(4, 4, dtype=torch.bool))
    assert len(calls) == 1


def test_self_attention_does_not_depend_on_the_order_of_tokens():
    attention = Attention(16, 4)
    tokens, order = torch.randn(2, 6, 16), torch.randperm(6)
    torch.testing.assert_close(attention(tokens)[:, order], attention(tokens[:, order]))


def test_cross_attention_takes_sources_of_another_width():
    assert Attention(16, 4, source_dim=10)(torch.randn(2, 3, 16), torch.randn(2, 5, 10)).shape == (2, 3, 16)


def test_sinusoids_tell_near_and_far_places_apart():
    places = torch.linspace(0, 1, 65)
    code = sinusoid(places, 64)
    assert code.shape == (65, 64)
    norm = code.norm(dim=1)
    torch.testing.assert_close(norm, torch.full_like(norm, math.sqrt(32)))
    likeness = code @ code.T / 32
    assert (likeness.diagonal(1) < 0.97).all()
    assert likeness[0, 1] > likeness[0, 4] > likeness[0, 64]


@pytest.mark.parametrize('grid', [[7], [4, 3], [3, 2, 4]])
def test_rotary_positions_tell_only_how_far_apart_tokens_are(grid):
    rotation = Rotation(grid, 16)
    query, key = torch.randn(2, 16)
    count = math.prod(grid)
    turned = [rotation(x.expand(1, count, 1, 16))[0, :, 0] for x in (query, key)]
    products = turned[0] @ turned[1].T
    places = torch.cartesian_prod(*(torch.arange(n) for n in grid)).view(count, -1)
    found = {}
    for a, b in itertools.product(range(count), repeat=2):
        apart = tuple((places[a] - places[b]).tolist())
        assert torch.allclose(products[a, b], found.setdefault(apart, products[a, b]), atol=1e-4)
    # Places apart are told apart along every axis, and lengths stay.
    assert len({round(float(x), 4) for x in found.values()}) > len(found) // 2
    assert torch.allclose(turned[0].norm(dim=1), query.norm().expand(count), atol=1e-4)


def test_rotary_positions_need_a_pair_for_every_axis():
    with pytest.raises(UserError, match='even width'):
        Rotation([2, 2, 2], 4)
