"""Which clips of Panda-70M are on disk, under the names that download tools give them."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from gmscavp.datasets.base import list_files
from gmscavp.datasets.listing import Listing, demand_found, demand_one_file_each
from gmscavp.datasets.manifest import Manifest, hash_share
from gmscavp.datasets.panda70m.table import PandaClip, PandaFilter, PandaRow, clock_s, parse_clips, parse_value
from gmscavp.datasets.video_folder import VIDEO_ENDINGS
from gmscavp.errors import UserError

_NAMES = (
    "'<video id>.mp4' (whole videos), '<video id>_<number>.mp4' (clips), or as the data set's own download tool writes "
    'them, with the json files beside them'
)
# '10Y6wIEuG00', '10Y6wIEuG00_00062', '10Y6wIEuG00.62', '10Y6wIEuG00_segment_62'
_FILE_NAME = re.compile(r'([\w-]{11})(?:[._](?:segment_)?(\d+))?')
# What the download tool writes: shard and number of the video, then the number of the clip.
_TOOL_NAME = re.compile(r'\d{7,}_\d{5}')


def split_of(video_id: str, test_share: float | None) -> str | None:
    """'train' or 'test' by a hash of the video's id, the same for ever; None when there is no share to hold out."""
    if test_share is None:
        return None
    return 'test' if hash_share(video_id) < test_share else 'train'


def list_panda(
    root: Path,
    rows: Iterable[PandaRow],
    wanted: PandaFilter,
    test_share: float | None = None,
    split: str | None = None,
) -> Listing:
    """The clips of the rows that have a file below `root` and pass the filter.

    Columns: clip_id, file, caption, group (the video's id), matching_score, desirable, start_s and end_s where the file
    is a whole video, and split, which is the one given or by test_share. Raises UserError when a clip has several files,
    or none has one.
    """
    files = _index_files(root)
    listed, left_out, matches = 0, Counter[str](), {}
    found: list[tuple[PandaClip, str, bool]] = []
    for row in rows:
        listed += row.clips_listed
        if row.video_id not in files:
            continue
        for clip in parse_clips(row):
            of_clip = files[row.video_id].of(clip)
            if not of_clip:
                continue
            matches[clip.clip_id] = of_clip
            cause = wanted.cause(clip)
            if cause:
                left_out[cause] += 1
            else:
                found.append((clip, of_clip[0], of_clip[0] in files[row.video_id].whole))
    demand_one_file_each(matches, 'Panda-70M')
    if left_out:
        causes = ', '.join(f'{count:,} {cause}' for cause, count in left_out.most_common())
        print_log(f'Panda-70M: clips that are there and left out: {causes}', logger='current')
        if not found:
            raise UserError(f'Panda-70M: all clips below {root} are left out ({causes}); lower the limits.')
    splits = [split or split_of(clip.video_id, test_share) for clip, _, _ in found]
    columns = _columns(found, splits)
    demand_found(columns, listed, 'Panda-70M', root, _NAMES)
    return Listing(Manifest.from_columns(columns, 'Panda-70M'), listed)


class _VideoFiles:
    """The files of one video: whole ones, clips by number, clips by start in seconds."""

    def __init__(self) -> None:
        self.whole: list[str] = []
        self.by_number: dict[int, list[str]] = defaultdict(list)
        self.by_start: list[tuple[float, str]] = []

    def of(self, clip: PandaClip) -> list[str]:
        """All files that hold the clip."""
        # The tool rounds times to milliseconds.
        started = [file for start_s, file in self.by_start if abs(start_s - clip.start_s) < 0.002]
        return [*self.whole, *self.by_number.get(clip.number, ()), *started]


def _index_files(root: Path) -> dict[str, _VideoFiles]:
    index: dict[str, _VideoFiles] = defaultdict(_VideoFiles)
    without_json = 0
    for file in list_files(root, VIDEO_ENDINGS):
        path = Path(file)
        name = _FILE_NAME.fullmatch(path.stem)
        if _TOOL_NAME.fullmatch(path.stem):
            told = _read_tool_json(root / path.with_suffix('.json'))
            if told is None:
                without_json += 1
            else:
                index[told[0]].by_start.append((told[1], file))
        elif name and name[2] is None:
            index[name[1]].whole.append(file)
        elif name:
            index[name[1]].by_number[int(name[2])].append(file)
    if without_json:
        print_log(
            f"Panda-70M: {without_json:,} files with the download tool's names have no json that tells what they are; "
            'left out',
            logger='current',
        )
    return dict(index)


def _read_tool_json(file: Path) -> tuple[str, float] | None:
    """(video id, start in seconds) of a clip as the download tool notes them, None where it does not."""
    try:
        notes = json.loads(file.read_text(encoding='utf-8'))
        video_id = re.search(r'(?:v=|youtu\.be/|embed/)([\w-]{11})', notes['url'])
        pair = parse_value(notes['clips'])[0] if isinstance(notes['clips'], str) else notes['clips'][0]
        return (video_id[1], clock_s(pair[0], str(file))) if video_id else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, SyntaxError, UserError):
        # Counted by the caller.
        return None


def _columns(found: Sequence[tuple[PandaClip, str, bool]], splits: list[str | None]) -> dict[str, list[Any]]:
    return {
        'clip_id': [clip.clip_id for clip, _, _ in found],
        'file': [file for _, file, _ in found],
        'start_s': [clip.start_s if whole else None for clip, _, whole in found],
        'end_s': [clip.end_s if whole else None for clip, _, whole in found],
        'caption': [clip.caption for clip, _, _ in found],
        'split': splits,
        'group': [clip.video_id for clip, _, _ in found],
        'matching_score': [clip.score for clip, _, _ in found],
        'desirable': [clip.desirable for clip, _, _ in found],
    }
