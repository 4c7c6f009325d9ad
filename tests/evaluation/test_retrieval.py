"""Ranks and figures of retrieval against a plain sort, and the promises about ties."""

import pytest
import torch
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.evaluation.metrics import RetrievalMetric
from gmscavp.evaluation.retrieval import Gallery, direction_figures, retrieval_figures, retrieval_ranks


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_ranks_equal_a_plain_sort():
    query, gallery = unit(50, 8), unit(50, 8, seed=1)
    order = (query.double() @ gallery.double().T).argsort(dim=1, descending=True).tolist()
    expected = [row.index(i) + 1 for i, row in enumerate(order)]
    assert retrieval_ranks(query, gallery).tolist() == expected


@pytest.mark.parametrize('chunk', [1, 7, 64, 300, 1000])
def test_chunked_equals_dense(chunk):
    query, gallery = unit(300, 16), unit(300, 16, seed=1)
    assert torch.equal(retrieval_ranks(query, gallery, chunk), retrieval_ranks(query, gallery, 300))


def test_ties_count_against_the_query():
    same = unit(1, 8).expand(20, 8)
    assert retrieval_ranks(same, same).tolist() == [20] * 20
    twins = unit(10, 8).repeat_interleave(2, dim=0)
    for chunk in (1, 3, 20):
        assert retrieval_ranks(twins, twins, chunk).tolist() == [2] * 20


def test_a_shuffle_of_the_clips_changes_nothing():
    query, gallery = unit(40, 8), unit(40, 8, seed=1)
    order = torch.randperm(40)
    assert torch.equal(retrieval_ranks(query, gallery)[order], retrieval_ranks(query[order], gallery[order]))


def test_figures_on_known_ranks():
    figures = direction_figures(torch.tensor([1, 2, 6, 11]))
    assert figures == {'R1': 25.0, 'R5': 50.0, 'R10': 75.0, 'MedR': 4.0, 'MeanR': 5.0}


def test_random_embeddings_stand_at_chance_and_equal_ones_at_the_top():
    names = [str(i) for i in range(400)]
    figures = retrieval_figures(Gallery(names, unit(400, 64), unit(400, 64, seed=1)))
    assert figures['chance_R10'] == pytest.approx(2.5)
    assert abs(figures['v2a_R10'] - 2.5) < 2.5
    assert abs(figures['a2v_MedR'] - 200.5) < 40
    figures = retrieval_figures(Gallery(names, unit(400, 64), unit(400, 64)))
    assert figures['mean_R1'] == 100


def test_embeddings_that_are_not_finite_never_win():
    query = unit(4, 8)
    query[2, 3] = float('nan')
    with pytest.raises(ValueError, match='not finite'):
        retrieval_ranks(query, unit(4, 8))


def samples(count, invalid=()):
    v, a = unit(count, 8), unit(count, 8, seed=1)
    return [
        {'clip_id': str(i), 'valid': i not in invalid, 'video_embedding': v[i], 'audio_embedding': a[i]}
        for i in range(count)
    ]


def test_metric_leaves_out_and_counts_clips_that_could_not_be_read():
    metric = RetrievalMetric()
    for start in (0, 5):
        metric.process(None, samples(10, invalid=(3, 7))[start : start + 5])
    figures = metric.evaluate(10)
    assert (figures['retrieval/N'], figures['retrieval/skipped']) == (8, 2)
    assert metric.gallery.clip_ids == ['0', '1', '2', '4', '5', '6', '8', '9']
    expected = retrieval_figures(metric.gallery)
    assert figures['retrieval/mean_R1'] == expected['mean_R1']


def test_metric_says_when_nothing_could_be_read_and_when_training_diverged():
    metric = RetrievalMetric()
    with pytest.raises(UserError, match='none of the 3 clips'):
        metric.compute_metrics(samples(3, invalid=(0, 1, 2)))
    broken = samples(3)
    broken[1]['video_embedding'] = torch.full((8,), float('inf'))
    with pytest.raises(UserError, match='diverged'):
        metric.compute_metrics(broken)
