"""The only file with collectives: everything else asks here."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx

# Features and gradients are on their way to the same rank at the same time.
_FEATURES, _GRADIENTS = 1, 2

# How gloo and NCCL say that a rank is not there, or no longer.
_LOST = (
    'Connection closed by peer',
    'Connection reset by peer',
    'Broken pipe',
    'Timed out waiting',
    'remote process exited or there was a network error',
)

# Process groups that were left, kept: where a DistributedDataParallel is the last to let go of one, torch waits for gloo's
# threads without giving up Python's lock, for which they may be waiting themselves.
_left: list[Any] = []


def world() -> tuple[int, int]:
    """(rank, number of ranks); (0, 1) where no process group runs."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


@lru_cache(maxsize=1)
def _hosts(everyone: Any) -> Any:
    """The ranks over a network of tensors on the CPU, so that sizes do not wait for what a GPU still has to do."""
    return everyone if distributed.get_backend(everyone) == 'gloo' else distributed.new_group(backend='gloo')


def batch_sizes(rows: int) -> list[int]:
    """How many rows every rank brings, in rank order; [rows] without a process group."""
    _, ranks = world()
    if ranks == 1:
        return [rows]
    sizes = torch.empty(ranks, dtype=torch.int64)
    own = torch.tensor([rows])
    distributed.all_gather(list(sizes.split(1)), own, group=_hosts(distributed.group.WORLD))
    return sizes.tolist()


def share_of_rank(sizes: Sequence[int]) -> float:
    """What a mean over this rank's rows counts, so that the mean over ranks is that over all rows; 1 for equal batches."""
    return sizes[world()[0]] * len(sizes) / sum(sizes)


def _all_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows of all ranks in rank order, without gradient: (B_r, ...) -> (sum of sizes, ...)."""
    missing = max(sizes) - len(rows)
    # The collective takes equal shapes only.
    sent = torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows.contiguous()
    parts = [torch.empty_like(sent) for _ in sizes]
    distributed.all_gather(parts, sent)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _summed_own(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """The sum over ranks of rows for all of them, and of that this rank's part: (sum of sizes, ...) -> (B_r, ...)."""
    rank, _ = world()
    distributed.all_reduce(rows)
    start = sum(sizes[:rank])
    return rows[start : start + sizes[rank]]


class _GatherBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes = sizes  # type: ignore[attr-defined]
        return _all_rows(rows, sizes)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        # Every rank's loss depends on these rows, so their gradient is the sum over ranks; DDP's mean over ranks then
        # gives exactly the gradient of one process with the joint batch.
        return _summed_own(grad.contiguous(), ctx.sizes), None  # type: ignore[attr-defined]


def gather_batch(rows: Tensor, sizes: Sequence[int] | None = None) -> tuple[Tensor, int]:
    """Rows of all ranks in rank order, with gradient, and where this rank's rows begin.

    (B_r, ...) -> (sum of all B_r, ...), offset. Ranks may bring different numbers of rows; a loss that is a mean over
    this rank's rows then has to count by `share_of_rank`. sizes: as `batch_sizes` gave them, to ask once for several
    gathers. Without a process group the rows come back as they are.
    """
    rank, ranks = world()
    if ranks == 1:
        return rows, 0
    sizes = sizes or batch_sizes(len(rows))
    return _GatherBatch.apply(rows, sizes), sum(sizes[:rank])


def _pass_on(rows: Tensor, arriving: int, tag: int) -> Callable[[], Tensor]:
    """Begin to send rows to the next rank; called, the result gives the `arriving` rows of the rank before."""
    rank, ranks = world()
    taken = rows.new_empty(arriving, *rows.shape[1:])
    moves = [
        distributed.P2POp(distributed.isend, rows, (rank + 1) % ranks, tag=tag),
        distributed.P2POp(distributed.irecv, taken, (rank - 1) % ranks, tag=tag),
    ]
    waiting = distributed.batch_isend_irecv(moves)

    def arrived() -> Tensor:
        for work in waiting:
            work.wait()
        return taken

    return arrived


