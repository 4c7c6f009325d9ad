"""What every pyramid promises: shapes, time that lines up, and errors that say what to change."""

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models.pyramids import ConvPyramid, PoolingPyramid, SingleScale
from gmscavp.models.pyramids.base import pool_places, pool_time

LENGTHS = [8, 4, 2, 1]


@pytest.mark.parametrize('kind', [ConvPyramid, PoolingPyramid])
@pytest.mark.parametrize(('places', 'cells'), [('image', 16), ('bands', 8)])
@pytest.mark.parametrize('steps', [8, 13, 32])
def test_shapes(kind, places, cells, steps):
    pyramid = kind([7, 24], dim=10, lengths=LENGTHS, places=places, grids=[1, 2])
    features = [torch.randn(3, steps, cells * 4, 7), torch.randn(3, steps, cells, 24)]
    assert [tuple(tokens.shape) for tokens in pyramid(features)] == [(3, length, 10) for length in LENGTHS]


def test_token_l_depends_only_on_its_part_of_the_clip():
    pyramid = PoolingPyramid([24], dim=10, lengths=LENGTHS, places='image', detail=False)
    features = torch.randn(1, 32, 16, 24, requires_grad=True)
    for tokens, length in zip(pyramid([features]), LENGTHS, strict=True):
        for step in range(length):
            grad = torch.autograd.grad(tokens[0, step].sum(), features, retain_graph=True)[0]
            touched = grad[0].abs().sum(dim=(1, 2)).nonzero().flatten()
            width = 32 // length
            assert touched.tolist() == list(range(step * width, (step + 1) * width))


@pytest.mark.parametrize('kind', [ConvPyramid, PoolingPyramid])
def test_fine_tokens_hold_only_what_changes(kind):
    pyramid = kind([24], dim=10, lengths=LENGTHS, places='image')
    still = torch.randn(1, 1, 16, 24).expand(1, 32, 16, 24)
    *fine, coarsest = pyramid([still])
    if kind is PoolingPyramid:  # convolutions see the clip's ends
        for tokens in fine:
            torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens))
        moving = still + torch.sin(torch.arange(32.0))[None, :, None, None]
        plus_constant = moving + 3 * torch.randn(1, 1, 16, 24)
        for one, other in zip(pyramid([moving])[:-1], pyramid([plus_constant])[:-1], strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(coarsest, pyramid([still + torch.randn(1, 1, 16, 24)])[-1])


def test_convolutions_reach_no_further_than_their_kernels():
    pyramid = ConvPyramid([24], dim=10, lengths=[32], places='image', grids=[1], kernels=[1, 3, 5], detail=False)
    features = torch.randn(1, 32, 16, 24, requires_grad=True)
    grad = torch.autograd.grad(pyramid([features])[0][0, 10].sum(), features)[0]
    touched = grad[0].abs().sum(dim=(1, 2)).nonzero().flatten()
    assert (touched.min().item(), touched.max().item()) == (8, 12)


def test_places_are_pooled_as_written_out():
    features = torch.randn(2, 3, 16, 5)
    image = features.reshape(2, 3, 4, 4, 5)
    expected = torch.stack([image[:, :, i : i + 2, j : j + 2].mean(dim=(2, 3)) for i in (0, 2) for j in (0, 2)], dim=-1)
    torch.testing.assert_close(pool_places(features, 2, 'image').reshape(2, 3, 5, 4), expected)
    expected = torch.stack([features[:, :, :8].mean(2), features[:, :, 8:].mean(2)], dim=-1)
    torch.testing.assert_close(pool_places(features, 2, 'bands').reshape(2, 3, 5, 2), expected)


def test_single_scale_is_mean_over_places_and_maximum_over_time():
    pyramid = SingleScale([24], dim=10)
    features = torch.randn(3, 6, 16, 24)
    expected = torch.stack([pyramid.project(features[:, t].mean(1)) for t in range(6)]).amax(0)
    torch.testing.assert_close(pyramid([features])[0][:, 0], expected)


def test_errors_say_what_to_change():
    with pytest.raises(UserError, match='gives 4 time steps, the pyramid asks for 8'):
        pool_time(torch.zeros(1, 4, 3), 8)
    with pytest.raises(UserError, match='needs a square picture; the backbone gives 12 cells'):
        pool_places(torch.zeros(1, 2, 12, 3), 2, 'image')
    with pytest.raises(UserError, match="places must be 'image' or 'bands'"):
        PoolingPyramid([4], dim=2, lengths=[1], places='picture')
