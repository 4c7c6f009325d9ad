"""Panda-70M (Chen et al. 2024) as it is distributed: one line a video, with lists of clips, captions and scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmscavp.datasets.base import ClipDataset, say_found
from gmscavp.datasets.panda70m.files import list_panda, split_of
from gmscavp.datasets.panda70m.table import PandaClip, PandaFilter, PandaRow, parse_clips, read_panda_csv
from gmscavp.registry import DATASETS

__all__ = [
    'Panda70M',
    'PandaClip',
    'PandaFilter',
    'PandaRow',
    'list_panda',
    'parse_clips',
    'read_panda_csv',
    'split_of',
]


@DATASETS.register_module()
class Panda70M(ClipDataset):
    """Clips of Panda-70M below `data_root`, in any subfolder, with their captions.

    annotations: a csv as it is distributed (videoID, url, timestamp, caption, matching_score, and in newer ones
    desirable_filtering and shot_boundary_detection). Files are whole videos `<video id>.mp4`, of which the listed windows
    are read, clips `<video id>_<number in the list>.mp4`, or what the data set's download tool wrote, with its json
    files. Two files for one clip are an error; listed clips without one are counted and said.
    min_score: least matching score. min_duration_s (None: that of `clip`) and max_duration_s: length of the listed clip.
    desirable_only: only clips that the csv calls desirable. split: 'train' or 'test'; all clips of a `test_share` of the
    videos, chosen by a hash of their id, are the test split. A test_share of None takes every line for `split`, for the
    csv files of validation and test.
    """

    def __init__(
        self,
        data_root: str,
        annotations: str,
        clip: Mapping[str, Any],
        window: Mapping[str, Any],
        transforms: Sequence[Mapping[str, Any]] = (),
        replace_bad: bool = True,
        split: str = 'train',
        test_share: float | None = 0.001,
        min_score: float = 0.0,
        min_duration_s: float | None = None,
        max_duration_s: float | None = None,
        desirable_only: bool = False,
    ) -> None:
        root = Path(data_root)
        shortest_s = clip['duration_s'] if min_duration_s is None else min_duration_s
        wanted = PandaFilter(min_score, shortest_s, max_duration_s, desirable_only)
        rows = read_panda_csv(Path(annotations), wanted)
        listing = list_panda(root, (row for row in rows if split_of(row.video_id, test_share) in (None, split)), wanted)
        say_found('Panda-70M', split, len(listing.manifest), listing.listed, root)
        super().__init__(listing.manifest, root, clip, window, transforms, replace_bad)
