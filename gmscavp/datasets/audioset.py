"""AudioSet (Gemmeke et al. 2017) as it is distributed: tables of ten-second segments with one or more labels each."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gmscavp.datasets.base import ClipDataset, list_files, say_found
from gmscavp.datasets.listing import Listing, demand_found, demand_one_file_each, seconds, table_rows
from gmscavp.datasets.manifest import Manifest
from gmscavp.datasets.video_folder import VIDEO_ENDINGS
from gmscavp.errors import UserError, near_names
from gmscavp.registry import DATASETS

_HEADER = ['YTID', 'start_seconds', 'end_seconds', 'positive_labels']
_TIME = r'(\d+(?:\.\d+)?)'
_FILE_NAME = re.compile(rf'Y?([\w-]{{11}})(?:_{_TIME}(?:_{_TIME})?)?')
_NAMES = (
    "'<youtube id>.mp4', '<youtube id>_<start>.mp4' or '<youtube id>_<start>_<end>.mp4', with or without a Y before"
)


class Segment(NamedTuple):
    """One line of a segments csv: a part of a YouTube video, and the names of what is heard in it."""

    youtube_id: str
    start_s: float
    end_s: float
    labels: list[str]

    @property
    def clip_id(self) -> str:
        """`<youtube id>_<start>_<end>` in milliseconds."""
        return f'{self.youtube_id}_{round(self.start_s * 1000)}_{round(self.end_s * 1000)}'


@DATASETS.register_module()
class AudioSet(ClipDataset):
    """Clips of AudioSet below `data_root`, in any subfolder, with all their labels.

    annotations: a segments csv as it is distributed (balanced_train_segments.csv, eval_segments.csv, ...). class_labels:
    class_labels_indices.csv, the names of the labels. Files are named by the YouTube id, or that with the start or start
    and end in seconds or milliseconds; two files for one segment are an error, listed segments without one are counted
    and said. whole_videos: files with no time in their name hold the whole YouTube video rather than the segment alone.
    split: what the log calls these clips; the distributed files hold one split each.
    """

    def __init__(
        self,
        data_root: str,
        annotations: str,
        class_labels: str,
        clip: Mapping[str, Any],
        window: Mapping[str, Any],
        transforms: Sequence[Mapping[str, Any]] = (),
        replace_bad: bool = True,
        split: str = 'train',
        whole_videos: bool = False,
    ) -> None:
        root = Path(data_root)
        names = read_class_labels(Path(class_labels))
        listing = list_audioset(root, {split: read_segments_csv(Path(annotations), names)}, whole_videos)
        say_found('AudioSet', split, len(listing.manifest), listing.listed, root)
        super().__init__(listing.manifest, root, clip, window, transforms, replace_bad)


def read_class_labels(file: Path) -> dict[str, str]:
    """class_labels_indices.csv (index,mid,display_name) as label id -> name. Raises UserError for another table."""
    rows = table_rows(file, 'AudioSet', 'class_labels')
    place, header = next(rows)
    if header != ['index', 'mid', 'display_name']:
        raise UserError(f'{place}: expected the header "index,mid,display_name", found "{",".join(header)}".')
    names: dict[str, str] = {}
    for place, fields in rows:
        if len(fields) != 3:
            raise UserError(f'{place}: expected "index,mid,display_name", found {",".join(fields)!r}.')
        names[fields[1]] = fields[2]
    if not names:
        raise UserError(f'{file} names no labels.')
    return names


def read_segments_csv(file: Path, names: Mapping[str, str]) -> list[Segment]:
    """Read a segments csv: youtube id, start, end in seconds, label ids; `names` are those of read_class_labels.

    Raises UserError that names the line of a wrong number of columns, a time that is none, a label that is not in
    `names`, or a segment listed twice.
    """
    segments: dict[str, Segment] = {}
    for place, fields in table_rows(file, 'AudioSet', 'annotations'):
        if fields == _HEADER:
            continue
        segment = _segment(fields, names, place)
        if segments.setdefault(segment.clip_id, segment) is not segment:
            raise UserError(f'{place}: segment {segment.clip_id} is listed twice.')
    if not segments:
        raise UserError(f'AudioSet csv {file} lists no segments.')
    return list(segments.values())


def _segment(fields: list[str], names: Mapping[str, str], place: str) -> Segment:
    if len(fields) != len(_HEADER):
        raise UserError(f'{place}: expected "{",".join(_HEADER)}", found {",".join(fields)!r}.')
    youtube_id, start, end, label_ids = fields
    if not re.fullmatch(r'[\w-]{11}', youtube_id):
        raise UserError(f"{place}: '{youtube_id}' is not a YouTube id of 11 letters; expected {','.join(_HEADER)}.")
    segment = Segment(youtube_id, seconds(start, place), seconds(end, place), [])
    if not 0 <= segment.start_s < segment.end_s:
        raise UserError(f'{place}: the segment from {start} to {end} s has no length.')
    for label_id in filter(None, (one.strip() for one in label_ids.split(','))):
        if label_id not in names:
            raise UserError(
                f"{place}: label '{label_id}' is not in the list of classes (class_labels).{near_names(label_id, names)}"
            )
        segment.labels.append(names[label_id])
    return segment


def list_audioset(root: Path, segments: Mapping[str, Sequence[Segment]], whole_videos: bool = False) -> Listing:
    """The segments of every split (the keys) that have a file below `root`.

    Columns: clip_id, file, labels, split, group (the YouTube id), and start_s and end_s where the file is a whole video.
    Raises UserError when a segment has several files, is in two splits, or none has a file.
    """
    rows = [(split, segment) for split, several in segments.items() for segment in several]
    sides: dict[str, str] = {}
    for split, segment in rows:
        if (other := sides.setdefault(segment.clip_id, split)) != split:
            raise UserError(f'AudioSet: segment {segment.clip_id} is listed for {other} and for {split}.')
    files = _find_files(root, [segment for _, segment in rows], whole_videos)
    found = [(split, segment, *files[segment.clip_id]) for split, segment in rows if segment.clip_id in files]
    columns: dict[str, list[Any]] = {
        'clip_id': [segment.clip_id for _, segment, _, _ in found],
        'file': [file for _, _, file, _ in found],
        'start_s': [segment.start_s if whole else None for _, segment, _, whole in found],
        'end_s': [segment.end_s if whole else None for _, segment, _, whole in found],
        'labels': [segment.labels for _, segment, _, _ in found],
        'split': [split for split, _, _, _ in found],
        'group': [segment.youtube_id for _, segment, _, _ in found],
    }
    demand_found(columns, len(rows), 'AudioSet', root, _NAMES)
    return Listing(Manifest.from_columns(columns, 'AudioSet'), len(rows))


def _find_files(root: Path, segments: Sequence[Segment], whole_videos: bool) -> dict[str, tuple[str, bool]]:
    """clip_id -> (file, whether it is the whole video) of the segments that are there."""
    by_video: dict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        by_video[segment.youtube_id].append(segment)
    matches: dict[str, list[str]] = defaultdict(list)
    whole_files = set()
    for file in list_files(root, VIDEO_ENDINGS):
        name = _FILE_NAME.fullmatch(Path(file).stem)
        if name is None:
            continue
        youtube_id, start, end = name.groups()
        meant = [
            one for one in by_video.get(youtube_id, ()) if _is_time(start, one.start_s) and _is_time(end, one.end_s)
        ]
        if whole_videos and start is None:
            whole_files.add(file)
        elif len(meant) > 1:
            raise UserError(
                f'AudioSet: {file} may be {" or ".join(one.clip_id for one in meant[:3])}; add the start to its name, or '
                'set whole_videos if it is the whole video.'
            )
        for segment in meant:
            matches[segment.clip_id].append(file)
    demand_one_file_each(matches, 'AudioSet')
    return {clip_id: (files[0], files[0] in whole_files) for clip_id, files in matches.items()}


def _is_time(written: str | None, time_s: float) -> bool:
    """Whether a number in a file's name is this time, in seconds (with or without their fraction) or milliseconds."""
    return written is None or abs(float(written) - time_s) < 1 or abs(float(written) - 1000 * time_s) < 1
