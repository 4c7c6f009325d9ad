"""Distances and scores of generated clips against golden figures, closed forms and scipy; synchronisation scores."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.strategies import floats, integers, lists

from gmscavp.evaluation.generation.distances import (
    FeatureStatistics,
    frechet_distance,
    gaussian_distance,
    inception_score,
    kl_sigmoid,
    kl_softmax,
)
from gmscavp.evaluation.generation.sync import alignment_accuracy, desync, offset_grid, predicted_offsets


@pytest.fixture(scope='module')
def golden(real_data):
    file = real_data / 'oracles' / 'metrics.npz'
    if not file.is_file():
        pytest.skip(f'no golden figures: {file}')
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seen(features, batch=None):
    statistics = FeatureStatistics(features.shape[1])
    for part in features.split(batch or len(features)):
        statistics.add(part)
    return statistics


def some_covariance(dim, samples, seed):
    return np.cov(normal(samples, dim, seed=seed).double().numpy(), rowvar=False)


def test_golden_frechet_distance(golden):
    found = frechet_distance(seen(torch.from_numpy(golden['real']), 70), seen(torch.from_numpy(golden['fake']), 33))
    assert found == pytest.approx(float(golden['fd']), rel=1e-6)


def test_golden_class_score_figures(golden):
    real, generated = torch.from_numpy(golden['logits_real']), torch.from_numpy(golden['logits_fake'])
    assert kl_softmax(real, generated).mean().item() == pytest.approx(float(golden['kl_softmax']), rel=1e-6)
    assert kl_sigmoid(real, generated).mean().item() == pytest.approx(float(golden['kl_sigmoid']), rel=1e-6)
    assert inception_score(generated) == pytest.approx((float(golden['is_mean']), float(golden['is_std'])), rel=1e-6)


@pytest.mark.parametrize('batch', [1, 7, 100, 1000])
def test_streaming_statistics_equal_all_at_once(batch):
    # A mean far from zero is where sums of squares lose their digits.
    features = normal(200, 5) * torch.tensor([1, 2, 0.1, 5, 1.0]) + 1000
    statistics = seen(features, batch)
    every = features.double().numpy()
    assert statistics.count == 200
    np.testing.assert_allclose(statistics.mean, every.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(statistics.covariance, np.cov(every, rowvar=False), rtol=1e-10)


def test_merged_and_gathered_statistics_equal_all_at_once():
    features = normal(90, 4)
    parts = [seen(part) for part in features.split([50, 1, 39])] + [FeatureStatistics(4)]
    gathered = FeatureStatistics.joined([part.state for part in parts])
    before = parts[1].mean.copy()
    merged = FeatureStatistics(4)
    for part in parts:
        merged.merge(part)
    for found in (gathered, merged):
        assert found.count == 90
        np.testing.assert_allclose(found.covariance, seen(features).covariance, rtol=1e-12)
    np.testing.assert_array_equal(parts[1].mean, before)


def test_statistics_refuse_what_would_spoil_them():
    statistics = seen(normal(5, 3))
    with pytest.raises(ValueError, match=r'must be \(B, 3\)'):
        statistics.add(normal(5, 4))
    with pytest.raises(ValueError, match='not finite'):
        statistics.add(torch.full((2, 3), torch.nan))
    with pytest.raises(ValueError, match='do not join'):
        statistics.merge(FeatureStatistics(2))
    with pytest.raises(ValueError, match='two samples'):
        frechet_distance(statistics, seen(normal(1, 3)))
    with pytest.raises(ValueError, match='cannot be compared'):
        frechet_distance(statistics, seen(normal(9, 2)))
    with pytest.raises(ValueError, match='no statistics'):
        FeatureStatistics.joined([])
    assert statistics.count == 5
    np.testing.assert_allclose(statistics.covariance, np.cov(normal(5, 3).double().numpy(), rowvar=False))


@pytest.mark.parametrize('samples', [200, 20])  # of full rank, and not
def test_equal_gaussians_are_no_distance_apart_and_a_shift_is_its_square(samples):
    covariance, mean = some_covariance(32, samples, 1), np.linspace(-1, 1, 32)
    for eps in (0.0, 1e-6):
        assert gaussian_distance(mean, covariance, mean, covariance, eps) == pytest.approx(0, abs=1e-5)
        shifted = gaussian_distance(mean, covariance, mean + 0.5, covariance, eps)
        assert shifted == pytest.approx(32 * 0.25, abs=1e-5)


def test_frechet_distance_of_diagonal_covariances():
    a, b = np.array([0.0, 1, 4, 9]), np.array([1.0, 0, 1, 16])
    found = gaussian_distance(np.zeros(4), np.diag(a), np.ones(4), np.diag(b))
    assert found == pytest.approx(4 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum())


@pytest.mark.parametrize(('samples', 'other_samples'), [(200, 150), (20, 150), (20, 12)])
def test_frechet_distance_equals_scipys_root(samples, other_samples):
    linalg = pytest.importorskip('scipy.linalg', reason='scipy is not installed')
    a, b = some_covariance(32, samples, 1), 1.3 * some_covariance(32, other_samples, 2)
    means = np.zeros(32), np.full(32, 0.1)
    for eps in (0.0, 1e-6):
        ridge = eps * np.eye(32)
        # The plain root loses half its digits where the product has no full rank.
        root = linalg.sqrtm((a + ridge) @ (b + ridge)).real
        expected = 32 * 0.01 + np.trace(a + b + 2 * ridge - 2 * root)
        found = gaussian_distance(means[0], a, means[1], b, eps)
        assert found == pytest.approx(expected, rel=1e-4)
        assert found == pytest.approx(gaussian_distance(means[1], b, means[0], a, eps), rel=1e-9)


def test_kl_is_directed_and_zero_between_equals():
    real, generated = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[2.0, 0.0], [3.0, 0.0]])
    p, q = real.double().softmax(dim=1), generated.double().softmax(dim=1)
    expected = (p * (p / q).log()).sum(dim=1)
    torch.testing.assert_close(kl_softmax(real, generated), expected)
    assert kl_softmax(real, generated)[1] == 0
    assert not torch.allclose(kl_softmax(real, generated), kl_softmax(generated, real))
    certain = torch.tensor([[200.0, -200.0]])
    assert torch.isfinite(kl_softmax(certain, -certain)).all()
    assert torch.isfinite(kl_sigmoid(certain, -certain)).all()


def test_kl_refuses_what_are_not_pairs():
    for kl in (kl_softmax, kl_sigmoid):
        with pytest.raises(ValueError, match='pairs'):
            kl(torch.zeros(3, 2), torch.zeros(1, 2))
        with pytest.raises(ValueError, match='not finite'):
            kl(torch.zeros(1, 2), torch.full((1, 2), torch.inf))


def test_inception_score_from_one_to_the_number_of_classes():
    assert inception_score(torch.zeros(40, 4)) == pytest.approx((1, 0))
    assert inception_score(torch.eye(4).repeat(100, 1) * 1000, splits=1) == pytest.approx((4, 0))
    with pytest.raises(ValueError, match='10 clips or more'):
        inception_score(torch.zeros(9, 4))
    with pytest.raises(ValueError, match='not finite'):
        inception_score(torch.full((10, 4), torch.nan))


def test_desync_of_known_offsets():
    grid = offset_grid()
    torch.testing.assert_close(grid, torch.arange(-20, 21, 2).double() / 10)
    classes = torch.tensor([[10, 10], [0, 20], [9, 12]])
    scores = torch.nn.functional.one_hot(classes, 21).float()
    torch.testing.assert_close(predicted_offsets(scores), grid[classes])
    assert desync(scores) == pytest.approx((0 + 0 + 2 + 2 + 0.2 + 0.4) / 6)
    assert desync(scores[:1]) == 0


def test_a_judge_that_cannot_tell_is_not_in_time():
    assert desync(torch.zeros(3, 21)) == 2


def test_alignment_accuracy_is_the_share_above_half():
    assert alignment_accuracy(torch.tensor([0.9, 0.5, 0.51, 0.0])) == 0.5
    with pytest.raises(ValueError, match='probabilities'):
        alignment_accuracy(torch.tensor([0.5, 3.0]))
    with pytest.raises(ValueError, match='not finite'):
        alignment_accuracy(torch.tensor([torch.nan]))
    for figure, empty in ((alignment_accuracy, torch.zeros(0)), (desync, torch.zeros(0, 21))):
        with pytest.raises(ValueError, match='no clips'):
            figure(empty)


@given(
    dim=integers(1, 6),
    batches=lists(integers(0, 9), min_size=1, max_size=8),
    mean=floats(-1e3, 1e3),
    scale=floats(1e-2, 1e2),
    seed=integers(0, 2**31),
)
def test_statistics_in_any_batches_and_parts_are_those_of_the_whole(dim, batches, mean, scale, seed):
    batches = [2, *batches]
    generator = torch.Generator().manual_seed(seed)
    features = mean + scale * torch.randn(sum(batches), dim, generator=generator, dtype=torch.float64)
    parts = [seen(part, max(len(part), 1)) for part in features.split(batches)]
    streamed, gathered = FeatureStatistics(dim), FeatureStatistics.joined([part.state for part in parts])
    for part in features.split(batches):
        streamed.add(part)
    for found in (streamed, gathered):
        assert found.count == len(features)
        np.testing.assert_allclose(found.mean, features.numpy().mean(axis=0), rtol=1e-12, atol=1e-12 * abs(mean))
        expected = np.atleast_2d(np.cov(features.numpy(), rowvar=False))
        np.testing.assert_allclose(found.covariance, expected, rtol=1e-8, atol=1e-10 * scale**2)
        # The root of rounding counts: what is left of zero is the root of an error of float64.
        assert frechet_distance(found, seen(features)) == pytest.approx(0, abs=1e-5 * scale**2)
