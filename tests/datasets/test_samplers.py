"""StreamShuffle gives every clip once an epoch, in any order, over any number of ranks, from anywhere on, at once."""

import time
import tracemalloc
from itertools import chain, islice
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import booleans, data, integers, lists

from gmscavp.datasets import ShardShuffle, StreamShuffle
from gmscavp.datasets.samplers import round_keys, shuffled
from gmscavp.errors import UserError
from gmscavp.registry import DATA_SAMPLERS

LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 97, 1000, 1024, 8191, 8192, 8193, 65_537, 2**17]


def sampler_of(clips, **options) -> StreamShuffle:
    return StreamShuffle(range(clips), **{'rank': 0, 'ranks': 1, **options})


@pytest.mark.parametrize('clips', LENGTHS)
def test_every_index_once(clips):
    for seed in range(3):
        assert sorted(sampler_of(clips, seed=seed)) == list(range(clips))
    assert len(sampler_of(clips)) == clips


def test_every_index_once_of_many():
    indices = shuffled(np.arange(10**6 + 3, dtype=np.uint64), 10**6 + 3, round_keys(0, 0))
    assert (np.bincount(indices.astype(np.int64), minlength=10**6 + 3) == 1).all()


@pytest.mark.parametrize(('clips', 'ranks'), [(0, 3), (1, 1), (8, 8), (100, 3), (101, 4), (9999, 7), (20_000, 2)])
@pytest.mark.parametrize('uneven', ['drop', 'pad'])
def test_ranks_share_every_clip_evenly(clips, ranks, uneven):
    parts = [list(sampler_of(clips, uneven=uneven, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert {len(part) for part in parts} == {len(sampler_of(clips, uneven=uneven, ranks=ranks))}
    given = list(chain(*parts))
    if uneven == 'drop':
        assert len(set(given)) == len(given) == clips - clips % ranks
    else:
        assert set(given) == set(range(clips))
        assert len(given) - clips == -clips % ranks
        # MMEngine's collection over ranks keeps the first of them, taken in turns.
        assert len(set(list(chain(*zip(*parts, strict=True)))[:clips])) == clips


@pytest.mark.parametrize(('before', 'after', 'steps'), [(4, 2, 7), (2, 4, 10), (8, 1, 3), (3, 5, 6), (1, 7, 15)])
def test_an_epoch_goes_on_over_another_number_of_ranks(before, after, steps):
    # What the first ranks have given is a beginning of the order, which depends on seed and epoch alone.
    given = list(chain(*(list(sampler_of(840, seed=2, rank=rank, ranks=before))[:steps] for rank in range(before))))
    rest = [sampler_of(840, seed=2, rank=rank, ranks=after) for rank in range(after)]
    for sampler in rest:
        sampler.skip(before * steps // after)
    given += chain(*rest)
    again = before * steps % after
    assert set(given) == set(range(840))
    assert len(given) == 840 + again < 840 + after


def test_what_is_left_out_differs_from_epoch_to_epoch():
    left = set()
    for epoch in range(20):
        samplers = [sampler_of(101, rank=rank, ranks=4) for rank in range(4)]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        left |= set(range(101)) - set(chain(*samplers))
    assert len(left) > 10


def test_seed_and_epoch_alone_decide_the_order():
    def order(seed, epoch):
        sampler = sampler_of(100, seed=seed)
        sampler.set_epoch(epoch)
        assert list(sampler) == list(sampler)
        return tuple(sampler)

    assert order(1, 2) == order(1, 2)
    assert len({order(seed, epoch) for seed in range(5) for epoch in range(5)}) == 25
    assert order(None, 0) == order(0, 0)


@pytest.mark.parametrize('position', [0, 1, 4999, 8192, 9999, 10_000])
def test_resuming_in_the_midst_gives_the_rest(position):
    whole, again = (sampler_of(20_000, seed=3, rank=1, ranks=2) for _ in range(2))
    again.skip(position)
    assert list(again) == list(whole)[position:]
    assert list(again) == list(whole), 'the epoch after is whole'


def test_an_order_begun_keeps_its_epoch():
    sampler = sampler_of(100)
    expected, begun = list(sampler), iter(sampler)
    sampler.set_epoch(1)
    assert list(begun) == expected != list(sampler)


@pytest.mark.parametrize('clips', [2, 3, 4])
def test_all_orders_of_few_are_alike(clips):
    """Chi squared over the n! orders, 40 draws each: at most 5 standard deviations beyond its mean."""
    orders = int(np.prod(range(1, clips + 1)))
    drawn = [tuple(shuffled(np.arange(clips, dtype=np.uint64), clips, round_keys(seed))) for seed in range(40 * orders)]
    counts = np.unique(np.array(drawn), axis=0, return_counts=True)[1]
    assert len(counts) == orders
    assert ((counts - 40) ** 2 / 40).sum() < orders - 1 + 5 * np.sqrt(2 * (orders - 1))


def test_an_order_of_many_has_no_trend_and_no_neighbours():
    clips = 100_000
    order = np.array(list(sampler_of(clips, seed=1)))
    assert abs(np.corrcoef(order, np.arange(clips))[0, 1]) < 5 / np.sqrt(clips)
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 5 / np.sqrt(clips)
    # Two in `clips` pairs of neighbours stay neighbours in a random order.
    assert (np.abs(np.diff(order)) == 1).sum() < 15
    # Each hundredth of the order draws evenly from each hundredth of the clips: 9,801 degrees of freedom.
    table = np.histogram2d(np.arange(clips), order, 100)[0]
    assert abs(((table - 10) ** 2 / 10).sum() - 99**2) < 5 * np.sqrt(2) * 99


def test_seventy_million_clips_begin_at_once_and_take_no_memory():
    tracemalloc.start()
    started = time.process_time()
    sampler = sampler_of(70_000_000, rank=5, ranks=8)
    first = list(islice(sampler, 20_000))
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(first)) == 20_000
    assert max(first) < 70_000_000
    # A permutation of all takes 560 MB and seconds.
    assert peak < 5e6
    assert seconds < 1


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"'pat' is none of drop, pad\. Did you mean pad"):
        sampler_of(8, uneven='pat')
    with pytest.raises(UserError, match='8 clips cannot be shared out among 9 ranks'):
        sampler_of(8, ranks=9)
    with pytest.raises(UserError, match='position: 9 is not within the 8 clips'):
        sampler_of(8).skip(9)


def test_configs_find_it_by_name():
    built = DATA_SAMPLERS.build(dict(type='StreamShuffle', dataset=[1, 2], seed=1))
    assert sorted(built) == [0, 1]


@given(clips=integers(1, 3000), ranks=integers(1, 9), seed=integers(0, 2**63), epoch=integers(0, 10**6), pad=booleans())
def test_any_clips_over_any_ranks_come_once_an_epoch(clips, ranks, seed, epoch, pad):
    ranks = min(ranks, clips)
    samplers = [
        sampler_of(clips, seed=seed, uneven='pad' if pad else 'drop', rank=rank, ranks=ranks) for rank in range(ranks)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    in_turn = list(chain(*zip(*samplers, strict=True)))
    assert len(in_turn) == ranks * len(samplers[0])
    whole = clips if pad else clips - clips % ranks
    assert len(set(in_turn[:whole])) == whole
    assert set(in_turn) <= set(range(clips))
    assert in_turn[whole:] == in_turn[: len(in_turn) - whole]


@given(data())
def test_an_epoch_goes_on_anywhere_over_any_other_number_of_ranks(draw):
    clips = draw.draw(integers(1, 500), 'clips')
    before, after = (draw.draw(integers(1, min(8, clips)), 'ranks') for _ in range(2))
    steps = draw.draw(integers(0, clips // before), 'steps')
    order = list(sampler_of(clips, seed=7))
    given_out = list(chain(*(list(sampler_of(clips, seed=7, rank=r, ranks=before))[:steps] for r in range(before))))
    rest = [sampler_of(clips, seed=7, rank=rank, ranks=after) for rank in range(after)]
    for sampler in rest:
        sampler.skip(before * steps // after)
    told = given_out + list(chain(*rest))
    reached = max(before * steps, clips - clips % after)
    assert set(told) == set(order[:reached])
    # Less than one step of the ranks is given again.
    assert len(told) - reached < after


@given(
    sizes=lists(integers(1, 40), min_size=1, max_size=12),
    window=integers(1, 60),
    ranks=integers(1, 5),
    seed=integers(0, 1000),
    pad=booleans(),
)
def test_shards_of_any_sizes_come_once_an_epoch(sizes, window, ranks, seed, pad):
    clips, ranks = sum(sizes), min(ranks, sum(sizes))
    shards = SimpleNamespace(shard_starts=np.cumsum([0, *sizes]))
    parts = [list(ShardShuffle(shards, seed, window, 'pad' if pad else 'drop', rank, ranks)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    found = list(chain(*parts))
    assert set(found) <= set(range(clips))
    assert len(set(found)) == (clips if pad else clips - clips % ranks)
    assert len(found) == (clips + -clips % ranks if pad else clips - clips % ranks)
