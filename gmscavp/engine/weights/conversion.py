"""Turning released weights into ours and back, with an account of every key."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from gmscavp.engine.weights.layout import Layout, Shape
from gmscavp.errors import UserError

_WRAPPERS = ('state_dict', 'model', 'module')
_PREFIX = 'module.'
# Filters of the spectrogram: they follow from the config and are no weights.
_COMPUTED = ('data_preprocessor.*',)


@dataclass
class Conversion:
    """Converted weights, and what became of every key of the source.

    absent: keys that the target would have and has not, because they were left out or are missing.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def unwrap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint, whatever they are wrapped in: {'state_dict': {'module.x': tensor}} -> {'x': tensor}.

    Raises UserError where there are none.
    """
    inner: Mapping[str, Any] = checkpoint
    while wrapper := next((name for name in _WRAPPERS if isinstance(inner.get(name), Mapping)), None):
        inner = inner[wrapper]
    weights = {str(name).removeprefix(_PREFIX): value for name, value in inner.items() if torch.is_tensor(value)}
    if not weights:
        known = ', '.join(map(str, list(inner)[:5])) or 'nothing'
        raise UserError(f'the source holds no weights (it holds {known}); give a file of a state dict.')
    return weights


def to_ours(weights: Mapping[str, Tensor], layout: Layout, leave_out: Sequence[str] = ()) -> Conversion:
    """Released weights -> ours. leave_out: patterns of released keys that are not taken.

    Nothing is refused here: see `refuse_partial`.
    """
    table = layout.table(_shapes(weights))
    sources = {entry.released: entry for entry in table}
    converted = _account(weights, {entry.released: entry.shape for entry in table}, layout.ignored, leave_out)
    for name in converted.used:
        entry = sources[name]
        parts = weights[name].chunk(len(entry.ours)) if len(entry.ours) > 1 else [weights[name]]
        for ours, part in zip(entry.ours, parts, strict=True):
            converted.weights[ours] = part.reshape(entry.part_shape)
    converted.absent = [name for entry in table for name in entry.ours if name not in converted.weights]
    return converted


def to_released(weights: Mapping[str, Tensor], layout: Layout, leave_out: Sequence[str] = ()) -> Conversion:
    """Our weights -> the released keys and shapes, bit for bit. leave_out: patterns of our keys that are not taken."""
    table = layout.table(_shapes(weights))
    expected = {name: entry.part_shape for entry in table for name in entry.ours}
    converted = _account(weights, expected, _COMPUTED, leave_out)
    used = set(converted.used)
    for entry in table:
        if used.issuperset(entry.ours):
            parts = [weights[name] for name in entry.ours]
            converted.weights[entry.released] = (torch.cat(parts) if len(parts) > 1 else parts[0]).reshape(entry.shape)
        else:
            converted.absent.append(entry.released)
    return converted


def refuse_partial(converted: Conversion, layout: Layout, allow_missing: Sequence[str] = ()) -> None:
    """Raise UserError unless every key is accounted for. allow_missing: patterns of keys that the source may lack."""
    missing = [name for name in converted.missing if not _matches(name, allow_missing)]
    said = [
        f'{len(names)} {word} (for example {names[0]})'
        for word, names in (
            ('missing', missing),
            ('unexpected', converted.unexpected),
            ('of another shape', converted.misshapen),
        )
        if names
    ]
    if said:
        raise UserError(
            f"the source does not fit the layout '{layout.name}': of its keys {'; '.join(said)}. Give the layout it has, "
            'or name what may differ: --allow-missing PATTERN, --leave-out PATTERN.'
        )
    if not converted.used:
        raise UserError(f"nothing of the source is used by the layout '{layout.name}'.")


def guess_layout(weights: Mapping[str, Tensor], layouts: Iterable[Layout]) -> Layout | None:
    """The layout whose released keys the weights have most of; None when they have none of any."""

    def known(layout: Layout) -> int:
        return len(to_ours(weights, layout).used)

    best = max(layouts, key=known)
    return best if known(best) else None


def _account(
    weights: Mapping[str, Tensor], expected: Mapping[str, Shape], ignored: Sequence[str], leave_out: Sequence[str]
) -> Conversion:
    """Sort the keys of the source, and name those it lacks."""
    found = Conversion()
    for name, tensor in weights.items():
        if _matches(name, leave_out):
            found.left_out.append(name)
        elif name not in expected:
            (found.ignored if _matches(name, ignored) else found.unexpected).append(name)
        elif tuple(tensor.shape) != expected[name]:
            found.misshapen.append(f'{name} {tuple(tensor.shape)} for {expected[name]}')
        else:
            found.used.append(name)
    found.missing = [name for name in expected if name not in weights and not _matches(name, leave_out)]
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}
