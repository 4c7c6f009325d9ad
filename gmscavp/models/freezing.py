"""Freezing a backbone, wholly or from the input down to a depth."""

from collections.abc import Iterable
from typing import Protocol

from torch import nn

from gmscavp.errors import UserError


class Layered(Protocol):
    """What can be frozen: a backbone, known by its parts from the input to the output."""

    def by_depth(self) -> list[nn.Module]:
        """The parts, which hold all parameters."""
        ...


def freeze(backbone: Layered, depth: bool | int) -> list[nn.Module]:
    """Take the first `depth` parts out of training, all for True, none for False; give the parts that are frozen.

    Their parameters ask for no gradient. Call `rest` whenever the model's mode is set, so that their dropout stays off
    and their running statistics (BatchNorm) stay as they are. Raises UserError for a depth that is not there.
    """
    parts = backbone.by_depth()
    if not 0 <= depth <= len(parts):
        raise UserError(
            f'{type(backbone).__name__} has {len(parts)} parts, {depth} of them cannot be frozen; '
            f'set video_frozen or audio_frozen to a number up to {len(parts)}, True for all or False.'
        )
    frozen = parts if depth is True else parts[: int(depth)]
    for part in frozen:
        part.requires_grad_(False)
    rest(frozen)
    return frozen


def rest(frozen: Iterable[nn.Module]) -> None:
    """Set frozen parts to evaluation."""
    for part in frozen:
        part.eval()


def fix(*modules: nn.Module) -> list[nn.Module]:
    """Take whole modules out of training; give them for `rest`."""
    for module in modules:
        module.requires_grad_(False)
    rest(modules)
    return list(modules)
