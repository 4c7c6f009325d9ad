"""The only file with collectives: everything else asks here."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx


def world() -> tuple[int, int]:
    """(rank, number of ranks); (0, 1) where no process group runs."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class _GatherBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        rank, ranks = world()
        parts = [torch.empty_like(rows) for _ in range(ranks)]
        distributed.all_gather(parts, rows.contiguous())
        ctx.start, ctx.stop = rank * len(rows), (rank + 1) * len(rows)  # type: ignore[attr-defined]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        # Every rank's loss depends on these rows, so their gradient is the sum over ranks; DDP's mean over ranks then
        # gives exactly the gradient of one process with the joint batch.
        grad = grad.contiguous()
        distributed.all_reduce(grad)
        return grad[ctx.start : ctx.stop]  # type: ignore[attr-defined]


def gather_batch(rows: Tensor) -> tuple[Tensor, int]:
    """Rows of all ranks in rank order, with gradient, and where this rank's rows begin.

    (B, ...) -> (W * B, ...), offset. Every rank must bring the same B (the training sampler drops the last, uneven
    batch). Without a process group the rows come back as they are.
    """
    rank, ranks = world()
    if ranks == 1:
        return rows, 0
    return _GatherBatch.apply(rows), rank * len(rows)


def start_gloo() -> None:
    """Join the process group that the launcher describes, over gloo, for ranks without a GPU."""
    distributed.init_process_group('gloo')


def stop() -> None:
    """Leave the process group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def gather_objects(value: Any) -> list[Any]:
    """One plain Python value of every rank, in rank order; [value] without a process group."""
    _, ranks = world()
    if ranks == 1:
        return [value]
    values: list[Any] = [None] * ranks
    distributed.all_gather_object(values, value)
    return values
