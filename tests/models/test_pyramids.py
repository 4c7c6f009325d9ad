"""What every pyramid promises: shapes, time that lines up, and errors that say what to change."""

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import floats, integers
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.pyramids import (
    ConvPyramid,
    DensePyramid,
    FeaturePyramid,
    PoolingPyramid,
    QueryPyramid,
    SingleScale,
)
from gmscavp.models.pyramids.base import pool_places, pool_time
from gmscavp.models.pyramids.dense import cover_shares
from gmscavp.models.pyramids.feature_pyramid import resample_time
from gmscavp.models.pyramids.queries import window_mask

LENGTHS = [8, 4, 2, 1]
KINDS = [ConvPyramid, PoolingPyramid, FeaturePyramid, QueryPyramid]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('places', 'cells'), [('image', 16), ('bands', 8)])
@pytest.mark.parametrize('steps', [8, 13, 32])
def test_shapes(kind, places, cells, steps):
    pyramid = kind([7, 24], dim=10, lengths=LENGTHS, places=places, grids=[1, 2], width=12)
    features = [torch.randn(3, 2 * steps, cells * 4, 7), torch.randn(3, steps, cells, 24)]
    assert [tuple(tokens.shape) for tokens in pyramid(features)] == [(3, length, 10) for length in LENGTHS]


def touched_steps(token, features):
    grad = torch.autograd.grad(token.sum(), features, retain_graph=True)[0]
    return grad[0].abs().sum(dim=(1, 2)).nonzero().flatten().tolist()


@pytest.mark.parametrize('kind', [PoolingPyramid, QueryPyramid])
@pytest.mark.parametrize('steps', [32, 13])
def test_token_l_depends_only_on_its_part_of_the_clip(kind, steps):
    pyramid = kind([24], dim=12, lengths=LENGTHS, places='image', detail=False)
    features = torch.randn(1, steps, 16, 24, requires_grad=True)
    for tokens, length in zip(pyramid([features]), LENGTHS, strict=True):
        for token in range(length):
            first, stop = token * steps // length, -(-(token + 1) * steps // length)
            assert touched_steps(tokens[0, token], features) == list(range(first, stop))


@pytest.mark.parametrize('kind', [ConvPyramid, FeaturePyramid])
def test_convolutions_widen_a_window_by_no_more_than_their_kernel(kind):
    pyramid = kind([24], dim=12, lengths=[8], places='image', kernels=[3], detail=False)
    features = torch.randn(1, 32, 16, 24, requires_grad=True)
    assert touched_steps(pyramid([features])[0][0, 3], features) == list(range(11, 17))


def test_windows_of_the_mask_are_those_of_pooling():
    for steps in (8, 13, 20):
        for length in LENGTHS:
            mask = window_mask(length, steps).float()
            x = torch.randn(2, steps, 5)
            expected = mask / mask.sum(dim=1, keepdim=True) @ x
            torch.testing.assert_close(pool_time(x, length), expected)


def test_pooling_what_stands_still_gives_the_same_token_in_every_window():
    still = torch.randn(2, 1, 16, 24).expand(2, 32, 16, 24)
    for tokens in PoolingPyramid([24], dim=12, lengths=LENGTHS, places='image', detail=False)([still]):
        torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(tokens[0], tokens[1], atol=1e-3)


@pytest.mark.parametrize('kind', [*KINDS, SingleScale])
def test_grids_tell_left_from_right_and_the_whole_picture_does_not(kind):
    features = torch.randn(1, 8, 4, 4, 24)
    mirrored = features.flip(3).flatten(2, 3)
    lengths = {} if kind is SingleScale else dict(lengths=[4, 1])
    for grids, same in (([1], True), ([1, 2], False)):
        pyramid = kind([24], dim=12, places='image', grids=grids, **lengths)
        for one, other in zip(pyramid([features.flatten(2, 3)]), pyramid([mirrored]), strict=True):
            assert torch.allclose(one, other, atol=1e-5) is same


def test_bands_tell_low_from_high():
    features = torch.randn(1, 8, 6, 24)
    for kind in KINDS:
        for grids, same in (([1], True), ([3], False)):
            pyramid = kind([24], dim=12, places='bands', grids=grids, lengths=[4])
            tokens = [pyramid([x])[0] for x in (features, features.flip(2))]
            assert torch.allclose(*tokens, atol=1e-5) is same