class Blocks:
    """The rows of all ranks, one rank's at a time, and room for their gradient, which ends at the rank that owns them.

    parts: this rank's matrices [(B_r, E_s)]. sizes: rows of every rank. ring: blocks travel from rank to rank, so that
    none holds more than its own, the present and the next; else all are gathered at once.
    """

    def __init__(self, parts: Sequence[Tensor], sizes: Sequence[int], ring: bool = False) -> None:
        self.parts, self.sizes, self.ring = list(parts), list(sizes), ring
        self.widths = [part.shape[1] for part in parts]

    def __iter__(self) -> Iterator[tuple[int, list[Tensor]]]:
        """(rank that owns them, matrices [(B_q, E_s)]) for every rank."""
        for owner, rows, _ in self._turns(None):
            yield owner, rows

    def with_gradient(self, gradient: list[Tensor]) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
        """The same with matrices of the shapes of the rows, to which the caller adds their gradient in place.

        gradient: an empty list, which in the end holds the sum over ranks for this rank's rows.
        """
        return self._turns(gradient)

    def _turns(self, gradient: list[Tensor] | None) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
        if len(self.sizes) == 1:
            sums = [] if gradient is None else [torch.zeros_like(part) for part in self.parts]
            yield 0, self.parts, sums
            own = sums
        else:
            matrix = torch.cat(self.parts, dim=1)
            turns = self._around(matrix, gradient) if self.ring else self._gathered(matrix, gradient)
            own = yield from turns
        if gradient is not None:
            gradient[:] = own

    def _gathered(self, matrix: Tensor, gradient: list[Tensor] | None) -> Any:
        rows = _all_rows(matrix, self.sizes)
        sums = None if gradient is None else torch.zeros_like(rows)
        start = 0
        for owner, size in enumerate(self.sizes):
            part = slice(start, start + size)
            yield owner, self._split(rows[part]), [] if sums is None else self._split(sums[part])
            start += size
        return [] if sums is None else self._split(_summed_own(sums, self.sizes))

    def _around(self, matrix: Tensor, gradient: list[Tensor] | None) -> Any:
        rank, ranks = world()
        held = matrix
        sums = None if gradient is None else torch.zeros_like(matrix)
        for turn in range(ranks):
            owner, size = (rank - turn) % ranks, self.sizes[(rank - turn - 1) % ranks]
            # The next block is on its way while this one is worked on.
            arrived = _pass_on(held, size, _FEATURES) if turn < ranks - 1 else None
            yield owner, self._split(held), [] if sums is None else self._split(sums)
            sums = None if sums is None else _pass_on(sums, size, _GRADIENTS)()
            held = arrived() if arrived else held
        return [] if sums is None else self._split(sums)

    def _split(self, matrix: Tensor) -> list[Tensor]:
        return list(matrix.split(self.widths, dim=1))


def summed_exponentials(top: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over ranks of total * exp(top): the common top and the total above it, of the same shapes."""
    _, ranks = world()
    if ranks == 1:
        return top, total
    highest = top.clone()
    distributed.all_reduce(highest, op=distributed.ReduceOp.MAX)
    total = total * torch.exp(top - highest)
    distributed.all_reduce(total)
    return highest, total


def every_rank(values: Tensor) -> list[Tensor]:
    """A tensor of the same shape from every rank, in rank order, without gradient."""
    _, ranks = world()
    return list(_all_rows(values[None], [1] * ranks)) if ranks > 1 else [values]


class HighestOfRanks:
    """The highest of a number that every rank brings to every step, known one step later so that no host waits in it."""

    def __init__(self) -> None:
        self._asked: tuple[Any, Tensor] | None = None

    def of(self, value: int) -> int:
        """Bring a value, 0 or above -> the highest of what the ranks brought last time, 0 at first.

        Without other ranks it is the value itself, at once.
        """
        if world()[1] == 1:
            return value
        highest = self.settle()
        number = torch.tensor([value])
        group = _hosts(distributed.group.WORLD)
        self._asked = distributed.all_reduce(number, distributed.ReduceOp.MAX, group, async_op=True), number
        return highest

    def settle(self) -> int:
        """Wait for what is on its way -> the highest value, 0 where nothing is."""
        if self._asked is None:
            return 0
        (work, number), self._asked = self._asked, None
        work.wait()
        return int(number)


def start_gloo(timeout_s: float | None = None) -> None:
    """Join the process group that the launcher describes, over gloo, for ranks without a GPU.

    timeout_s: how long a rank waits for the others before it gives up; None for torch's own half hour.
    """
    distributed.init_process_group('gloo', timeout=None if timeout_s is None else timedelta(seconds=timeout_s))


def lost_ranks(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank has ended, or did not come within the time that is waited."""
    return any(words in str(error) for words in _LOST)


def stop() -> None:
    """Leave the process group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        _hosts.cache_clear()
        _left.append(distributed.group.WORLD)
        distributed.destroy_process_group()


def gather_objects(value: Any) -> list[Any]:
    """One plain Python value of every rank, in rank order; [value] without a process group."""
    _, ranks = world()
    if ranks == 1:
        return [value]
    values: list[Any] = [None] * ranks
    distributed.all_gather_object(values, value)
    return values


def same_everywhere(model: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0, in place."""
    if world()[1] > 1:
        for values in (*model.parameters(), *model.buffers()):
            distributed.broadcast(values.detach(), 0)
