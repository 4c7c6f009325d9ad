"""Several windows of one video: the contrast between them, what the semantic term makes of them, joined embeddings."""

import math

import pytest
import torch
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.heads import MultiScaleInfoNCE, unit_tokens
from gmscavp.models.heads.multi_scale_nce import segment_nce, semantic_nce
from gmscavp.registry import MODELS
from tests.models.builders import tiny_batch, tiny_model

VIDEOS, SEGMENTS, STEPS, DIM = 4, 3, 2, 8
SCALE = torch.tensor(5.0, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tokens():
    return (F.normalize(torch.randn(VIDEOS * SEGMENTS, STEPS, DIM, dtype=torch.float64), dim=-1) for _ in range(2))


def similarity(v, a):
    """Written out: mean over steps of the products of the steps."""
    return [
        [sum((v[i, s] @ a[j, s]).item() for s in range(STEPS)) / STEPS for j in range(len(a))] for i in range(len(v))
    ]


def surprise(logits, right):
    """-log softmax at `right` of a plain list of numbers."""
    return math.log(sum(math.exp(x) for x in logits)) - logits[right]


def test_segment_term_equals_the_double_loop():
    v, a = tokens()
    k, table = SCALE.item(), similarity(v, a)
    expected = 0.0
    for video in range(VIDEOS):
        own = range(video * SEGMENTS, (video + 1) * SEGMENTS)
        for n, i in enumerate(own):
            expected += surprise([k * table[i][j] for j in own], n) + surprise([k * table[j][i] for j in own], n)
    expected /= 2 * VIDEOS * SEGMENTS
    assert segment_nce(v, a, SCALE, SEGMENTS).item() == pytest.approx(expected, rel=1e-9)


def test_the_directions_of_the_segment_term_differ():
    """One direction used twice would pass for the mean of both where the block is symmetric; here it is not."""
    v, a = tokens()
    both, swapped = segment_nce(v, a, SCALE, SEGMENTS), segment_nce(a, v, SCALE, SEGMENTS)
    torch.testing.assert_close(both, swapped)
    logits = SCALE * v.flatten(1).unflatten(0, (-1, SEGMENTS)) @ a.flatten(1).unflatten(0, (-1, SEGMENTS)).mT / STEPS
    target = torch.arange(SEGMENTS).expand(VIDEOS, -1)
    one, other = F.cross_entropy(logits, target), F.cross_entropy(logits.mT, target)
    assert abs(one - other) > 1e-3
    torch.testing.assert_close(both, (one + other) / 2)


def test_constant_features_give_log_of_the_segments():
    same = F.normalize(torch.ones(VIDEOS * SEGMENTS, STEPS, DIM), dim=-1)
    assert segment_nce(same, same, SCALE, SEGMENTS).item() == pytest.approx(math.log(SEGMENTS), rel=1e-6)
    clips = VIDEOS * SEGMENTS
    assert semantic_nce(same, same, same, same, SCALE, 0).item() == pytest.approx(math.log(clips), rel=1e-5)
    ignoring = semantic_nce(same, same, same, same, SCALE, 0, SEGMENTS).item()
    assert ignoring == pytest.approx(math.log(clips - SEGMENTS + 1), rel=1e-5)


def test_ignoring_the_same_video_equals_the_double_loop():
    v, a = tokens()
    k, table = SCALE.item(), similarity(v, a)
    expected = 0.0
    for i in range(len(v)):
        candidates = [j for j in range(len(v)) if j == i or j // SEGMENTS != i // SEGMENTS]
        right = candidates.index(i)
        expected += surprise([k * table[i][j] for j in candidates], right)
        expected += surprise([k * table[j][i] for j in candidates], right)
    expected /= 2 * len(v)
    assert semantic_nce(v, a, v, a, SCALE, 0, SEGMENTS).item() == pytest.approx(expected, rel=1e-9)


def test_a_single_video_with_its_segments_ignored_has_nothing_to_tell_apart_and_no_bad_gradient():
    v, a = (x[:SEGMENTS].requires_grad_() for x in tokens())
    loss = semantic_nce(v, a, v, a, SCALE, 0, SEGMENTS)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(v.grad).all()


@pytest.mark.parametrize('same_video', ['negative', 'ignore'])
def test_head_weighs_the_segment_term_at_every_scale(same_video):
    lengths, weights = [4, 1], [0.3, 0.7]
    v, a = ([torch.randn(VIDEOS * SEGMENTS, n, DIM) for n in lengths] for _ in range(2))
    head = MultiScaleInfoNCE(lengths, weights, temporal_weight=0.0, segment_weight=0.5, same_video=same_video)
    losses = head(v, a, SEGMENTS)
    uv, ua, k = unit_tokens(v), unit_tokens(a), torch.tensor(1 / 0.07)
    expected = sum(w * 0.5 * segment_nce(x, y, k, SEGMENTS) for w, x, y in zip(weights, uv, ua, strict=True))
    torch.testing.assert_close(losses['loss_segment'], expected)
    within = SEGMENTS if same_video == 'ignore' else 1
    expected = sum(w * semantic_nce(x, y, x, y, k, 0, within) for w, x, y in zip(weights, uv, ua, strict=True))
    torch.testing.assert_close(losses['loss_semantic'], expected)


def test_one_segment_changes_nothing():
    v, a = ([torch.randn(6, n, DIM) for n in (4, 1)] for _ in range(2))
    plain = MultiScaleInfoNCE([4, 1])(v, a)
    asked = MultiScaleInfoNCE([4, 1], segment_weight=1.0, same_video='ignore')(v, a, 1)
    assert plain.keys() == asked.keys()
    for name in plain:
        assert torch.equal(plain[name], asked[name]), name


def test_unknown_policy_names_the_known_ones():
    with pytest.raises(UserError, match='negative, ignore'):
        MultiScaleInfoNCE([1], same_video='positive')


def segmented_batch(videos=2):
    """A batch as the loader gives it for clips of several windows."""
    flat = tiny_batch(videos * SEGMENTS)
    batch = tiny_batch(videos)
    for key in ('video', 'audio'):
        batch[key] = flat[key].unflatten(0, (videos, SEGMENTS))
    batch['start_s'] = torch.zeros(videos, SEGMENTS)
    return batch, flat


def test_preprocessor_lays_segments_in_succession():
    preprocessor = MODELS.build(tiny_model()).data_preprocessor
    batch, flat = segmented_batch()
    ready, plain = preprocessor(batch), preprocessor(flat)
    assert ready['segments'] == SEGMENTS
    assert 'segments' not in plain
    for key in ('video', 'mel'):
        assert torch.equal(ready[key], plain[key])


def test_model_trains_on_segments_under_every_name():
    head = dict(type='MultiScaleInfoNCE', segment_weight=0.5)
    model = MODELS.build(tiny_model(head=head))
    losses = model(**model.data_preprocessor(segmented_batch()[0], True), mode='loss')
    assert losses['loss_segment'] > 0
    sum(value for name, value in losses.items() if 'loss' in name).backward()


def test_joined_embeddings_give_the_mean_similarity_of_matched_windows():
    model = MODELS.build(tiny_model(diffusion=None)).eval()
    batch, flat = segmented_batch(videos=2)
    with torch.no_grad():
        predictions = model(**model.data_preprocessor(batch), mode='predict')
        v, a = model(**model.data_preprocessor(flat), mode='tensor')
    assert len(predictions) == 2
    joined_v, joined_a = (torch.stack([p[f'{side}_embedding'] for p in predictions]) for side in ('video', 'audio'))
    expected = torch.tensor(
        [[sum(v[i * 3 + n] @ a[j * 3 + n] for n in range(3)) / 3 for j in range(2)] for i in range(2)]
    )
    torch.testing.assert_close(joined_v @ joined_a.T, expected)


def test_parts_of_the_scales_add_up_for_plain_and_joined_embeddings():
    model = MODELS.build(tiny_model(diffusion=None)).eval()
    batch, flat = segmented_batch(videos=2)
    with torch.no_grad():
        for each in (batch, flat):
            v, a = model(**model.data_preprocessor(each), mode='tensor')
            parts = [x @ y.T for x, y in zip(model.split_scales(v), model.split_scales(a), strict=True)]
            assert len(parts) == 3
            torch.testing.assert_close(sum(parts), v @ a.T)
        # The finest scale alone of the joined embedding is the mean over windows of that scale alone.
        fine = model.split_scales(model(**model.data_preprocessor(batch), mode='tensor')[0])[0]
        of_windows = model.split_scales(model(**model.data_preprocessor(flat), mode='tensor')[0])[0]
    torch.testing.assert_close(fine, of_windows.reshape(2, -1) / math.sqrt(SEGMENTS))


def test_a_head_without_inner_product_says_that_it_takes_one_window():
    side = dict(type='DensePyramid', dim=16, lengths=[4], grid=2)
    model = MODELS.build(
        tiny_model(
            video_pyramid=dict(side, places='image'),
            audio_pyramid=dict(side, places='bands'),
            head=dict(type='DenseHead'),
            diffusion=None,
        )
    )
    with pytest.raises(UserError, match='no inner product'):
        model(**model.data_preprocessor(segmented_batch()[0]), mode='predict')
    v, _ = model(**model.data_preprocessor(tiny_batch(2)), mode='tensor')
    assert [part.shape for part in model.split_scales(v)] == [v.shape]
