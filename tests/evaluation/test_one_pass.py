"""Ranks and best matches from one pass: equal to the whole matrix, tile by tile, over processes, on ties and halves."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import integers
from torch import multiprocessing
from torch.nn import functional as F

from gmscavp.distributed import start_gloo, stop
from gmscavp.evaluation import one_pass
from gmscavp.evaluation.embedders import Embedder
from gmscavp.evaluation.generation_metric import GenerationMetric
from gmscavp.evaluation.metrics import RetrievalMetric
from gmscavp.evaluation.one_pass import TIE, two_way_best, two_way_ranks
from gmscavp.evaluation.retrieval import Gallery, ranks_of_rows, retrieval_ranks
from gmscavp.registry import EMBEDDERS
from tests.running import free_port


def whole_numbers(count, width=6, seed=0, of=2):
    """Small whole numbers: products without rounding, and ties everywhere."""
    return torch.randint(-of, of + 1, (count, width), generator=torch.Generator().manual_seed(seed)).float()


def unit(count, width=16, seed=0):
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def dense_best(scores, k):
    """By sorting every row: the right item behind all within the tie, others of equal scores by their numbers."""
    order = []
    for i, row in enumerate(scores.tolist()):
        # In float32, as the scores are.
        least = float(scores[i, i] - TIE)
        order.append(sorted(range(len(row)), key=lambda j: (-(least if j == i else row[j]), j == i, j))[:k])
    items = torch.tensor(order)
    return scores.gather(1, items), items


@pytest.mark.parametrize(
    ('count', 'chunk'), [(1, 1), (2, 1), (13, 1), (13, 3), (64, 16), (64, 512), (65, 64), (101, 7), (101, 512)]
)
def test_best_and_ranks_are_those_of_the_whole_matrix_with_ties_everywhere(count, chunk):
    video, audio = whole_numbers(count), whole_numbers(count, seed=1)
    video[count // 2 :] = video[: count - count // 2].clone()  # duplicates
    scores = video @ audio.T
    ranks = two_way_ranks(video, audio, chunk)
    for k in (1, 5, count + 3):
        for best, matrix, places in zip(two_way_best(video, audio, k, chunk), (scores, scores.T), ranks, strict=True):
            values, items = dense_best(matrix, min(k, count))
            assert torch.equal(best.items, items)
            assert torch.equal(best.scores, values)
            found = best.items == torch.arange(count)[:, None]
            assert torch.equal(found.any(dim=1), places <= k)
            assert torch.equal(found.int().argmax(dim=1)[places <= k] + 1, places[places <= k])
    assert torch.equal(ranks[0], ranks_of_rows(scores, 0))
    assert torch.equal(ranks[1], ranks_of_rows(scores.T, 0))


@pytest.mark.parametrize('chunk', [7, 100])
def test_best_of_real_numbers_is_topk(chunk):
    video, audio = unit(300), unit(300, seed=1)
    scores = (video.double() @ audio.double().T).float()
    for best, matrix in zip(two_way_best(video, audio, 20, chunk), (scores, scores.T), strict=True):
        values, items = matrix.topk(20)
        assert torch.allclose(best.scores, values, rtol=0, atol=1e-6)
        # Neighbours as near as rounding may change places.
        apart = (values[:, :-1] - values[:, 1:]).amin(dim=1) > 2 * TIE
        assert apart.float().mean() > 0.9
        assert torch.equal(best.items[apart], items[apart])


def test_negative_zero_and_own_similarities():
    video, audio = torch.tensor([[1.0], [-1.0], [1.0]]), torch.tensor([[1.0], [0.0], [0.0]])
    v2a, _ = two_way_best(video, audio, 3)
    # -1 * 0 is -0: as good as 0, and the right one stands behind.
    assert v2a.items.tolist() == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]
    near, _ = two_way_best(unit(40), unit(40), 3, 7, lambda v, a: -torch.cdist(v, a))
    assert torch.equal(near.items[:, 0], torch.arange(40))


@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(kind):
    video, audio = unit(90, 64).to(kind), unit(90, 64, seed=1).to(kind)
    video[10:14], audio[10:14] = video[10], audio[10]
    wide = video.float(), audio.float()
    for chunk in (7, 512):
        for half, full in zip(two_way_ranks(video, audio, chunk), two_way_ranks(*wide, chunk), strict=True):
            assert torch.equal(half, full)
        for half, full in zip(two_way_best(video, audio, 5, chunk), two_way_best(*wide, 5, chunk), strict=True):
            assert torch.equal(half.items, full.items)
            assert torch.equal(half.scores, full.scores)
    assert torch.equal(two_way_ranks(video, audio)[0], retrieval_ranks(video, audio))
    assert two_way_ranks(video, audio)[0][10:14].min() >= 4


def test_every_score_is_worked_out_once_and_few_are_held():
    seen, largest = torch.zeros(100, 100), 0

    def similarity(video, audio):
        nonlocal largest
        seen[video[:, 0].long()[:, None], audio[:, 0].long()] += 1
        largest = max(largest, len(video) * len(audio))
        return -(video - audio.T).abs()

    numbered = torch.arange(100.0)[:, None]
    blocks = torch.block_diag(*(torch.ones(len(part), len(part)) for part in numbered.split(one_pass._BLOCK)))
    for work in (two_way_ranks, lambda *given: two_way_best(*given[:2], 4, *given[2:])):
        seen.zero_()
        work(numbered, numbered, 5, similarity)
        assert torch.equal(seen, 1 + blocks)
        assert largest <= max(5 * 5 * one_pass._WIDTH, one_pass._BLOCK**2)


def test_mistakes_are_said():
    with pytest.raises(ValueError, match='every query needs its item'):
        two_way_best(unit(3), unit(4), 1)
    with pytest.raises(ValueError, match='not finite'):
        two_way_best(unit(3), unit(3) * torch.nan, 1)
    with pytest.raises(ValueError, match='k must be 1 or more'):
        two_way_best(unit(3), unit(3), 0)


@EMBEDDERS.register_module(force=True)
class FirstSamples(Embedder):
    """The first four samples are the features, and the class scores."""

    def to(self, device):
        pass

    def __call__(self, waveform, sample_rate):
        return waveform[:, :4], waveform[:, :4]


def answers():
    """Ranks, best matches and both metrics' figures over 37 clips, which do not divide by two, one of them unreadable."""
    os.environ.setdefault('LOCAL_RANK', '0')
    rank, ranks = one_pass.world()
    video, audio = unit(37), unit(37, seed=1)
    video[5:9], audio[5:9] = video[5], audio[5]
    best = two_way_best(video, audio, 6, 4, spread=True)
    found = [*two_way_ranks(video, audio, 4, spread=True), *best[0], *best[1]]
    # As a sampler deals clips out: one after the other, the first ones again to fill up.
    mine = [number % 37 for number in range(rank, -(-37 // ranks) * ranks, ranks)]
    retrieval = RetrievalMetric(draws=20)
    retrieval.dataset_meta = {'labels': {f'{number}': [f'{number % 5}'] for number in range(37)}}
    generation = GenerationMetric(embedders=dict(first=dict(type='FirstSamples')), device='cpu')
    for number in mine:
        row = dict(clip_id=f'{number}', valid=number != 3)
        retrieval.process({}, [row | dict(video_embedding=video[number], audio_embedding=audio[number])])
        mel = torch.zeros(2, 2)
        sound = dict(waveform=video[number], real_waveform=audio[number], mel=mel, real_mel=mel, sample_rate=16)
        generation.process({}, [row | sound])
    figures = retrieval.evaluate(37)
    assert retrieval.gallery.clip_ids == [f'{number}' for number in range(37) if number != 3]
    return found, figures, generation.evaluate(37)


def one_rank(rank, ranks, port, folder):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    start_gloo()
    torch.save(answers(), Path(folder, f'{rank}.pt'))
    stop()


def test_two_processes_give_the_bits_of_one(tmp_path):
    port = free_port()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected, retrieval, generation = answers()
    # Forked, so that nothing is imported again; on one thread, as a fork must be.
    multiprocessing.start_processes(one_rank, (2, port, str(tmp_path)), nprocs=2, start_method='fork')
    torch.set_num_threads(threads)
    for rank in range(2):
        found, its_retrieval, its_generation = torch.load(tmp_path / f'{rank}.pt', weights_only=False)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert its_retrieval == retrieval
        assert its_retrieval['retrieval/skipped'] == 1
        assert its_generation == pytest.approx(generation, rel=1e-6)
        assert its_generation['generation/N'] == 36


def test_a_gallery_ranks_and_chooses_by_the_pass():
    video, audio = unit(50), unit(50, seed=1)
    plain = Gallery([f'{i}' for i in range(50)], video, audio)
    own = Gallery(plain.clip_ids, video, audio, video_query=video)
    assert torch.equal(plain.candidates(4)['a2v'], own.candidates(4)['a2v'])
    assert torch.equal(plain.candidates(4, chunk=3)['v2a'], own.candidates(4)['v2a'])
    assert torch.equal(plain.ranks(3)[1], own.ranks(3)[1])


def naive_ranks(scores):
    """Of whole numbers, so that a tie is a tie."""
    return [sum(score >= row[i] for score in row) for i, row in enumerate(scores.tolist())]


@given(integers(1, 40), integers(1, 6), integers(1, 3), integers(1, 50), integers(0, 2**31))
def test_ranks_of_any_clips_in_any_chunks_are_counted_by_hand(count, width, of, chunk, seed):
    video, audio = whole_numbers(count, width, seed, of), whole_numbers(count, width, seed + 1, of)
    scores = video @ audio.T
    v2a, a2v = naive_ranks(scores), naive_ranks(scores.T)
    assert [found.tolist() for found in two_way_ranks(video, audio, chunk)] == [v2a, a2v]
    assert retrieval_ranks(video, audio, chunk).tolist() == v2a
    assert retrieval_ranks(audio, video, chunk).tolist() == a2v
    # Some rows of a matrix, which has more columns.
    first = seed % count
    assert ranks_of_rows(scores[first : first + chunk], first).tolist() == v2a[first : first + chunk]
    names = [f'{number}' for number in range(count)]
    gallery, own = (Gallery(names, video, audio, video_query=query) for query in (None, video))
    assert [found.tolist() for found in gallery.ranks(chunk)] == [v2a, a2v]
    assert [found.tolist() for found in own.ranks(chunk)] == [v2a, a2v]
    # Neither the clips' order nor a common factor of their embeddings is told apart.
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    turned = two_way_ranks(4 * video[order], 0.5 * audio[order], chunk)
    assert [found.tolist() for found in turned] == [[v2a[i] for i in order], [a2v[i] for i in order]]


@given(integers(1, 30), integers(1, 30), integers(1, 5), integers(1, 40), integers(0, 2**31))
def test_the_best_of_any_clips_in_any_chunks_are_those_of_a_sort(count, k, of, chunk, seed):
    video, audio = whole_numbers(count, 3, seed, of), whole_numbers(count, 3, seed + 1, of)
    scores = video @ audio.T
    for best, matrix in zip(two_way_best(video, audio, k, chunk), (scores, scores.T), strict=True):
        values, items = dense_best(matrix, min(k, count))
        assert torch.equal(best.items, items)
        assert torch.equal(best.scores, values)


@given(integers(1, 9), integers(1, 9))
def test_as_many_queries_as_items_or_none(queries, items):
    if queries != items:
        for work in (retrieval_ranks, two_way_ranks):
            with pytest.raises(ValueError, match='every query needs its item'):
                work(unit(queries), unit(items))
