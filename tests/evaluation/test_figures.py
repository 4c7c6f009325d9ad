"""Intervals, figures by class, re-ranking and the one-pass ranks, each against a simple reference."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.evaluation.classes import (
    Relevance,
    average_precision,
    class_figures,
    class_order,
    hits_in_order,
    ndcg,
)
from gmscavp.evaluation.intervals import recall_intervals
from gmscavp.evaluation.metrics import RetrievalMetric
from gmscavp.evaluation.reranking import best_candidates, candidate_errors, reranked
from gmscavp.evaluation.retrieval import (
    Gallery,
    chance_recall,
    rank_figures,
    ranks_of_rows,
    retrieval_figures,
    retrieval_ranks,
    two_way_ranks,
)
from gmscavp.evaluation.tables import figures_table, gallery_words, scales_table


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def pairs(count, width=16, noise=1.0, seed=0):
    video = unit(count, width, seed=seed)
    return video, F.normalize(video + noise * unit(count, width, seed=seed + 1), dim=-1)


def names(count):
    return [f'clip-{i:03d}' for i in range(count)]


@pytest.mark.parametrize('chunk', [1, 7, 64, 130, 500])
def test_one_pass_equals_two_passes_and_the_dense_matrix(chunk):
    video, audio = pairs(130)
    video[20:24], audio[20:24] = video[20], audio[20]  # ties
    dense = (video.double() @ audio.double().T).float()
    v2a, a2v = two_way_ranks(video, audio, chunk)
    assert torch.equal(v2a, ranks_of_rows(dense, 0))
    assert torch.equal(a2v, ranks_of_rows(dense.T, 0))
    assert torch.equal(v2a, retrieval_ranks(video, audio))
    assert torch.equal(a2v, retrieval_ranks(audio, video))
    assert v2a[20:24].min() >= 4


def test_a_similarity_of_ones_own_replaces_the_inner_product():
    video, audio = pairs(40)

    def distance(v, a):
        return -torch.cdist(v, a)

    assert torch.equal(two_way_ranks(video, audio, 7, distance)[0], two_way_ranks(video, audio)[0])
    gallery = Gallery(names(40), video, audio.flip(0), lambda v, a: v @ a.flip(0).T)
    assert retrieval_figures(gallery) == retrieval_figures(Gallery(names(40), video, audio))
    assert np.array_equal(gallery.similarity(), Gallery(names(40), video, audio).similarity())


def test_random_embeddings_stand_within_the_binomial_bounds_of_chance():
    total = 600
    v2a, a2v = two_way_ranks(unit(total, 64), unit(total, 64, seed=1))
    for ranks in (v2a, a2v):
        for k in (1, 5, 10):
            expected = total * chance_recall(total, k) / 100
            assert abs(int((ranks <= k).sum()) - expected) <= 4 * math.sqrt(expected * (1 - k / total))


def test_queries_that_differ_from_the_embeddings_are_used():
    video, audio = pairs(60, noise=3.0)
    gallery = Gallery(names(60), video, audio, video_query=audio, audio_query=video)
    figures = retrieval_figures(gallery)
    assert (figures['v2a_R1'], figures['a2v_R1']) == (100, 100)
    half = Gallery(names(60), video, audio, video_query=audio)
    assert torch.equal(half.ranks(chunk=7)[1], retrieval_ranks(audio, video))


def test_block_means_are_means_of_blocks():
    video, audio = pairs(90)
    gallery = Gallery(names(90), video, audio)
    expected = gallery.similarity().reshape(30, 3, 30, 3).mean(axis=(1, 3))
    assert gallery.similarity(30) == pytest.approx(expected, abs=1e-6)
    assert gallery.similarity(90).shape == gallery.similarity(200).shape == (90, 90)


def naive_class_figures(scores, labels, k=10):
    precision, gain = [], []
    for i, row in enumerate(scores):
        if not labels[i]:
            continue
        relevant = [bool(set(labels[i]) & set(other)) for other in labels]
        order = sorted(range(len(row)), key=lambda j: -row[j] + 1e-6 * relevant[j])
        hits = [relevant[j] for j in order]
        found = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
        precision.append(sum(found) / len(found))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, sum(hits))))
        gain.append(sum(hit / math.log2(place + 2) for place, hit in enumerate(hits[:k])) / ideal)
    return 100 * sum(precision) / len(precision), 100 * sum(gain) / len(gain)


def multi_labels(count, seed=0):
    rng = np.random.default_rng(seed)
    return [sorted(set(rng.choice(list('abcdefg'), rng.integers(0, 4)))) for _ in range(count)]


@pytest.mark.parametrize('chunk', [1, 13, 200])
def test_figures_by_class_equal_plain_loops(chunk):
    video, audio = pairs(70)
    labels = multi_labels(70)
    scores = (video @ audio.T).tolist()
    figures = class_figures(Gallery(names(70), video, audio), dict(zip(names(70), labels, strict=True)), chunk)
    for way, matrix in (('v2a', scores), ('a2v', list(zip(*scores, strict=True)))):
        precision, gain = naive_class_figures(matrix, labels)
        assert figures[f'{way}_mAP'] == pytest.approx(precision, abs=1e-3)
        assert figures[f'{way}_nDCG10'] == pytest.approx(gain, abs=1e-3)
    assert figures['labelled'] == sum(map(bool, labels))


def test_precision_and_gain_on_known_orders():
    hits = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert average_precision(hits)[:3].tolist() == pytest.approx([5 / 6, 1 / 4, 1])
    assert ndcg(hits)[:3].tolist() == pytest.approx([1.5 / (1 + 1 / math.log2(3)), 1 / math.log2(5), 1])
    assert ndcg(hits, 2)[1] == 0
    assert average_precision(hits).isnan()[3]
    assert ndcg(hits).isnan()[3]


def test_ties_count_against_the_query_by_class_too():
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.1]])
    hits = hits_in_order(scores, torch.tensor([[True, False, False, False]]))
    assert hits.tolist() == [[False, False, True, False]]


def test_without_labels_there_are_no_figures_by_class():
    video, audio = pairs(5)
    assert class_figures(Gallery(names(5), video, audio), {}) == {}


def test_relevance_is_a_shared_label():
    relevance = Relevance([['a'], ['b', 'a'], ['b'], []])
    assert relevance.rows(0, 3).tolist() == [
        [True, True, False, False],
        [True, True, True, False],
        [False, True, True, False],
    ]


def test_a_shuffle_of_the_gallery_changes_no_figure():
    video, audio = pairs(80)
    labels = dict(zip(names(80), multi_labels(80), strict=True))
    order = torch.randperm(80, generator=torch.Generator().manual_seed(3))
    galleries = [
        Gallery(names(80), video, audio),
        Gallery([names(80)[i] for i in order], video[order], audio[order]),
    ]
    first, second = ([retrieval_figures(g), class_figures(g, labels), recall_intervals(*g.ranks())] for g in galleries)
    for before, after in zip(first, second, strict=True):
        assert before.keys() == after.keys()
        for name in before:
            assert before[name] == pytest.approx(after[name], abs=1e-4), name


def test_intervals_are_those_of_drawing_clip_by_clip():
    v2a, a2v = two_way_ranks(*pairs(300, noise=2.0))
    rng = np.random.default_rng(5)
    drawn = [rank_figures(v2a[i], a2v[i]) for i in (torch.from_numpy(rng.integers(0, 300, 300)) for _ in range(800))]
    for name, (low, high) in recall_intervals(v2a, a2v, draws=20_000).items():
        expected = np.percentile([figures[name] for figures in drawn], (2.5, 97.5))
        assert (low, high) == pytest.approx(expected, abs=1.2), name
        assert low <= rank_figures(v2a, a2v)[name] <= high


def test_intervals_depend_on_the_seed_alone_and_cover_the_truth():
    ranks = torch.randint(1, 40, (200,), generator=torch.Generator().manual_seed(0))
    assert recall_intervals(ranks, ranks, seed=3) == recall_intervals(ranks, ranks, seed=3)
    assert recall_intervals(ranks, ranks, seed=3) != recall_intervals(ranks, ranks, seed=4)
    generator, covered = torch.Generator().manual_seed(1), 0
    for trial in range(200):
        hit = torch.rand(2, 400, generator=generator) < 0.3
        low, high = recall_intervals(*(2 - hit.long()), seed=trial)['v2a_R1']
        covered += low <= 30 <= high
    assert 0.9 <= covered / 200 <= 0.98


def test_reranking_moves_candidates_only_and_by_their_error():
    scores = torch.tensor([[0.1, 0.9, 0.8, 0.7, 0.2]])
    candidates = best_candidates(scores, 3)
    assert candidates.tolist() == [[1, 2, 3]]
    after = reranked(scores, candidates, torch.tensor([[3.0, 2.0, 1.0]]))
    assert after.argsort(dim=1, descending=True).tolist() == [[3, 2, 1, 4, 0]]
    tied = reranked(scores, candidates, torch.tensor([[2.0, 2.0, 1.0]]))
    assert tied[0, 1] == tied[0, 2] < tied[0, 3]


def test_reranking_by_falling_score_changes_no_rank():
    video, audio = pairs(50, noise=2.0)
    scores = video @ audio.T
    candidates = best_candidates(scores, 8)
    after = reranked(scores, candidates, -scores.gather(1, candidates))
    assert torch.equal(ranks_of_rows(after, 0), ranks_of_rows(scores, 0))
    assert best_candidates(scores, 99).shape == (50, 50)


def test_errors_of_candidates_are_those_of_their_pairs():
    query, items = [unit(9, 4, 3), unit(9, 1, 3)], [unit(9, 4, 3, seed=1), unit(9, 1, 3, seed=1)]
    candidates = torch.randint(0, 9, (9, 5))
    sizes = []

    def error(q, c):
        sizes.append(len(q[0]))
        return sum(((x - y) ** 2).sum(dim=(1, 2)) for x, y in zip(q, c, strict=True))

    found = candidate_errors(error, query, items, candidates, batch=7)
    assert max(sizes) == 7
    i, k = 4, 2
    expected = error([s[i : i + 1] for s in query], [s[candidates[i, k]][None] for s in items])
    assert found[i, k] == pytest.approx(expected.item())


class TwoScales(nn.Module):
    """A model of two scales whose second alone is right, and whose denoiser knows the truth."""

    def __init__(self, rerank=0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.head = nn.Module()
        self.head.lengths = [2, 1]
        self.head.similarity = lambda v, a: v[:, 8:] @ a[:, 8:].T
        self.rerank = type('Rerank', (), {'top': rerank}) if rerank else None

    def split_scales(self, embedding):
        return [embedding[:, :8], embedding[:, 8:]]

    def matching_error(self, direction, query, candidate):
        assert direction in ('v2a', 'a2v')
        return (query[0] - candidate[0]).abs().sum(dim=(1, 2))


def samples(count, tokens=False):
    same = unit(count, 4, seed=2)
    video, audio = (torch.cat([unit(count, 8, seed=seed), same], dim=1) for seed in (0, 1))
    clips = []
    for i, name in enumerate(names(count)):
        clip = {'clip_id': name, 'valid': True, 'video_embedding': video[i], 'audio_embedding': audio[i]}
        own = [torch.full((2, 3), float(i))]
        clips.append(clip | ({'video_tokens': own, 'audio_tokens': own} if tokens else {}))
    return clips


def test_metric_uses_the_models_similarity_and_gives_every_scale():
    metric = RetrievalMetric()
    metric.process(None, samples(40))
    alone = metric.evaluate(40)
    assert alone['retrieval/mean_R1'] < 100
    assert metric.details['scales'] == []
    metric.model = TwoScales()
    metric.process(None, samples(40))
    figures = metric.evaluate(40)
    assert figures['retrieval/mean_R1'] == 100
    fine, coarse = metric.details['scales']
    assert (fine['steps'], coarse['steps']) == (2, 1)
    assert fine['metrics']['mean_R1'] < 50 < coarse['metrics']['mean_R1']
    assert set(fine['intervals']) == set(metric.details['intervals'])
    assert 'N' not in fine['metrics']


def test_metric_ranks_the_best_candidates_anew():
    metric = RetrievalMetric(draws=0, per_scale=False)
    metric.model = TwoScales(rerank=40)
    metric.model.head.similarity = lambda v, a: v[:, :8] @ a[:, :8].T
    metric.process(None, samples(40, tokens=True))
    assert metric.evaluate(40)['retrieval/mean_R1'] == 100
    assert (metric.details['reranked'], metric.details['intervals']) == (40, {})
    metric.model.rerank.top = 5
    metric.process(None, samples(40, tokens=True))
    figures = metric.evaluate(40)
    assert figures['retrieval/v2a_R1'] == figures['retrieval/v2a_R5'] < 100


def test_metric_says_which_gallery_it_compared():
    metric = RetrievalMetric()
    labels = dict(zip(names(6), [['x'], ['x'], ['y'], ['y'], ['z'], []], strict=True))
    facts = {'protocol': 'P', 'hash': 'sha256:0123456789abcdef', 'listed': 8, 'found': 7, 'missing': ['q']}
    metric.dataset_meta = {'labels': labels, 'gallery': facts}
    clips = samples(7)
    clips[6]['valid'] = False
    metric.process(None, clips)
    figures = metric.evaluate(7)
    assert figures['retrieval/labelled'] == 5
    assert metric.details['gallery'] == facts | {'compared': 6, 'skipped': 1}
    assert 'P: found 7 of 8 listed clips, compared 6; sha256:0123456789ab' in gallery_words(metric.details)
    assert 'tie' in metric.details['tie_rule']
    with pytest.raises(UserError, match='draws'):
        RetrievalMetric(draws=-1)


def test_tables_hold_what_was_measured_and_nothing_else():
    video, audio = pairs(30)
    gallery = Gallery(names(30), video, audio)
    figures = retrieval_figures(gallery)
    plain = figures_table(figures, {})
    assert plain.headings == ['', 'R@1', 'R@5', 'R@10', 'MedR', 'MeanR']
    assert [len(cells) for _, cells in plain.rows] == [5, 5, 5]
    assert plain.rows[2] == ('chance', ['3.3', '16.7', '33.3', '15.5', '15.5'])
    by_class = class_figures(gallery, {name: ['x'] for name in names(30)})
    full = figures_table(figures | by_class, {'v2a_R1': (1.0, 2.0)})
    assert full.headings[-2:] == ['mAP', 'nDCG@10']
    assert full.rows[0][1][0].endswith(' (1.0–2.0)')
    assert full.rows[0][1][-2:] == ['100.0', '100.0']
    assert full.rows[2][1][-2:] == ['–', '–']
    assert scales_table([]).rows == []
    assert gallery_words({}) == ''


def test_classes_stand_together_in_pictures():
    labels = {'a': ['dog'], 'b': ['cat', 'dog'], 'c': ['dog'], 'd': []}
    order, borders = class_order(['d', 'c', 'b', 'a'], labels)
    assert order == [2, 3, 1, 0]
    assert borders == [1, 3]
