"""Answers: merged where windows overlap, placed by fine scales, filtered, and what the maths of it must obey."""

import numpy as np
import pytest

from gmscavp.errors import UserError
from gmscavp.search import Answer, Filters, carry_out, find, library_store, plan
from gmscavp.search.scoring import joint, merged, overlap, shifted_similarity
from tests.searching import LENGTHS, TOKEN_S, StandInModel, write_file

MODEL = StandInModel()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('library')
    for seed in range(6):
        write_file(root / f'kind{seed % 2}/{seed}.mp4', seed, 8.0 + 8 * seed)
    return root


@pytest.fixture(scope='module')
def store(root, tmp_path_factory):
    store = library_store(str(tmp_path_factory.mktemp('db')), MODEL, root, 1.0)
    labels = {f'kind{seed % 2}/{seed}.mp4': f'label {seed}' for seed in range(3)}
    list(carry_out(plan(store, root, labels), store, MODEL, root))
    return store


def random_hits(rng, count=60):
    starts, scores = rng.integers(0, 30, count), rng.random(count)
    return [
        Answer(str(rng.integers(3)), float(start), float(start + rng.integers(1, 6)), float(score), 'audio')
        for start, score in zip(starts, scores, strict=True)
    ]


@pytest.mark.parametrize('seed', range(10))
def test_merged_answers_do_not_overlap_cover_every_hit_and_know_no_order(seed):
    rng = np.random.default_rng(seed)
    hits = random_hits(rng)
    answers = merged(hits)
    assert not any(overlap(one, other) for k, one in enumerate(answers) for other in answers[:k])
    assert all(any(overlap(hit, a) and a.score >= hit.score for a in answers) for hit in hits)
    assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
    assert sum(a.windows for a in answers) == len(hits)
    assert merged([hits[k] for k in rng.permutation(len(hits))]) == answers
    assert merged(answers) == answers


def test_windows_that_touch_and_other_sides_stay_apart():
    apart = [Answer('a', 0, 4, 0.9, 'audio'), Answer('a', 4, 8, 0.8, 'audio'), Answer('a', 0, 4, 0.7, 'video')]
    assert merged(apart) == apart


def test_joint_scores_are_means_in_which_missing_windows_count_nothing():
    here, there = Answer('a', 0, 8, 0.6, 'audio'), Answer('b', 0, 8, 0.8, 'audio')
    answers = joint([[here], [here, there]])
    assert [(a.file, a.score) for a in answers] == [('a', pytest.approx(0.6)), ('b', pytest.approx(0.4))]
    hits = random_hits(np.random.default_rng(0))
    assert joint([hits]) == merged(hits)


def test_unshifted_similarity_is_the_inner_product_and_a_shift_finds_its_tokens():
    rng = np.random.default_rng(0)
    width = sum(LENGTHS) * 8
    query, gallery = rng.standard_normal(width), rng.standard_normal((5, width))
    scores = shifted_similarity(query, gallery, LENGTHS, 3)
    assert np.allclose(scores[:, 3], gallery @ query)
    fine = rng.standard_normal((40, 8))
    fine /= np.linalg.norm(fine, axis=1, keepdims=True)
    for k in range(-3, 4):
        one, other = fine[10 + k : 26 + k].ravel() / 4, fine[10:26].ravel() / 4
        found = shifted_similarity(one, other[None], [16], 3)[0]
        assert found.argmax() - 3 == k
        assert found.max() == pytest.approx(1)


@pytest.mark.parametrize('start_s', [0.0, 3.0, 7.25, 13.5, 20.75])
@pytest.mark.parametrize('side', ['video', 'audio'])
def test_a_part_is_found_where_it_is_also_between_strides(store, root, start_s, side):
    best = find(store, MODEL, root / 'kind1/3.mp4', side, start_s=start_s, end_s=start_s + 4)[0]
    assert (best.file, best.modality) == ('kind1/3.mp4', 'audio' if side == 'video' else 'video')
    assert best.start_s == pytest.approx(start_s, abs=TOKEN_S / 2)
    assert best.end_s == pytest.approx(start_s + 4, abs=TOKEN_S / 2)


def test_a_part_shorter_than_a_window_is_answered_by_places_as_short(store, root):
    best = find(store, MODEL, root / 'kind1/3.mp4', 'video', start_s=6, end_s=8)[0]
    assert (best.file, best.start_s, best.end_s) == ('kind1/3.mp4', 6.0, 8.0)


def test_without_fine_scales_the_place_is_a_stride(store, root):
    best = find(store, MODEL, root / 'kind1/3.mp4', 'video', start_s=7.25, end_s=11.25, rerank=False)[0]
    assert best.start_s in (7.0, 8.0)


def test_a_long_query_is_one_place_as_long(store, root):
    best, *others = find(store, MODEL, root / 'kind1/5.mp4', 'video', start_s=5, end_s=25)
    assert best.file == 'kind1/5.mp4'
    assert (best.start_s, best.end_s) == (pytest.approx(5, abs=TOKEN_S), pytest.approx(25, abs=TOKEN_S))
    assert all(best.score > other.score for other in others)


def test_the_same_side_can_be_asked(store, root):
    best = find(store, MODEL, root / 'kind0/4.mp4', 'video', target='video', start_s=8, end_s=12)[0]
    assert (best.file, best.modality, best.start_s) == ('kind0/4.mp4', 'video', 8.0)


def test_filters_limit_and_least_score(store, root):
    def files(**settings):
        return {answer.file for answer in find(store, MODEL, root / 'kind1/5.mp4', 'video', limit=50, **settings)}

    every = {f'kind{seed % 2}/{seed}.mp4' for seed in range(6)}
    assert files() == every
    assert files(filters=Filters(path='kind0/*')) == {name for name in every if name.startswith('kind0')}
    assert files(filters=Filters(path='kind?/3.mp4')) == {'kind1/3.mp4'}
    assert files(filters=Filters(label='label *')) == {'kind0/0.mp4', 'kind1/1.mp4', 'kind0/2.mp4'}
    assert files(filters=Filters(min_duration_s=24, max_duration_s=32)) == {'kind0/2.mp4', 'kind1/3.mp4'}
    assert files(min_score=2.0) == set()
    some, more = (find(store, MODEL, root / 'kind1/5.mp4', 'video', end_s=4, limit=limit) for limit in (3, 50))
    assert [(answer.file, answer.start_s) for answer in some] == [(answer.file, answer.start_s) for answer in more[:3]]
    with pytest.raises(UserError, match='number of seconds'):
        files(filters=Filters(min_duration_s=float('nan')))
