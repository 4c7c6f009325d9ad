"""The formulas of docs/scaling.md: pure functions from sizes and rates to bytes and seconds."""

from dataclasses import dataclass

from gmscavp.engine.planning.counting import Loss, Work
from gmscavp.engine.planning.tables import Accelerator

FLOAT = 4  # bytes of a value in float32
# Of an adaptive optimiser a parameter: it reads weight, gradient and two moments and writes three of them back; clipping
# reads the gradient twice and writes it; the moving average reads weight and average and writes the latter.
_OPTIMISER_VALUES = 7 + 3 + 3
# GPUs do each of its operations on all tensors at once; for a tensor on its own they cost about as much as two of the
# operations of a training step, in which autograd has its share.
_OPTIMISER_OPS, _OPS_OF_A_TENSOR = 14, 2


@dataclass(frozen=True)
class Shares:
    """What is reached of the peak: of arithmetic, of memory's bandwidth, of links and networks."""

    arithmetic: float = 0.4
    memory: float = 0.7
    network: float = 0.7


def ring_all_reduce(size: float, ranks: int) -> float:
    """Bytes that every rank sends to sum `size` bytes over all, in a ring: 2 (n - 1) / n of them. Patarasuk & Yuan 2009."""
    return 2 * (ranks - 1) / ranks * size


def ring_gather(size: float, ranks: int) -> float:
    """Bytes that every rank sends until all hold `size` bytes, of which each brought a part; the same to scatter a sum."""
    return (ranks - 1) / ranks * size


def work_seconds(work: Work, accelerator: Accelerator, shares: Shares) -> float:
    """The roofline, operation by operation: the longer of arithmetic and memory. Williams et al. 2009.

    Launching takes its own time on a CPU, and the time of an operation at the least on a GPU.
    """
    bandwidth, launch = accelerator.bandwidth * shares.memory, accelerator.launch_s
    seconds = 0.0
    for op, times in work.items():
        busy = max(op.flops / (accelerator.rate(op.kind) * shares.arithmetic), op.bytes / bandwidth)
        seconds += times * (busy + launch if accelerator.waits else max(busy, launch))
    return seconds


def bound_by_memory(work: Work, accelerator: Accelerator, shares: Shares) -> float:
    """The share of that time in operations that wait for memory rather than for arithmetic."""
    whole = work_seconds(work, accelerator, shares)
    waiting = {
        op: times
        for op, times in work.items()
        if op.bytes / (accelerator.bandwidth * shares.memory)
        > op.flops / (accelerator.rate(op.kind) * shares.arithmetic)
    }
    return work_seconds(Work(waiting), accelerator, shares) / whole if whole else 0.0


def optimiser_seconds(parameters: int, tensors: int, accelerator: Accelerator, shares: Shares) -> float:
    """Clipping, an adaptive optimiser and a moving average: memory's bandwidth, and launches."""
    moved = parameters * FLOAT * _OPTIMISER_VALUES / (accelerator.bandwidth * shares.memory)
    launches = _OPS_OF_A_TENSOR * tensors if accelerator.waits else _OPTIMISER_OPS
    return moved + launches * accelerator.launch_s


@dataclass(frozen=True)
class Network:
    """Ranks in nodes. inner: bytes/s of a rank within its node; outer: of a node; latencies of a message in seconds."""

    per_node: int
    nodes: int
    inner: float
    outer: float
    inner_latency_s: float = 10e-6
    outer_latency_s: float = 20e-6

    @property
    def ranks(self) -> int:
        """Of all nodes."""
        return self.per_node * self.nodes

    def all_reduce_s(self, size: float) -> float:
        """Scatter the sum in the node, sum each part over the nodes, gather in the node."""
        inside, between = ring_all_reduce(size, self.per_node), ring_all_reduce(size, self.nodes)
        return self._hops(2) + inside / self.inner + between / self.outer

    def gather_s(self, size: float) -> float:
        """Until every rank holds `size` bytes; or their sum scattered."""
        inside, between = ring_gather(size, self.per_node), ring_gather(size, self.nodes)
        return self._hops(1) + inside / self.inner + between / self.outer

    def ring_s(self, block: float, hops: int) -> float:
        """`hops` blocks handed from rank to rank, at the pace of the slowest link."""
        if self.nodes > 1:
            return hops * (block / min(self.inner, self.outer) + self.outer_latency_s)
        return hops * (block / self.inner + self.inner_latency_s)

    def _hops(self, times: int) -> float:
        return times * ((self.per_node - 1) * self.inner_latency_s + (self.nodes - 1) * self.outer_latency_s)


def gradient_seconds(network: Network, parameters: int, trainable: int, sharded: bool) -> float:
    """One exchange of float32 gradients; sharded: weights gathered for both passes and the sum of gradients scattered."""
    if not sharded:
        return network.all_reduce_s(FLOAT * trainable)
    return 2 * network.gather_s(FLOAT * parameters) + network.gather_s(FLOAT * trainable)


def token_seconds(network: Network, rows: int, width: int, tiled: bool, ring: bool) -> float:
    """The tokens of the contrast: `width` values for each of a rank's `rows`, and their gradient on the way back."""
    ranks, block = network.ranks, FLOAT * rows * width
    if ring:
        # Tokens pass in both directions of the computation, and their gradient ends where it began.
        return network.ring_s(block, 2 * (ranks - 1) + ranks) if ranks > 1 else 0.0
    gathered = network.gather_s(block * ranks)
    return (2 if tiled else 1) * gathered + network.all_reduce_s(block * ranks)


def of_pairs(at_batch: float, at_double: float) -> float:
    """q b^2 of a cost l b + q b^2, from b and 2 b rows: half of what the second has above twice the first."""
    return max(0.0, (at_double - 2 * at_batch) / 2)


def of_joint_batch(at_batch: float, at_double: float, ranks: int) -> float:
    """A cost l b + q b B of a rank's b rows against B = ranks x b columns, from what it is for b and for 2 b rows alone."""
    return at_batch + (ranks - 1) * of_pairs(at_batch, at_double)


def loss_seconds(loss: Loss, ranks: int, accelerator: Accelerator, shares: Shares) -> float:
    """The head on its own rows, and arithmetic or memory of the pairs with other ranks', in float32."""
    own, double = loss.at_batch, loss.at_double
    arithmetic = of_pairs(sum(own.flops), sum(double.flops)) / (accelerator.single * shares.arithmetic)
    memory = of_pairs(own.bytes, double.bytes) / (accelerator.bandwidth * shares.memory)
    alone = work_seconds(own.forward + own.backward, accelerator, shares)
    return alone + (ranks - 1) * max(arithmetic, memory)


def tokens_held(rows: int, width: int, ranks: int, ring: bool) -> float:
    """Bytes of other ranks' tokens and of their gradient."""
    others = min(2, ranks - 1) if ring else ranks - 1
    return 2.0 * FLOAT * rows * width * others
