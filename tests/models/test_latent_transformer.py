"""The diffusion transformer: patches are put back where they were, the condition and its absence count, time is aligned."""

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models import LatentTransformer
from gmscavp.models.denoisers.latent_transformer import patches, unpatched

LENGTHS = [8, 4, 1]
SHAPES = [(1, [16, 8], [4, 4]), (2, [8, 4, 4], [2, 2, 1])]


def denoiser(channels, size, patch, **changes):
    torch.manual_seed(0)
    settings = dict(channels=channels, size=size, condition_lengths=LENGTHS, condition_dim=12, patch=patch, width=24)
    return LatentTransformer(**settings, depth=2, heads=2, **changes).eval()


def awake(model):
    """With the layers that start at zero at random."""
    for layer in (model.out, model.last_modulation, *(block.modulation for block in model.blocks)):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return model


def condition(clips=2):
    return [torch.randn(clips, length, 12) for length in LENGTHS]


@pytest.mark.parametrize(('channels', 'size', 'patch'), SHAPES)
def test_patches_are_put_back_where_they_were(channels, size, patch):
    x = torch.randn(2, channels, *size)
    grid = [n // p for n, p in zip(size, patch, strict=True)]
    assert torch.equal(unpatched(patches(x, patch), patch, grid), x)
    # Token 0 holds the first corner and nothing else.
    marked = torch.zeros_like(x)
    marked[(slice(None), slice(None), *(slice(p) for p in patch))] = 1
    assert patches(marked, patch).sum(-1)[:, 1:].abs().max() == 0


@pytest.mark.parametrize(('channels', 'size', 'patch'), SHAPES)
def test_it_starts_at_nothing_and_every_weight_learns(channels, size, patch):
    model = denoiser(channels, size, patch)
    x, t, given = torch.randn(2, channels, *size), torch.rand(2), condition()
    assert model(x, t, given).shape == x.shape
    assert model(x, t, given).abs().max() == 0
    keep = torch.tensor([True, False])
    awake(model)(x, t, given, keep).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('aligned', [True, False])
def test_the_null_condition_hides_the_condition_and_nothing_else(aligned):
    model = awake(denoiser(1, [16, 8], [4, 4], aligned=aligned))
    x, t, first, second = torch.randn(2, 1, 16, 8), torch.rand(2), condition(), condition()
    nothing = torch.zeros(2, dtype=torch.bool)
    assert torch.allclose(model(x, t, first, nothing), model(x, t, second, nothing), atol=1e-6)
    assert not torch.allclose(model(x, t, first), model(x, t, second), atol=1e-3)
    assert torch.allclose(model(x, t, first, ~nothing), model(x, t, first), atol=1e-6)
    assert not torch.allclose(model(x, t, first), model(x, 1 - t, first), atol=1e-3)


@pytest.mark.parametrize('aligned', [True, False])
def test_what_is_remembered_of_a_condition_is_the_condition(aligned):
    model = awake(denoiser(1, [16, 8], [4, 4], aligned=aligned))
    x, given = torch.randn(2, 1, 16, 8), condition()
    for keep in (None, torch.tensor([True, False]), torch.zeros(2, dtype=torch.bool)):
        known = model.remember(given, keep)
        for t in (torch.tensor([0.1, 0.9]), torch.rand(2)):
            assert torch.equal(model(x, t, *known), model(x, t, given, keep))


def test_the_finest_scale_reaches_the_patches_of_its_own_moment_alone():
    model = denoiser(1, [16, 8], [4, 4], aligned=True)
    given = condition(1)
    other = [given[0].clone(), *given[1:]]
    # Tokens 2 and 3 of 8 lie in patch 1 of 4.
    other[0][:, 2:4] += 1
    moved = (model._in_patches(other[0]) - model._in_patches(given[0])).abs().amax((0, 2))
    assert (moved > 1e-4).tolist() == [False, True, False, False]
    swapped = [given[0][:, [0, 1, 3, 2, 4, 5, 6, 7]], *given[1:]]
    told, other_way = (model.aligned(model._in_patches(x[0]))[0, 1] for x in (given, swapped))
    assert not torch.allclose(told, other_way, atol=1e-4), 'a patch must know which of its tokens comes first'


@pytest.mark.parametrize(('length', 'steps', 'within'), [(8, 4, 2), (4, 4, 1), (2, 4, 1), (7, 4, 1), (11, 4, 2)])
def test_tokens_of_any_number_are_laid_out_over_the_patches(length, steps, within):
    model = LatentTransformer(1, [steps, 8], [length, 1], 3, [1, 4], width=24, depth=1, heads=2)
    laid = model._in_patches(torch.arange(length).float().view(1, -1, 1).expand(1, -1, 3))
    assert laid.shape == (1, steps, 3 * within)
    assert (laid.flatten().diff() >= 0).all(), 'the order of time is kept'


def test_patches_that_do_not_divide_are_refused():
    for patch in ([3, 4], [4], [4, 4, 1]):
        with pytest.raises(UserError, match='does not divide'):
            denoiser(1, [16, 8], patch)
