"""What is known of a rendered clip: which objects bounce, when everything sounds. Read from events.jsonl."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gmscavp.errors import UserError


@dataclass(frozen=True)
class TrueEvent:
    """An impact: when (s), how hard (pixels/s), of which colour, and whether it is seen."""

    time_s: float
    speed: float
    colour: str
    on_screen: bool = True


@dataclass(frozen=True)
class TrueObject:
    """A bouncing object: colour, middle of its columns (pixels), its impacts (s)."""

    colour: str
    x: float
    impact_times_s: tuple[float, ...]


@dataclass(frozen=True)
class ClipTruth:
    """Events in time order, and the bouncing objects from left to right."""

    clip_id: str
    events: tuple[TrueEvent, ...]
    objects: tuple[TrueObject, ...]


@dataclass(frozen=True)
class SceneFacts:
    """What all clips of a rendering share: colour -> RGB, colour -> pitch, height of the floor, size of the picture.

    Lengths are in pixels of a picture of side x side. The defaults are those of Impacts.
    """

    palette: Mapping[str, tuple[int, int, int]] = field(
        default_factory=lambda: {
            'red': (222, 40, 36),
            'yellow': (246, 216, 40),
            'green': (48, 196, 72),
            'cyan': (84, 220, 232),
            'blue': (44, 84, 232),
            'magenta': (232, 76, 216),
        }
    )
    lowest_hz: float = 220.0
    step: float = 1.6
    floor_y: float = 56.0
    side: int = 64

    @property
    def pitches_hz(self) -> dict[str, float]:
        """Colour -> pitch, rising by `step` from colour to colour."""
        return {colour: self.lowest_hz * self.step**number for number, colour in enumerate(self.palette)}


def within(truth: ClipTruth, start_s: float, duration_s: float) -> ClipTruth:
    """What happens in a window of the clip, times counted from its start."""

    def inside(time_s: float) -> bool:
        return start_s <= time_s < start_s + duration_s

    events = (replace(event, time_s=event.time_s - start_s) for event in truth.events if inside(event.time_s))
    objects = (
        replace(each, impact_times_s=tuple(time - start_s for time in each.impact_times_s if inside(time)))
        for each in truth.objects
    )
    return replace(truth, events=tuple(events), objects=tuple(objects))


def read_truth(file: str | Path) -> dict[str, ClipTruth]:
    """events.jsonl of a rendering -> clip_id -> truth. UserError: no such file, or a line that is not a clip's."""
    truths = {}
    try:
        lines = Path(file).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'Cannot read the events of the clips from {file}: render the data set first.') from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            truth = parse_truth(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f'{file}, line {number} is damaged: render the data set again with --force.') from error
        truths[truth.clip_id] = truth
    return truths


def parse_truth(entry: Mapping[str, object]) -> ClipTruth:
    """One line of events.jsonl, as JSON gives it. Raises KeyError, TypeError or ValueError for anything else."""
    objects = [_parse_object(item) for item in _mappings(entry['objects'])]
    events = [event for _, heard in objects for event in heard]
    for item in _mappings(entry['distractors']):
        if item['kind'] == 'off_screen_sound':
            events.append(TrueEvent(_number(item, 'time_s'), _number(item, 'speed'), str(item['colour']), False))
    return ClipTruth(
        str(entry['clip_id']),
        tuple(sorted(events, key=lambda event: event.time_s)),
        tuple(sorted((seen for seen, _ in objects), key=lambda seen: seen.x)),
    )


def _parse_object(item: Mapping[str, object]) -> tuple[TrueObject, list[TrueEvent]]:
    colour = str(item['colour'])
    events = [
        TrueEvent(_number(impact, 'time_s'), _number(impact, 'speed'), colour) for impact in _mappings(item['impacts'])
    ]
    return TrueObject(colour, _number(item, 'x'), tuple(sorted(event.time_s for event in events))), events


def _mappings(value: object) -> Iterator[Mapping[str, object]]:
    if not isinstance(value, Iterable):
        raise TypeError(f'expected a list, got {value!r}')
    for item in value:
        if not isinstance(item, Mapping):
            raise TypeError(f'expected fields, got {item!r}')
        yield item


def _number(item: Mapping[str, object], name: str) -> float:
    value = item[name]
    if not isinstance(value, int | float):
        raise TypeError(f'{name} must be a number, got {value!r}')
    return float(value)
