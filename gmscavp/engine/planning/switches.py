"""What to change in a run whose batch does not fit: settings tried one by one by counting the step with them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mmengine.config import Config

from gmscavp.engine.config import load_config
from gmscavp.engine.planning.counting import Counted, count_step
from gmscavp.engine.planning.plan import Memory, largest_batch, memory_of
from gmscavp.errors import UserError

_CHECKPOINTING = ('model.video_backbone.gradient_checkpointing', 'model.audio_backbone.gradient_checkpointing')


class Way(NamedTuple):
    """How a run may be changed: words to type, settings of the config, and how the step is then counted."""

    words: str
    options: Mapping[str, Any]
    half: bool
    sharded: bool


def ways(counted: Counted, half: bool, sharded: bool, ranks: int) -> list[Way]:
    """What may help, the cheapest first."""
    found = [] if half else [Way('--amp (here --precision bf16)', {}, True, sharded)]
    if counted.loss and not counted.loss.tiled:
        found.append(Way('model.head.tile=1024', {'model.head.tile': 1024}, half, sharded))
    if ranks > 1 and not sharded:
        found.append(Way('model_sharding.enabled=True (here --sharded)', {}, half, True))
    checkpointing = dict.fromkeys(_CHECKPOINTING, True)
    found.append(Way(' '.join(f'{key}=True' for key in checkpointing), checkpointing, half, sharded))
    if not counted.batch_norm and counted.clips > 1:
        chunk = max(1, counted.rows // 4)
        found.append(Way(f'model.chunk={chunk}', {'model.chunk': chunk}, half, sharded))
    return found


def tried(
    path: str, options: Mapping[str, Any], counted: Counted, each: list[Way], ranks: int, averaged: bool, moments: int
) -> Iterator[tuple[Way, Memory]]:
    """The memory of every way that this config can go."""
    for way in each:
        try:
            again = counted
            if way.options or way.words.startswith('--amp'):
                again = count_step(load_config(path, {**options, **way.options}), counted.clips, way.half)
        except UserError:
            # The model or its head has no such setting, which the check of configs says.
            continue
        yield way, memory_of(again, ranks, way.sharded, averaged, moments)


def batch_that_fits(
    config: Config, counted: Counted, half: bool, needed: Callable[[Counted], float], room: float
) -> int:
    """The most clips of a rank whose step takes `room` bytes or less, about: by a line from half the batch; 0 for none.

    needed: bytes of a counted step. The peak of a step is convex in the batch, so that the line is at most a little low.
    """
    many = counted
    while many.clips > 1:
        few = count_step(config, many.clips // 2, half)
        fits = largest_batch([(few.clips, needed(few)), (many.clips, needed(many))], room)
        if fits >= few.clips:
            return fits
        many = few
    return int(needed(many) <= room)
