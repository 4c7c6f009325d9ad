"""A plan: a counted step on a cluster, with its time, memory and bottleneck."""

from collections.abc import Sequence
from dataclasses import dataclass

from gmscavp.engine.planning.costs import (
    FLOAT,
    Network,
    Shares,
    bound_by_memory,
    gradient_seconds,
    loss_seconds,
    of_joint_batch,
    optimiser_seconds,
    token_seconds,
    tokens_held,
    work_seconds,
)
from gmscavp.engine.planning.counting import Counted
from gmscavp.engine.planning.tables import Accelerator, Source

# Of a GPU's memory: the libraries' own, and what the allocator cannot use between blocks.
CONTEXT_BYTES, FRAGMENTED = 1.5e9, 1.1
# Weights, their moving average and two moments.
COPIES_IN_CHECKPOINT = 4


@dataclass(frozen=True)
class Cluster:
    """accelerator: every rank's. storage: bytes/s that all ranks together read. cores: for decoding, of each rank."""

    accelerator: Accelerator
    network: Network
    storage: float
    cores: float
    shares: Shares
    sharded: bool = False


@dataclass(frozen=True)
class Reading:
    """Where clips come from. clips_per_core: windows a second. window_bytes: read for one window."""

    source: Source
    clips_per_core: float
    window_bytes: float


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank. activations: the most that is alive in a step beyond the rest, gradients included."""

    weights: float
    moments: float
    average: float
    buckets: float
    activations: float
    pairs: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.moments + self.average + self.buckets + self.activations + self.pairs


@dataclass(frozen=True)
class Plan:
    """Seconds of a step's parts, and what follows. clips: of a step, all ranks. waits: share of compute held up by memory.

    tokens are exchanged while nothing else goes on, gradients while the backward pass goes on.
    """

    clips: int
    forward: float
    backward: float
    loss: float
    optimiser: float
    tokens: float
    gradients: float
    storage: float
    decode: float
    checkpoint: float
    waits: float
    cores_needed: float
    flops: tuple[int, int]
    memory: Memory

    @property
    def compute(self) -> float:
        """The accelerator's own work, the contrast apart."""
        return self.forward + self.backward + self.optimiser

    @property
    def network(self) -> float:
        """What exchange adds to a step: tokens, and gradients as far as they outlast the backward pass."""
        return self.tokens + max(0.0, self.gradients - self.backward)

    @property
    def step(self) -> float:
        """Seconds of a step: reading and decoding go on beside the accelerators' work."""
        return max(self.compute + self.loss + self.network, self.storage, self.decode)

    @property
    def in_turn(self) -> float:
        """Seconds of a step where one core does all, one thing after another."""
        return self.compute + self.loss + self.tokens + self.gradients + self.decode

    @property
    def clips_per_s(self) -> float:
        """Of all ranks."""
        return self.clips / self.step

    @property
    def bottleneck(self) -> str:
        """'compute', 'loss', 'network', 'storage' or 'decode': what a step waits for, or spends most of its time on."""
        if self.step > self.compute + self.loss + self.network:
            return 'decode' if self.decode >= self.storage else 'storage'
        parts = {'compute': self.compute, 'loss': self.loss, 'network': self.network}
        return max(parts, key=lambda name: parts[name])

    def hours(self, clips: int) -> float:
        """Of one epoch over so many clips, its checkpoint included. Steps that are not full are left out."""
        return (clips // self.clips * self.step + self.checkpoint) / 3600


def make_plan(counted: Counted, cluster: Cluster, reading: Reading, averaged: bool = True, moments: int = 2) -> Plan:
    """Put the parts together. averaged: an average of the weights is kept; moments: values the optimiser keeps of each."""
    gpu, network, shares = cluster.accelerator, cluster.network, cluster.shares
    ranks, step, loss = network.ranks, counted.step, counted.loss
    pairs_s = tokens_s = 0.0
    if loss:
        pairs_s = loss_seconds(loss, ranks, gpu, shares)
        tokens_s = token_seconds(network, counted.rows, loss.width, loss.tiled, loss.ring)
    forward, backward = (work_seconds(work, gpu, shares) for work in (step.forward, step.backward))
    if loss:
        # The head's own work stands under the loss.
        forward -= work_seconds(loss.at_batch.forward, gpu, shares)
        backward -= work_seconds(loss.at_batch.backward, gpu, shares)
    held = counted.parameters / (ranks if cluster.sharded else 1)
    updated = counted.trainable // (ranks if cluster.sharded else 1)
    windows = counted.rows / reading.clips_per_core
    checkpoint = FLOAT * counted.parameters * (1 + averaged + moments * counted.trainable / counted.parameters)
    return Plan(
        clips=counted.clips * ranks,
        forward=forward,
        backward=backward,
        loss=pairs_s,
        optimiser=optimiser_seconds(updated, counted.tensors, gpu, shares),
        tokens=tokens_s,
        gradients=gradient_seconds(network, counted.parameters, counted.trainable, cluster.sharded),
        storage=counted.rows * ranks * reading.window_bytes / cluster.storage,
        decode=windows / cluster.cores,
        checkpoint=checkpoint / cluster.storage,
        waits=bound_by_memory(step.forward + step.backward, gpu, shares),
        cores_needed=windows / max(1e-12, forward + backward + pairs_s + tokens_s),
        flops=step.flops,
        memory=memory_of(counted, ranks, cluster.sharded, averaged, moments, held),
    )


def memory_of(
    counted: Counted, ranks: int, sharded: bool, averaged: bool, moments: int, held: float | None = None
) -> Memory:
    """Bytes of a rank. Sharded: its share of all that a weight has, and the largest layer gathered while it works."""
    share = ranks if sharded else 1
    held = counted.parameters / share if held is None else held
    gradients = FLOAT * counted.trainable / share
    step = counted.step
    activations = step.peak_apart + gradients if sharded else max(step.peak, 2 * gradients)
    pairs = 0.0
    if counted.loss and ranks > 1:
        own, double = counted.loss.at_batch.peak, counted.loss.at_double.peak
        pairs = of_joint_batch(own, double, ranks) - own
        pairs += tokens_held(counted.rows, counted.loss.width, ranks, counted.loss.ring)
    return Memory(
        weights=FLOAT * (held + (counted.largest if sharded and ranks > 1 else 0)),
        moments=FLOAT * moments * counted.trainable / share,
        average=FLOAT * held * averaged,
        # DistributedDataParallel keeps gradients a second time, packed for the exchange.
        buckets=0.0 if sharded or ranks == 1 else gradients,
        activations=float(activations),
        pairs=pairs,
    )


def needed_bytes(memory: Memory, accelerator: Accelerator) -> float:
    """What a rank takes with the allocator's and the libraries' own."""
    return memory.total if accelerator.name == 'cpu' else memory.total * FRAGMENTED + CONTEXT_BYTES


def largest_batch(sizes: Sequence[tuple[int, float]], room: float) -> int:
    """Clips that fit into `room` bytes by a line through what two batches need, [(clips, bytes)] of both; 0 for none."""
    (few, least), (many, most) = sizes
    slope = (most - least) / (many - few)
    return max(0, int(few + (room - least) // slope)) if slope > 0 else many
