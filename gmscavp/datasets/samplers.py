"""The order in which clips are trained on: random, and begun at once however many clips there are."""

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch.utils.data import Sampler

from gmscavp.distributed import world
from gmscavp.errors import UserError, near_names
from gmscavp.registry import DATA_SAMPLERS

UNEVEN = ('drop', 'pad')

# Four would do for 64 bits (Luby and Rackoff 1988); small halves need more until all orders come up alike.
_ROUNDS = 12

# Computed at a time: 100 ns an index, and 64 KiB.
_BLOCK = 8192


@DATA_SAMPLERS.register_module()
class StreamShuffle(Sampler[int]):
    """Every clip once an epoch over all ranks, in an order that is computed on the way: no list of all clips is made.

    dataset: anything with a length. seed and the epoch given to set_epoch alone decide the order. uneven: what to do with
    the clips (fewer than one a rank) that do not share out evenly: 'drop' them, other ones every epoch (training), or
    'pad', so that none is left out and some ranks end with a clip of the beginning again (evaluation). rank, ranks: of
    this process; by default those of the process group.
    """

    def __init__(
        self,
        dataset: Sized,
        seed: int | None = None,
        uneven: str = 'drop',
        rank: int | None = None,
        ranks: int | None = None,
    ) -> None:
        self.clips, self.epoch, self.position = len(dataset), 0, 0
        self.seed = 0 if seed is None else seed
        self.rank, self.ranks = (world()[0] if rank is None else rank), (world()[1] if ranks is None else ranks)
        self.steps = steps_of_rank(type(self).__name__, self.clips, uneven, self.rank, self.ranks)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[int]:
        # Read now: workers ask for the first clips when the next epoch is about to be set.
        first, self.position = self.position, 0
        return self._from(first, round_keys(self.seed, self.epoch))

    def _from(self, first: int, keys: np.ndarray) -> Iterator[int]:
        for begin in range(first, self.steps, _BLOCK):
            own = np.arange(begin, min(begin + _BLOCK, self.steps), dtype=np.uint64)
            places = (own * np.uint64(self.ranks) + np.uint64(self.rank)) % np.uint64(self.clips)
            yield from shuffled(places, self.clips, keys).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Draw another order; MMEngine's DistSamplerSeedHook calls it at the start of every epoch."""
        self.epoch = epoch

    def skip(self, position: int) -> None:
        """Begin the next epoch, and no later one, after so many of this rank's clips, at no cost: to resume there."""
        if not 0 <= position <= self.steps:
            raise UserError(f'position: {position} is not within the {self.steps} clips of an epoch.')
        self.position = position


def steps_of_rank(name: str, clips: int, uneven: str, rank: int, ranks: int) -> int:
    """How many clips each rank gives an epoch; the first rank says what happens to the others. name: the sampler's.

    Raises UserError for an unknown `uneven`, and when there are too few clips.
    """
    if uneven not in UNEVEN:
        raise UserError(f'uneven: {uneven!r} is none of {", ".join(UNEVEN)}.{near_names(str(uneven), UNEVEN)}')
    if uneven == 'drop' and 0 < clips < ranks:
        raise UserError(f'{clips} clips cannot be shared out among {ranks} ranks; use fewer.')
    left = clips % ranks
    if left and rank == 0:
        done = f'{left} are left out' if uneven == 'drop' else f'{ranks - left} are given twice'
        print_log(f'{name}: of {clips:,} clips {done} every epoch, for {ranks} ranks', logger='current')
    return clips // ranks if uneven == 'drop' else -(-clips // ranks)


def round_keys(*seeds: int) -> np.ndarray:
    """(rounds,) uint64 that decide an order."""
    return np.random.SeedSequence([*seeds]).generate_state(_ROUNDS, np.uint64)


def shuffled(places: np.ndarray, length: int, keys: np.ndarray) -> np.ndarray:
    """Which index stands at each place of a random order of 0 .. length - 1: (N,) uint64 -> (N,) uint64.

    A Feistel network permutes the next power of two; what falls beyond `length` is sent through again until it falls
    inside (cycle walking; Black and Rogaway 2002), twice on average at most. Every order is a permutation, whatever `keys`.
    """
    bits = max((length - 1).bit_length(), 2)
    indices = _feistel(places, bits, keys)
    beyond = np.flatnonzero(indices >= length)
    while len(beyond):
        indices[beyond] = _feistel(indices[beyond], bits, keys)
        beyond = beyond[indices[beyond] >= length]
    return indices


def _feistel(values: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """(N,) uint64 below 2^bits -> (N,), one to one: each half in turn is changed by a hash of the other."""
    low_bits, high_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    low, high = values & _ones(low_bits), values >> low_bits
    for number, key in enumerate(keys):
        if number % 2:
            high = high ^ _hash(low, key) >> np.uint64(64) - high_bits
        else:
            low = low ^ _hash(high, key) >> np.uint64(64) - low_bits
    return high << low_bits | low


def _ones(bits: Any) -> Any:
    return (np.uint64(1) << bits) - np.uint64(1)


def _hash(values: np.ndarray, key: Any) -> np.ndarray:
    """(N,) uint64 -> (N,) uint64: by the constants of splitmix64 (Steele et al. 2014); best in its upper bits."""
    mixed = (values + key) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    return mixed