@pytest.mark.parametrize('stages', [None, [-2, -1]])
def test_every_chosen_stage_reaches_every_scale(stages):
    pyramid = FeaturePyramid([6, 12, 24], dim=8, lengths=LENGTHS, places='image', stages=stages)
    features = [torch.randn(1, t, p, c, requires_grad=True) for t, p, c in ((32, 64, 6), (16, 16, 12), (8, 4, 24))]
    for tokens in pyramid(features):
        grads = torch.autograd.grad(tokens.square().sum(), features, retain_graph=True, allow_unused=True)
        reached = [grad is not None and grad.abs().sum().item() > 0 for grad in grads]
        assert reached == ([True] * 3 if stages is None else [False, True, True])


def test_coarse_stages_are_added_into_finer_ones_as_written_out():
    pyramid = FeaturePyramid([6, 12], dim=8, lengths=[4], places='bands', detail=False)
    fine, coarse = torch.randn(2, 16, 8, 6), torch.randn(2, 8, 4, 12)
    top = pyramid.smooth[1](resample_time(pyramid.laterals[1](coarse), 16))
    expected = pyramid.scales(pyramid.smooth[0](pyramid.laterals[0](fine) + top))
    torch.testing.assert_close(pyramid([fine, coarse]), expected)


def test_resampling_keeps_moments_where_they_are():
    ramp = (torch.arange(8) + 0.5)[None, :, None] / 8
    fine = resample_time(ramp, 32)[0, 2:-2, 0]
    torch.testing.assert_close(fine, ((torch.arange(32) + 0.5) / 32)[2:-2])


def test_queries_answer_by_place_and_by_time_within_their_window():
    """A mean over the window could tell neither where in it nor where in the picture something is."""
    pyramid = QueryPyramid([24], dim=12, lengths=[1], places='image', grids=[2], detail=False)
    features = torch.randn(1, 8, 16, 24)
    before = pyramid([features])[0]
    assert not torch.allclose(before, pyramid([features.flip(1)])[0], atol=1e-4)
    assert not torch.allclose(before, pyramid([features.flip(2)])[0], atol=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_every_parameter_learns(kind):
    pyramid = kind([6, 24], dim=12, lengths=LENGTHS, places='image', grids=[1, 2])
    tokens = pyramid([torch.randn(2, 8, 16, 6), torch.randn(2, 8, 16, 24)])
    sum((x * torch.randn_like(x)).sum() for x in tokens).backward()
    assert not [name for name, p in pyramid.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize('kind', KINDS)
def test_fine_tokens_hold_only_what_changes(kind):
    pyramid = kind([24], dim=12, lengths=LENGTHS, places='image')
    still = torch.randn(1, 1, 16, 24).expand(1, 32, 16, 24)
    *fine, coarsest = pyramid([still])
    if kind is PoolingPyramid:  # convolutions see the clip's ends
        for tokens in fine:
            torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens))
    if kind in (PoolingPyramid, QueryPyramid):
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


def test_released_weights_of_one_scale_fit_the_default_and_grids_add_places():
    pyramid = SingleScale([24], dim=10)
    assert {name: tuple(p.shape) for name, p in pyramid.named_parameters()} == {
        'project.weight': (10, 24),
        'project.bias': (10,),
    }
    gridded = SingleScale([24], dim=10, places='bands', grids=[1, 2])
    features = torch.randn(3, 6, 16, 24)
    expected = gridded.project(features).amax(dim=1)
    torch.testing.assert_close(gridded([features])[0][:, 0], expected)


def dense(places, **changes):
    settings = dict(dim=10, lengths=[4], places=places, grid=2, width=12) | changes
    return DensePyramid([6, 24], **settings)


@pytest.mark.parametrize('steps', [4, 7, 32])
def test_dense_tokens_have_a_place_each_and_a_sound_one(steps):
    features = [torch.randn(3, 2 * steps, 64, 6), torch.randn(3, steps, 16, 24)]
    for stages in ([-1], [0, 1]):
        assert dense('image', stages=stages)(features)[0].shape == (3, 4, 4, 10)
        assert dense('bands', stages=stages)(features)[0].shape == (3, 4, 1, 10)
    assert dense('image').lengths == [4]


def test_a_dense_token_depends_on_its_cell_and_window_alone():
    features = torch.randn(1, 8, 16, 24, requires_grad=True)
    tokens = dense('image', detail=False)([features[..., :6], features])[0]
    grad = torch.autograd.grad(tokens[0, 2, 1].sum(), features)[0]
    touched = grad[0].abs().sum(dim=2).nonzero()
    assert touched[:, 0].unique().tolist() == [4, 5]
    assert touched[:, 1].unique().tolist() == [2, 3, 6, 7]


