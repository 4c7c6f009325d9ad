"""Similarity through places: against loops, where gradients go, and whether the heat lies where it was put."""

import math

import pytest
import torch
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.backbones import SlowOnlyR50, TinyVideoNet
from gmscavp.models.heads import DenseHead, dense_similarity
from gmscavp.registry import MODELS
from tests.models.builders import tiny_batch, tiny_model

CLIPS, STEPS, GRID, DIM = 5, 3, 4, 16
DENSE = dict(
    video_pyramid=dict(type='DensePyramid', dim=16, lengths=[4], places='image', grid=4),
    audio_pyramid=dict(type='DensePyramid', dim=16, lengths=[4], places='bands', grid=2),
    head=dict(type='DenseHead'),
    diffusion=None,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tokens(clips=CLIPS, places=GRID * GRID):
    return torch.randn(clips, STEPS, places, DIM, dtype=torch.float64)


def test_similarity_equals_the_loops():
    v, a = (F.normalize(x, dim=-1) for x in (tokens(4), tokens(6, 1)))
    similarity = dense_similarity(v, a.squeeze(2))
    for i in range(4):
        for j in range(6):
            best = [max((v[i, s, p] @ a[j, s, 0]).item() for p in range(GRID * GRID)) for s in range(STEPS)]
            assert similarity[i, j].item() == pytest.approx(sum(best) / STEPS, rel=1e-12)


def test_head_is_infonce_on_that_similarity():
    v, a = tokens().float(), tokens(places=1).float()
    head = DenseHead([STEPS])
    similarity = head.similarity(head.embed([v]), head.embed([a])) / 0.07
    own = torch.arange(CLIPS)
    expected = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
    losses = head([v], [a])
    assert losses['loss_semantic'].item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses['logit_scale'].item() == pytest.approx(1 / 0.07, rel=1e-5)


def test_orthonormal_pairs_give_the_closed_form():
    a = torch.eye(CLIPS)[:, None, None].expand(CLIPS, STEPS, 1, CLIPS)
    v = torch.cat([torch.zeros(CLIPS, STEPS, 3, CLIPS), a], dim=2)
    k = 1 / 0.07
    loss = DenseHead([STEPS])([v], [a])['loss_semantic']
    assert loss.item() == pytest.approx(math.log(1 + (CLIPS - 1) * math.exp(-k)), rel=1e-3, abs=1e-7)


def test_with_one_place_it_is_the_similarity_step_by_step():
    v, a = tokens(places=1), tokens(places=1)
    head = DenseHead([STEPS])
    one, other = head.embed([v]), head.embed([a])
    torch.testing.assert_close(head.similarity(one, other), one @ other.T / STEPS)
    assert head.embed([tokens()]).shape == (CLIPS, STEPS * GRID * GRID * DIM)


def test_similarity_does_not_depend_on_where_in_the_picture_it_is():
    v, a = tokens(), tokens(places=1)
    head = DenseHead([STEPS])
    shuffled = v[:, :, torch.randperm(GRID * GRID)]
    before, after = (head.similarity(head.embed([x]), head.embed([a])) for x in (v, shuffled))
    torch.testing.assert_close(before, after)


def test_the_gradient_reaches_the_best_cell_of_every_window_and_no_other():
    v, a = F.normalize(tokens(1), dim=-1).requires_grad_(), F.normalize(tokens(1, 1), dim=-1)
    grad = torch.autograd.grad(dense_similarity(v, a.squeeze(2)).sum(), v)[0]
    best = (v * a).sum(3)[0].argmax(dim=1)
    touched = grad[0].abs().sum(dim=2).nonzero()
    assert touched.tolist() == [[step, cell] for step, cell in enumerate(best.tolist())]


def test_heat_peaks_where_the_sound_was_planted():
    v, a = torch.randn(2, STEPS, GRID * GRID, 64), torch.randn(2, STEPS, 1, 64)
    cells = torch.tensor([[5, 0, 15], [3, 12, 6]])
    for clip in range(2):
        for step in range(STEPS):
            v[clip, step, cells[clip, step]] += 3 * a[clip, step, 0]
    heat = DenseHead([STEPS]).heat_map(v, a)
    assert heat.shape == (2, STEPS, GRID, GRID)
    assert heat.abs().max() <= 1 + 1e-5
    assert heat.flatten(2).argmax(dim=2).tolist() == cells.tolist()
    row, column = divmod(int(cells[1, 2]), GRID)
    assert heat[1, 2, row, column].item() == pytest.approx(
        F.cosine_similarity(v[1, 2, cells[1, 2]], a[1, 2, 0], dim=0).item(), rel=1e-5
    )


@pytest.mark.parametrize('backbone', [TinyVideoNet(width=4), TinyVideoNet(4, 3, 2), SlowOnlyR50(width=4).eval()])
def test_places_look_where_their_backbone_says(backbone):
    size = 128
    video = torch.randn(4, 3, 2, size, size, requires_grad=True)
    for features in backbone(video)[:3]:
        side = math.isqrt(features.shape[2])
        row, column = side // 2, side // 2 - 1
        signs = torch.randn(4, 1, features.shape[3])
        place = (features[:, :, row * side + column] * signs).sum()
        power = torch.autograd.grad(place, video, retain_graph=True)[0].square().sum(dim=(0, 1, 2))
        pixels = torch.arange(size) + 0.5
        looks = torch.stack([(power.sum(dim=1) * pixels).sum(), (power.sum(dim=0) * pixels).sum()]) / power.sum()
        said = torch.tensor([row, column]).add(backbone.middle) * size / side
        assert (looks - said).abs().max() < 0.2 * size / side + 0.5


def test_the_model_tells_its_pyramid_where_places_look():
    model = MODELS.build(tiny_model(**DENSE))
    assert model.video_backbone.middle == model.video_pyramid.middle == 0
    said = DENSE | dict(video_pyramid=DENSE['video_pyramid'] | dict(middle=0.25))
    assert MODELS.build(tiny_model(**said)).video_pyramid.middle == 0.25


def test_logit_scale_is_learned_and_clamped():
    head = DenseHead([STEPS])
    head([tokens()], [tokens(places=1)])['loss_semantic'].backward()
    assert head.log_scale.grad.abs().item() > 0
    head.log_scale.data.fill_(50.0)
    assert head([tokens()], [tokens(places=1)])['logit_scale'].item() == pytest.approx(100.0)


def test_a_whole_model_learns_by_places():
    model = MODELS.build(tiny_model(**DENSE))
    batch = tiny_batch(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(90):
        loss = model(**model.data_preprocessor(batch, True), mode='loss')['loss_semantic']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert sum(history[-5:]) < 0.3 * sum(history[:5])
    predictions = model(**model.data_preprocessor(batch, False), mode='predict')
    assert [len(predictions[0][f'{side}_embedding']) for side in ('video', 'audio')] == [4 * 16 * 16, 4 * 16]


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(UserError, match='diffusion takes tokens without places'):
        MODELS.build(tiny_model(**{**DENSE, 'diffusion': tiny_model()['diffusion']}))
    for part in ('head', 'video_pyramid'):
        changes = {key: value for key, value in DENSE.items() if key != part}
        if part == 'video_pyramid':
            changes['video_pyramid'] = dict(type='PoolingPyramid', dim=16, lengths=[4], places='image')
        with pytest.raises(UserError, match='use DensePyramid on both sides together with DenseHead'):
            MODELS.build(tiny_model(**changes))
    with pytest.raises(UserError, match='DenseHead compares one scale, the pyramids have 2'):
        DenseHead([2, 1])
    head = DenseHead([STEPS])
    with pytest.raises(UserError, match='tokens that keep their places'):
        head.embed([torch.randn(2, STEPS, DIM)])
    with pytest.raises(UserError, match=r"set audio_pyramid\.places='bands'"):
        head([tokens()], [tokens()])
