"""VGGSound (Chen et al. 2020) as it is distributed: `<youtube id>_<start, 6 digits>.mp4` and its csv of labels."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log

from gmscavp.datasets.base import ClipDataset, list_files, say_found
from gmscavp.datasets.manifest import Manifest
from gmscavp.errors import UserError
from gmscavp.registry import DATASETS

_CLIP_NAME = re.compile(r'[\w-]{11}_\d{6}')


class VGGSoundRow(NamedTuple):
    """One line of the data set's csv. split is None in the two-column lists, which hold one split each."""

    clip_id: str
    label: str
    split: str | None


@DATASETS.register_module()
class VGGSound(ClipDataset):
    """Clips of VGGSound below `data_root`, in any subfolder.

    annotations: the official `vggsound.csv` (youtube id, start second, label, train or test), or a list of one split
    (`<youtube id>_<start>.mp4`, label). Listed clips that are not there are counted and said. unlisted: 'skip' files
    that carry a VGGSound name but are not listed, or take them, without a label, as part of the split 'train'.
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
        unlisted: str = 'skip',
    ) -> None:
        if unlisted not in ('skip', 'train'):
            raise UserError(f"unlisted must be 'skip' or 'train', not '{unlisted}'.")
        root = Path(data_root)
        files = _by_name(list_files(root, ('.mp4',)), root)
        rows = read_vggsound_csv(Path(annotations))
        listed = [row for row in rows if row.split in (None, split)]
        found = [row for row in listed if row.clip_id in files]
        say_found('VGGSound', split, len(found), len(listed), root)
        known = {row.clip_id for row in rows}
        extra = [name for name in files if _CLIP_NAME.fullmatch(name) and name not in known]
        if extra:
            fate = 'taken into the train split' if unlisted == 'train' else 'left out'
            print_log(f'VGGSound: {len(extra):,} clips with a VGGSound name are not listed; {fate}', logger='current')
        if unlisted == 'train' and split == 'train':
            found += [VGGSoundRow(name, '', split) for name in sorted(extra)]
        if not found:
            raise UserError(
                f'none of the {len(listed):,} clips of the {split} split in {annotations} is below {root}; files there '
                "must be called '<youtube id>_<start, 6 digits>.mp4'."
            )
        columns: dict[str, list[Any]] = {
            'clip_id': [row.clip_id for row in found],
            'file': [files[row.clip_id] for row in found],
            'label': [row.label or None for row in found],
            'split': [split] * len(found),
        }
        super().__init__(Manifest.from_columns(columns, annotations), root, clip, window, transforms, replace_bad)
        self.listed = len(listed)


def _by_name(files: Sequence[str], root: Path) -> dict[str, str]:
    """File names without ending -> files. Raises UserError for a VGGSound name that two files have."""
    named: dict[str, str] = {}
    for file in files:
        name = Path(file).stem
        if name in named and _CLIP_NAME.fullmatch(name):
            raise UserError(f'{root} holds clip {name} twice, as {named[name]} and as {file}; take one away.')
        named[name] = file
    return named


def read_vggsound_csv(file: Path) -> list[VGGSoundRow]:
    """Read the official csv (4 columns) or a list of one split (2 columns), neither with a header line.

    Raises UserError that names the line with a wrong number of columns, a start that is no number, or a clip listed
    twice.
    """
    if not file.is_file():
        raise UserError(f'VGGSound csv {file} does not exist; set annotations to the path of vggsound.csv.')
    rows: dict[str, VGGSoundRow] = {}
    with file.open(newline='', encoding='utf-8') as lines:
        for number, fields in enumerate(csv.reader(lines), start=1):
            if not fields:
                continue
            row = _row(fields, f'{file}, line {number}')
            if row.clip_id in rows:
                raise UserError(f'{file}, line {number}: clip {row.clip_id} is listed twice.')
            rows[row.clip_id] = row
    if not rows:
        raise UserError(f'VGGSound csv {file} is empty.')
    return list(rows.values())


def _row(fields: list[str], place: str) -> VGGSoundRow:
    match fields:
        case [name, label]:
            clip_id, split = Path(name).stem, None
        case [youtube_id, start, label, split] if start.isdigit():
            clip_id = f'{youtube_id}_{int(start):06d}'
        case _:
            raise UserError(
                f'{place}: expected "youtube id,start second,label,split" or "file,label", found {",".join(fields)!r}.'
            )
    if not _CLIP_NAME.fullmatch(clip_id):
        raise UserError(f"{place}: '{clip_id}' is not '<youtube id>_<start, 6 digits>'.")
    return VGGSoundRow(clip_id, label, split)
