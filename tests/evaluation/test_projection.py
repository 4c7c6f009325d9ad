"""The map of embeddings against the exact decomposition."""

import pytest
import torch

from gmscavp.evaluation.projection import on_plane


@pytest.mark.parametrize('shape', [(40, 300), (300, 40), (5, 3)])
def test_axes_are_the_first_two_principal_components(shape):
    torch.manual_seed(0)
    x = torch.randn(shape) @ torch.diag(0.8 ** torch.arange(shape[1])) + 3
    u, s, _ = torch.linalg.svd((x - x.mean(0)).double(), full_matrices=False)
    expected = (u * s)[:, :2]
    points = on_plane(x)
    torch.testing.assert_close(points.abs(), expected.abs(), atol=1e-4, rtol=1e-3)
    assert points.var(dim=0)[0] >= points.var(dim=0)[1]


def test_the_map_is_always_the_same_and_leaves_the_random_numbers_alone():
    x = torch.randn(30, 50)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = on_plane(x)
    torch.testing.assert_close(torch.rand(3), expected)
    torch.testing.assert_close(on_plane(x), first)
    torch.testing.assert_close(on_plane(2 * x), 2 * first)


def test_what_has_fewer_dimensions_than_the_map_has_zeros():
    assert on_plane(torch.randn(6, 1))[:, 1].abs().max() == 0
    assert on_plane(torch.ones(3, 4)).abs().max() < 1e-6