def test_what_stands_still_gives_the_same_dense_token_everywhere():
    still = torch.randn(2, 1, 16, 24).expand(2, 8, 16, 24)
    tokens = dense('image')([still[..., :6], still])[0]
    torch.testing.assert_close(tokens, tokens[:1, :1, :1].expand_as(tokens), atol=1e-5, rtol=1e-4)


def test_a_grid_finer_than_the_picture_repeats_its_cells():
    features = torch.randn(1, 8, 16, 24)
    tokens = dense('image', grid=8)([features[..., :6], features])[0].unflatten(2, (8, 8))
    coarse = dense('image', grid=4)([features[..., :6], features])[0]
    assert coarse.shape[2] == 16
    for row, column in ((0, 1), (1, 0), (1, 1)):
        torch.testing.assert_close(tokens[:, :, row::2, column::2], tokens[:, :, ::2, ::2])


@pytest.mark.parametrize(('places', 'grid'), [(8, 8), (8, 4), (4, 8), (6, 2), (1, 3), (5, 1)])
def test_places_that_look_at_their_middle_are_averaged_or_repeated(places, grid):
    row = torch.randn(1, 1, places)
    expected = F.adaptive_avg_pool1d(row, grid)
    torch.testing.assert_close(row @ cover_shares(places, grid, 0.5).T, expected)


@given(places=integers(1, 40), grid=integers(1, 40), middle=floats(0, 1))
def test_a_cell_is_made_of_the_places_that_look_near_it(places, grid, middle):
    shares = cover_shares(places, grid, middle)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(grid), atol=1e-4, rtol=0)
    found = shares @ ((torch.arange(places) + middle) / places)
    # A place stands for what is nearest to it: half a place away at the most, beyond the first and the last a whole one.
    assert (found - (torch.arange(grid) + 0.5) / grid).abs().max() <= 1 / places + 1e-4


def test_errors_say_what_to_change():
    with pytest.raises(UserError, match='gives 4 time steps, the pyramid asks for 8'):
        pool_time(torch.zeros(1, 4, 3), 8)
    with pytest.raises(UserError, match='needs a square picture; the backbone gives 12 cells'):
        pool_places(torch.zeros(1, 2, 12, 3), 2, 'image')
    with pytest.raises(UserError, match="places must be 'image' or 'bands'"):
        PoolingPyramid([4], dim=2, lengths=[1], places='picture')
    with pytest.raises(UserError, match="places must be 'image' or 'bands'"):
        QueryPyramid([4], dim=4, lengths=[1], places='picture')
    with pytest.raises(UserError, match='the pyramid asks for 8'):
        QueryPyramid([4], dim=4, lengths=[8], places='image')([torch.zeros(1, 4, 16, 4)])
    with pytest.raises(UserError, match='width 6 does not divide into 4 heads'):
        QueryPyramid([4], dim=6, lengths=[1], places='image')
    with pytest.raises(UserError, match=r'stages: \[2\] are not among the 2 stages'):
        FeaturePyramid([4, 8], dim=2, lengths=[1], places='image', stages=[2])
    with pytest.raises(UserError, match='DensePyramid has one scale'):
        DensePyramid([4], dim=2, lengths=[2, 1], places='image', grid=2)


def test_cavp_before_its_maximum_is_what_its_generator_takes():
    torch.manual_seed(0)
    whole, before = (SingleScale([6], dim=8, steps=steps) for steps in (None, 4))
    before.load_state_dict(whole.state_dict())
    features = [torch.randn(2, 4, 9, 6)]
    assert torch.equal(before(features)[0].amax(1, keepdim=True), whole(features)[0])
    assert before(features)[0].shape == (2, 4, 8)
    assert before.lengths == [4]


def test_what_a_still_scene_shows_stands_in_the_coarsest_scale_however_long_the_clip():
    torch.manual_seed(0)
    settings = dict(dim=12, places='image', grids=[1])
    short, long = PoolingPyramid([24], lengths=[4, 1], **settings), PoolingPyramid([24], lengths=[8, 2], **settings)
    long.load_state_dict(short.state_dict())
    scene = torch.randn(1, 1, 4, 24)
    (fine, whole), (finer, halves) = (pyramid([scene.expand(1, 16, 4, 24)]) for pyramid in (short, long))
    nothing = short.scales.maps[0](torch.zeros(12))
    assert torch.allclose(fine, nothing.expand_as(fine), atol=1e-3)
    assert torch.allclose(finer, nothing.expand_as(finer), atol=1e-3)
    assert torch.allclose(halves, whole.expand_as(halves), atol=1e-5)
    assert not torch.allclose(whole[0, 0], short.scales.maps[1](torch.zeros(12)), atol=0.1)
