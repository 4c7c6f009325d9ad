"""An order of shards' clips that is random and yet reads the shards almost in sequence."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch.utils.data import Sampler

from gmscavp.distributed import world
from gmscavp.errors import UserError, near_names
from gmscavp.registry import DATA_SAMPLERS

UNEVEN = ('drop', 'pad')


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
        if uneven not in UNEVEN:
            raise UserError(f'uneven: {uneven!r} is none of {", ".join(UNEVEN)}.{near_names(str(uneven), UNEVEN)}')
        if window < 1:
            raise UserError(f'window: {window} is no number of clips; 1 reads in the order of the shards.')
        self.starts = np.asarray(dataset.shard_starts)
        self.seed = 0 if seed is None else seed
        self.window, self.uneven, self.epoch = window, uneven, 0
        self.rank, self.ranks = (world()[0] if rank is None else rank), (world()[1] if ranks is None else ranks)
        clips = int(self.starts[-1])
        left = clips % self.ranks
        if uneven == 'drop' and clips < self.ranks:
            raise UserError(f'{clips} clips cannot be shared out among {self.ranks} ranks; use fewer.')
        if left and self.rank == 0:
            done = f'{left} are left out' if uneven == 'drop' else f'{self.ranks - left} are given twice'
            print_log(f'ShardShuffle: of {clips:,} clips {done} every epoch, for {self.ranks} ranks', logger='current')

    def __len__(self) -> int:
        clips = int(self.starts[-1])
        return clips // self.ranks if self.uneven == 'drop' else -(-clips // self.ranks)

    def __iter__(self) -> Iterator[int]:
        order = shard_order(self.starts, np.random.default_rng((self.seed, self.epoch)))
        own = rank_share(order, self.rank, self.ranks, len(self))
        shuffled = shuffle_in_windows(own, self.window, np.random.default_rng((self.seed, self.epoch, self.rank + 1)))
        # A clip given twice comes last, where MMEngine's collection over ranks cuts the surplus off.
        again = order[: len(self) - len(own)]
        return iter([*shuffled.tolist(), *again.tolist()])

    def set_epoch(self, epoch: int) -> None:
        """Draw another order; MMEngine's DistSamplerSeedHook calls it at the start of every epoch."""
        self.epoch = epoch


def shard_order(starts: Sequence[int] | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(K + 1,) first rows of shards and the number of all rows -> (N,) all rows, shards in random order."""
    shards = rng.permutation(len(starts) - 1)
    return np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])


def rank_share(order: np.ndarray, rank: int, ranks: int, steps: int) -> np.ndarray:
    """The stretch of (N,) rows that is a rank's: `steps` rows, or one less for the last ranks where N does not suffice."""
    short = max(ranks * steps - len(order), 0)
    begin = rank * steps - max(rank - (ranks - short), 0)
    return order[begin : begin + steps - (rank >= ranks - short)]


def shuffle_in_windows(rows: np.ndarray, window: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) rows in random order within stretches of `window`, whose borders differ from call to call."""
    first = int(rng.integers(window))
    parts = np.split(rows, np.arange(first, len(rows), window))
    return np.concatenate([rng.permutation(part) for part in parts])
