"""An order of shards' clips that is random and yet reads the shards almost in sequence."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from gmscavp.datasets.samplers import steps_of_rank
from gmscavp.distributed import world
from gmscavp.errors import UserError
from gmscavp.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ShardShuffle(Sampler[int]):
    """Every clip once an epoch over all ranks: shards in random order, clips shuffled within a window of that order.

    dataset: Shards. window: how many clips, neighbours in the order of shards, are shuffled together; what lies close in
    time lies close on disk. seed and the epoch given to set_epoch alone decide the order. uneven: what to do with the
    clips (fewer than one a rank) that do not share out evenly: 'drop' them, other ones every epoch (training), or 'pad',
    so that none is left out and some ranks end with a clip of the beginning again (evaluation). rank, ranks: of this
    process; by default those of the process group.
    """

    def __init__(
        self,
        dataset: Any,
        seed: int | None = None,
        window: int = 2048,
        uneven: str = 'drop',
        rank: int | None = None,
        ranks: int | None = None,
    ) -> None:
        if not hasattr(dataset, 'shard_starts'):
            raise UserError(
                f'ShardShuffle orders the clips of Shards, not of {type(dataset).__name__}; set the sampler.'
            )
        if window < 1:
            raise UserError(f'window: {window} is no number of clips; 1 reads in the order of the shards.')
        self.starts = np.asarray(dataset.shard_starts)
        self.seed = 0 if seed is None else seed
        self.window, self.epoch = window, 0
        self.rank, self.ranks = (world()[0] if rank is None else rank), (world()[1] if ranks is None else ranks)
        self.steps = steps_of_rank(type(self).__name__, int(self.starts[-1]), uneven, self.rank, self.ranks)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[int]:
        order = ShardOrder(self.starts, np.random.default_rng((self.seed, self.epoch)))
        begin, end = rank_share(len(order), self.rank, self.ranks, self.steps)
        return self._rows(order, begin, end, np.random.default_rng((self.seed, self.epoch, self.rank + 1)))

    def _rows(self, order: 'ShardOrder', begin: int, end: int, rng: np.random.Generator) -> Iterator[int]:
        # The borders of windows differ from epoch to epoch.
        borders = range(begin + int(rng.integers(self.window)), end, self.window)
        for first, last in pairwise([begin, *borders, end]):
            yield from rng.permutation(order.rows(first, last)).tolist()
        # A clip given twice comes last, where MMEngine's collection over ranks cuts the surplus off.
        yield from order.rows(0, self.steps - (end - begin)).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Draw another order; MMEngine's DistSamplerSeedHook calls it at the start of every epoch."""
        self.epoch = epoch


class ShardOrder:
    """All rows, shards in random order; computed on demand from (K + 1,) first rows of shards and the number of all."""

    def __init__(self, starts: np.ndarray, rng: np.random.Generator) -> None:
        self._shards = rng.permutation(len(starts) - 1)
        self._starts = starts
        self._ends = np.cumsum(np.diff(starts)[self._shards])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, first: int, last: int) -> np.ndarray:
        """(last - first,) rows at these places of the order."""
        places = np.arange(first, last)
        turns = np.searchsorted(self._ends, places, 'right')
        # Counted back from where the next shard begins.
        return self._starts[self._shards[turns] + 1] - (self._ends[turns] - places)


def rank_share(clips: int, rank: int, ranks: int, steps: int) -> tuple[int, int]:
    """The stretch of clips, begin and end, that is a rank's: `steps`, or one less for the last ranks where they run out."""
    short = max(ranks * steps - clips, 0)
    begin = rank * steps - max(rank - (ranks - short), 0)
    return begin, begin + steps - (rank >= ranks - short)
