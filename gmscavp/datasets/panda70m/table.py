"""The csv of Panda-70M: one line a video, with a list in each column."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gmscavp.datasets.listing import table_rows
from gmscavp.errors import UserError, near_names

_NEEDED = ('videoID', 'timestamp', 'caption')
_PAIR = re.compile(r"""[\[(]\s*['"\d]""")
_CLOCK = re.compile(r'(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)')
_DESIRABLE = 'desirable'


class PandaClip(NamedTuple):
    """One entry of a video's lists. Times in seconds within the video; None for what the csv does not say."""

    video_id: str
    number: int
    start_s: float
    end_s: float
    caption: str
    score: float | None
    desirable: str | None

    @property
    def clip_id(self) -> str:
        """`<video id>_<number in the list, 5 digits>`."""
        return f'{self.video_id}_{self.number:05d}'


class PandaRow(NamedTuple):
    """One line of the csv, its lists not yet parsed: that takes long, and most videos are usually not there."""

    video_id: str
    place: str
    fields: dict[str, str]

    @property
    def clips_listed(self) -> int:
        """How many clips the line lists, told from where pairs of times open."""
        return len(_PAIR.findall(self.fields['timestamp']))


class PandaFilter(NamedTuple):
    """Which clips to take: matching score from min_score on, length in seconds, desirable ones only."""

    min_score: float = 0.0
    min_duration_s: float = 0.0
    max_duration_s: float | None = None
    desirable_only: bool = False

    def cause(self, clip: PandaClip) -> str | None:
        """Why a clip is left out, None when it is taken."""
        lasting_s = clip.end_s - clip.start_s
        if clip.score is not None and clip.score < self.min_score:
            return 'low matching score'
        if lasting_s < self.min_duration_s:
            return 'too short'
        if self.max_duration_s is not None and lasting_s > self.max_duration_s:
            return 'too long'
        if self.desirable_only and clip.desirable != _DESIRABLE:
            return 'not desirable'
        return None


def read_panda_csv(file: Path, wanted: PandaFilter | None = None) -> Iterator[PandaRow]:
    """The lines of a csv, lists unparsed.

    Raises UserError for a table without the columns that are needed (by `wanted` too), a line with another number of
    columns, an id that is none, a video listed twice.
    """
    rows = table_rows(file, 'Panda-70M', 'annotations')
    place, header = next(rows)
    needed = [*_NEEDED]
    needed += ['matching_score'] if wanted and wanted.min_score > 0 else []
    needed += ['desirable_filtering'] if wanted and wanted.desirable_only else []
    for name in needed:
        if name not in header:
            raise UserError(f"{place}: no column '{name}'; found {', '.join(header)}.{near_names(name, header)}")
    seen: set[str] = set()
    for place, fields in rows:
        if len(fields) != len(header):
            raise UserError(f'{place}: {len(fields)} columns, where the header has {len(header)}.')
        named = dict(zip(header, fields, strict=True))
        video_id = named['videoID']
        if not re.fullmatch(r'[\w-]{11}', video_id):
            raise UserError(f"{place}: '{video_id}' is not a YouTube id of 11 letters.")
        if video_id in seen:
            raise UserError(f'{place}: video {video_id} is listed twice.')
        seen.add(video_id)
        yield PandaRow(video_id, place, named)


def parse_clips(row: PandaRow) -> list[PandaClip]:
    """One clip for each entry of a line's lists. Raises UserError that names the line of lists that do not fit."""
    times = _parse_list(row, 'timestamp')
    count = len(times)
    captions = _column(row, 'caption', count)
    scores = _column(row, 'matching_score', count)
    desirable = _column(row, 'desirable_filtering', count)
    clips = []
    for number, pair in enumerate(times):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise UserError(f'{row.place}: timestamp {number} is {pair!r}, expected [start, end].')
        start_s, end_s = (clock_s(time, row.place) for time in pair)
        if end_s <= start_s:
            raise UserError(f'{row.place}: the clip from {pair[0]} to {pair[1]} has no length.')
        score = _score(scores[number], row.place)
        caption = str(captions[number] or '')
        clips.append(PandaClip(row.video_id, number, start_s, end_s, caption, score, desirable[number]))
    return clips


def _column(row: PandaRow, name: str, count: int) -> list[Any]:
    """The list in one column, Nones where the csv has no such column."""
    if name not in row.fields:
        return [None] * count
    values = _parse_list(row, name)
    if len(values) != count:
        raise UserError(f'{row.place}: {count} timestamps but {len(values)} in {name}.')
    return values


def _parse_list(row: PandaRow, name: str) -> list[Any]:
    try:
        values = parse_value(row.fields[name])
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        values = None
    if not isinstance(values, list | tuple):
        raise UserError(f'{row.place}: {name} is not a list: {row.fields[name][:60]!r}.')
    return list(values)


def parse_value(text: str) -> Any:
    """A list written as Python writes it, without running anything. Raises what ast.literal_eval raises."""
    return ast.literal_eval(text)


def _score(value: Any, place: str) -> float | None:
    if value is not None and not isinstance(value, int | float):
        raise UserError(f'{place}: matching_score {value!r} is not a number.')
    return value if value is None else float(value)


def clock_s(time: Any, place: str) -> float:
    """Seconds of a time such as '0:00:13.580' or 13.58. Raises UserError that names the place of any other."""
    clock = _CLOCK.fullmatch(time) if isinstance(time, str) else None
    if clock:
        return int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])
    if isinstance(time, int | float):
        return float(time)
    raise UserError(f"{place}: {time!r} is not a time such as '0:00:13.580'.")
