"""What diffusion of the embedding lends to retrieval: settings of translated queries and of re-ranking."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from gmscavp.errors import UserError, near_names


@dataclass(frozen=True)
class Translation:
    """How queries are translated: the mean of `samples` draws of `steps` steps, mixed in with `weight` from 0 to 1.

    A weight of 0 turns it off.
    """

    weight: float = 0.3
    samples: int = 4
    steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or min(self.samples, self.steps) < 1:
            raise UserError(f'translation: weight lies from 0 to 1, samples and steps are 1 or more; got {self}.')

    @property
    def on(self) -> bool:
        """Whether there is anything to do."""
        return self.weight > 0


@dataclass(frozen=True)
class Rerank:
    """How a query's first candidates get a new order: the `top` ones by denoising error at `times` noise levels.

    A top of 0 turns it off.
    """

    top: int = 10
    times: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top < 0 or self.times < 1:
            raise UserError(f'rerank: top is 0 or more, times 1 or more; got {self}.')

    @property
    def on(self) -> bool:
        """Whether there is anything to do."""
        return self.top > 0


Settings = TypeVar('Settings', Translation, Rerank)


def settings_of(kind: type[Settings], given: Mapping[str, Any] | None, diffusion: Any) -> Settings | None:
    """The settings, or None where they are not given or turned off.

    Raises UserError for a name that does not exist, and where `diffusion` (the objective, or None) cannot serve them.
    """
    if given is None:
        return None
    name, known = kind.__name__.lower(), [field.name for field in fields(kind)]
    for key in given:
        if key not in known:
            raise UserError(f"{name} has no setting '{key}'.{near_names(key, known)} It takes {', '.join(known)}.")
    settings = kind(**given)
    if not settings.on:
        return None
    demand_embedding(name, diffusion)
    return settings


def demand_embedding(name: str, diffusion: Any) -> None:
    """Raise UserError unless `diffusion` (the objective, or None) denoises the embedding in both directions."""
    if diffusion is None or diffusion.target != 'embedding' or len(diffusion.directions) < 2:
        raise UserError(
            f"{name} needs diffusion with target='embedding' in both directions; set diffusion so, or {name} to None."
        )
