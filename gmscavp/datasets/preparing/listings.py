"""The clips that each data set lists and that are there, before any is opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gmscavp.datasets.audioset import list_audioset, read_class_labels, read_segments_csv
from gmscavp.datasets.base import list_files
from gmscavp.datasets.listing import Listing, demand_found, demand_one_file_each
from gmscavp.datasets.manifest import Manifest, splits_of
from gmscavp.datasets.panda70m import PandaFilter, list_panda, read_panda_csv
from gmscavp.datasets.vggsound import read_vggsound_csv
from gmscavp.datasets.video_folder import VIDEO_ENDINGS
from gmscavp.errors import UserError


def vggsound_listing(root: Path, annotations: Path, split: str | None = None) -> Listing:
    """Clips of VGGSound with the split of the official csv; `split` is for a list that names none.

    Columns: clip_id, file, label, split, group (the YouTube id).
    """
    rows = read_vggsound_csv(annotations)
    if split is None and any(row.split is None for row in rows):
        raise UserError(f'{annotations} does not say which split its clips are of; add --split train or --split test.')
    wanted = {row.clip_id for row in rows}
    matches: dict[str, list[str]] = {}
    for file in list_files(root, VIDEO_ENDINGS):
        if (name := Path(file).stem) in wanted:
            matches.setdefault(name, []).append(file)
    demand_one_file_each(matches, 'VGGSound')
    found = [row for row in rows if row.clip_id in matches]
    columns: dict[str, list[Any]] = {
        'clip_id': [row.clip_id for row in found],
        'file': [matches[row.clip_id][0] for row in found],
        'label': [row.label for row in found],
        'split': [split or row.split for row in found],
        'group': [row.clip_id[:-7] for row in found],
    }
    demand_found(columns, len(rows), 'VGGSound', root, "'<youtube id>_<start, 6 digits>.mp4'")
    return Listing(Manifest.from_columns(columns, str(annotations)), len(rows))


def audioset_listing(
    root: Path, train: Sequence[Path], test: Sequence[Path], class_labels: Path, whole_videos: bool = False
) -> Listing:
    """Clips of AudioSet: the segments csv files of training and of evaluation."""
    names = read_class_labels(class_labels)
    segments = {
        split: [segment for file in files for segment in read_segments_csv(file, names)]
        for split, files in (('train', train), ('test', test))
    }
    return list_audioset(root, segments, whole_videos)


def panda_listing(
    root: Path, annotations: Path, wanted: PandaFilter, test_share: float | None = 0.001, split: str | None = None
) -> Listing:
    """Clips of Panda-70M: `split` for all of them, or else a `test_share` of the videos held out."""
    return list_panda(root, read_panda_csv(annotations, wanted), wanted, test_share, split)


def folder_listing(root: Path, table: Path | None = None, test_share: float = 0.1) -> Listing:
    """Every video file of a folder, or the rows of a manifest; each with the split that VideoFolder would give it.

    All columns of the manifest are kept. Raises UserError when there is no video, or none that the manifest lists.
    """
    files = list_files(root, VIDEO_ENDINGS)
    if table is None:
        if not files:
            raise UserError(f'data folder {root} holds no video files ({" ".join(VIDEO_ENDINGS)}).')
        rows = Manifest.from_columns({'file': files, 'clip_id': files}, source=str(root))
    else:
        rows = Manifest.read(table)
    there = set(files)
    found = rows.pick([file in there or (root / file).is_file() for file in rows.column('file')])
    if not len(found):
        example = f" (for example '{rows[0].file}')" if len(rows) else ''
        raise UserError(f'none of the {len(rows):,} clips that {table} lists is in {root}{example}.')
    columns = {name: found.column(name) for name in found.columns} | {'split': splits_of(found, test_share)}
    return Listing(Manifest.from_columns(columns, str(table or root)), len(rows))
