"""Ranks and figures of retrieval against a plain sort, and the promises about ties."""

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import integers
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.evaluation import one_pass, retrieval
from gmscavp.evaluation.metrics import RetrievalMetric
from gmscavp.evaluation.one_pass import share_of, two_way_best, two_way_ranks
from gmscavp.evaluation.reranking import FirstPlaces
from gmscavp.evaluation.retrieval import (
    Gallery,
    direction_figures,
    rank_figures,
    retrieval_figures,
    retrieval_ranks,
)


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


def test_what_is_just_as_far_off_as_a_tie_may_be_still_ties():
    assert retrieval.ranks_of_rows(torch.tensor([[0.0, -one_pass.TIE], [-1.0, 0.0]]), 0).tolist() == [2, 1]


def test_the_right_item_is_never_behind_itself_however_blocks_round():
    clips = torch.eye(30)

    def rounded(video, audio):
        # Blocks that are not square come out a little lower.
        return video @ audio.T - 1e-4 * (len(video) != len(audio))

    for ranks in two_way_ranks(clips, clips, 5, rounded):
        assert ranks.tolist() == [1] * 30


def test_both_zeros_are_one_place():
    table = torch.tensor([[-1.0, -0.0, 0.0], [0.0, -1.0, -0.0], [0.0, 0.0, -1.0]])
    numbers = torch.arange(3.0)[:, None]
    found, _ = two_way_best(numbers, numbers, 3, 3, lambda v, a: table[v[:, 0].long()][:, a[:, 0].long()])
    assert found.items.tolist() == [[1, 2, 0], [0, 2, 1], [0, 1, 2]]


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


def lopsided(video, audio):
    """A similarity whose two sides cannot change places."""
    return (video * torch.arange(1.0, video.shape[1] + 1)) @ audio.roll(1, dims=1).T


def test_similarity_is_that_of_videos_to_audios_whole_and_in_means_of_blocks(monkeypatch):
    monkeypatch.setattr(retrieval, 'CHUNK', 4)
    video, audio = unit(11, 6), unit(11, 6, seed=1)
    gallery = Gallery([str(i) for i in range(11)], video, audio, lopsided)
    whole = lopsided(video, audio)
    for most in (None, 11, 99):
        torch.testing.assert_close(torch.from_numpy(gallery.similarity(most)), whole)
    small = gallery.similarity(3)
    edges = [0, 3, 7, 11]
    for i in range(3):
        for j in range(3):
            block = whole[edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
            assert small[i, j] == pytest.approx(block.mean().item(), rel=1e-4, abs=1e-6)
    turned = gallery.ordered(torch.tensor([4, 0, 7]))
    assert turned.clip_ids == ['4', '0', '7']
    torch.testing.assert_close(torch.from_numpy(turned.similarity()), whole[[4, 0, 7]][:, [4, 0, 7]])


def test_queries_of_their_own_and_new_places_count_in_their_direction_alone():
    video, audio, ask_v, ask_a = (unit(9, 5, seed=seed) for seed in range(4))
    plain = Gallery(['x'] * 9, video, audio, lopsided)
    asked = Gallery(['x'] * 9, video, audio, lopsided, ask_v, ask_a)
    assert (plain.plain, asked.plain) == (True, False)
    expected = {'v2a': lopsided(ask_v, audio), 'a2v': lopsided(video, ask_a).T}
    for chunk in (2, 100):
        for way, ranks in zip(('v2a', 'a2v'), asked.ranks(chunk), strict=True):
            assert torch.equal(ranks, retrieval.ranks_of_rows(expected[way], 0))
            assert torch.equal(asked.candidates(3, chunk)[way], expected[way].topk(3).indices)
            torch.testing.assert_close(asked.rows(way, 2, 6), expected[way][2:6])
    # One side asks anew, the other as before.
    for half in (
        Gallery(['x'] * 9, video, audio, lopsided, ask_v),
        Gallery(['x'] * 9, video, audio, lopsided, None, ask_a),
    ):
        assert not half.plain
    # The right item is put first for v2a; a2v stays.
    first = FirstPlaces(torch.arange(9)[:, None], torch.zeros(9, 1))
    anew = Gallery(['x'] * 9, video, audio, lopsided, first_places={'v2a': first})
    assert not anew.plain
    for chunk in (2, 100):
        v2a, a2v = anew.ranks(chunk)
        assert v2a.tolist() == [1] * 9
        assert torch.equal(a2v, plain.ranks()[1])


@pytest.mark.parametrize('chunk', [1, 4, 50])
def test_a_lopsided_similarity_keeps_its_sides(chunk):
    video, audio = unit(23, 6), unit(23, 6, seed=1)
    scores = lopsided(video, audio).double()
    expected = [[int((row >= row[i] - 1e-6).sum()) for i, row in enumerate(side)] for side in (scores, scores.T)]
    assert [found.tolist() for found in two_way_ranks(video, audio, chunk, lopsided)] == expected
    assert retrieval_ranks(video, audio, chunk, lopsided).tolist() == expected[0]
    v2a, a2v = two_way_best(video, audio, 23, chunk, lopsided)
    for best, side in ((v2a, scores), (a2v, scores.T)):
        expected = side.sort(dim=1, descending=True).values
        torch.testing.assert_close(best.scores.double(), expected, rtol=0, atol=2e-6)


def test_who_does_not_share_the_work_waits_for_no_other_process(monkeypatch):
    def waiting(_answers):
        raise AssertionError('another process was asked')

    monkeypatch.setattr(one_pass, 'gather_objects', waiting)
    video, audio = unit(9, 5), unit(9, 5, seed=1)
    gallery = Gallery(['x'] * 9, video, audio)
    for work in (two_way_ranks, lambda *sides: two_way_best(*sides, 3)):
        assert len(work(video, audio)) == 2
    assert len(gallery.ranks()) == len(gallery.candidates(3)) == 2


def test_figures_of_both_directions_beside_chance():
    found = rank_figures(torch.tensor([1, 2, 3, 20]), torch.tensor([1, 1, 7, 30]))
    assert (found['v2a_R1'], found['a2v_R1'], found['mean_R1'], found['N']) == (25, 50, 37.5, 4)
    assert (found['v2a_MedR'], found['a2v_MedR']) == (2.5, 4)
    assert [found[f'chance_R{k}'] for k in (1, 5, 10)] == [25, 100, 100]


@given(integers(0, 60), integers(1, 9))
def test_pieces_of_work_are_shared_out_evenly(pieces, ranks):
    with pytest.MonkeyPatch.context() as patch:
        shares = []
        for rank in range(ranks):
            patch.setattr(one_pass, 'world', lambda rank=rank: (rank, ranks))
            shares.append(share_of(pieces))
            assert share_of(pieces, spread=False) == range(pieces)
    assert [piece for share in shares for piece in share] == list(range(pieces))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
