"""Which clips an evaluation compares: a published list, or a rule that gives the same clips wherever the data is.

A rule orders clips by the SHA-256 of their clip_id, which depends on nothing else: no seed, no order of files.
"""

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log
from torch.utils.data import Dataset

from gmscavp.datasets.manifest import Manifest
from gmscavp.errors import UserError, near_names
from gmscavp.registry import DATASETS

ID_NAMES = ('clip_id', 'video_id', 'id', 'file')
"""What the clips of a list may be called: keys of JSON entries, headings of a csv. The first that is there counts."""
RULES = {
    'all': set[str](),
    'list': {'gallery_file', 'published'},
    'five_per_class': {'per_class'},
    'held_out': {'count'},
}
"""Ways to choose a gallery, and the settings of each."""
STILLS = (None, 'clip', 'window')

_ENDING = re.compile(r'\.(mp4|m4v|mkv|webm|mov|avi|mpe?g|ts|flv|wmv|3gp|ogv|wav|flac|mp3|m4a|ogg|opus)$', re.IGNORECASE)
_NAMED = 5


class Selection(NamedTuple):
    """The clips of a gallery that are there (clip_ids), how many it should have, and what is missing, in words."""

    clip_ids: list[str]
    listed: int
    missing: list[str]
    digest: str


def gallery_hash(clip_ids: Sequence[str]) -> str:
    """SHA-256, in hexadecimal, of the sorted clip_ids joined by newlines: the same for every order of the same clips."""
    return hashlib.sha256('\n'.join(sorted(clip_ids)).encode()).hexdigest()


def hash_order(clip_ids: Sequence[str]) -> list[str]:
    """The clip_ids in the order of their own SHA-256: arbitrary, and the same everywhere."""
    return sorted(clip_ids, key=lambda clip_id: (hashlib.sha256(clip_id.encode()).digest(), clip_id))


def five_per_class(
    clip_ids: Sequence[str], labels: Sequence[Sequence[str]], per_class: int = 5
) -> dict[str, list[str]]:
    """`per_class` clips of every class, or as many as there are: label -> clip_ids in hash order.

    A clip with several labels stands for one of them only. Classes choose in turn, the rarest first (alphabetically among
    equals), so that a common class does not take the clips of a rare one.
    """
    of_class: dict[str, list[str]] = defaultdict(list)
    label_sets = {clip_id: set(names) for clip_id, names in zip(clip_ids, labels, strict=True)}
    for clip_id in hash_order(clip_ids):
        for label in label_sets[clip_id]:
            of_class[label].append(clip_id)
    taken: set[str] = set()
    chosen: dict[str, list[str]] = {}
    for label in sorted(of_class, key=lambda name: (len(of_class[name]), name)):
        free = (clip_id for clip_id in of_class[label] if clip_id not in taken)
        chosen[label] = [clip_id for clip_id, _ in zip(free, range(per_class), strict=False)]
        taken.update(chosen[label])
    return chosen


def held_out(clip_ids: Sequence[str], count: int) -> list[str]:
    """The first `count` clips in hash order, or all where there are fewer."""
    return hash_order(clip_ids)[:count]


def plain_id(name: str) -> str:
    """A clip_id as lists write it: without folders and without a media file's ending."""
    return _ENDING.sub('', re.split(r'[/\\]', name.strip())[-1])


def read_gallery_list(gallery_file: str | Path, published: str = '') -> list[str]:
    """The clip_ids of a list, in its order.

    .json: a list, or {"data": [...]}, of names or of objects that name their clip under one of ID_NAMES. .csv: under a
    heading of ID_NAMES, or in the first column. .txt: one a line. Folders and media endings of names do not count.
    `published` says, in errors, where such a list comes from. Raises UserError for a list that is missing, unreadable,
    empty, or names a clip twice.
    """
    file = Path(gallery_file)
    if not file.is_file():
        source = f' It is published: {published}.' if published else ''
        raise UserError(
            f'the gallery list {file} does not exist; set gallery_file to a .json '
            f'({{"data": [{{"video_id": ...}}]}}), .csv or .txt (one clip_id a line).{source}'
        )
    readers = {'.json': _json_names, '.csv': _csv_names, '.txt': lambda text, _: text.splitlines()}
    if file.suffix.lower() not in readers:
        raise UserError(f'the gallery list {file} must end in .json, .csv or .txt.')
    try:
        text = file.read_text('utf-8-sig')
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f'the gallery list {file} cannot be read: {error}.') from error
    clip_ids = [plain_id(name) for name in readers[file.suffix.lower()](text, file) if name.strip()]
    if not clip_ids:
        raise UserError(f'the gallery list {file} names no clip.')
    seen: set[str] = set()
    for clip_id in clip_ids:
        if clip_id in seen:
            raise UserError(f"the gallery list {file} names the clip '{clip_id}' twice.")
        seen.add(clip_id)
    return clip_ids


def _json_names(text: str, file: Path) -> Iterator[str]:
    try:
        entries = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f'the gallery list {file} is not JSON: {error}.') from error
    entries = entries.get('data') if isinstance(entries, dict) else entries
    if not isinstance(entries, list):
        raise UserError(f'the gallery list {file} holds neither a list nor {{"data": [...]}}.')
    for number, entry in enumerate(entries, start=1):
        name = next((entry[key] for key in ID_NAMES if key in entry), None) if isinstance(entry, dict) else entry
        if not isinstance(name, str):
            raise UserError(
                f'the gallery list {file}, entry {number}, names its clip under none of {", ".join(ID_NAMES)}.'
            )
        yield name


def _csv_names(text: str, file: Path) -> Iterator[str]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    heading = [name.strip().lower() for name in rows[0]] if rows else []
    column = next((heading.index(name) for name in ID_NAMES if name in heading), None)
    for number, row in enumerate(rows if column is None else rows[1:], start=1):
        if len(row) <= (column or 0):
            raise UserError(f'the gallery list {file}, row {number}, has only {len(row)} columns.')
        yield row[column or 0]


def select(gallery: Mapping[str, Any], manifest: Manifest, listed: int | None = None) -> Selection:
    """The clips that `gallery` asks for among those of the manifest, in no particular order.

    gallery: dict(rule='all'), dict(rule='list', gallery_file=..., published=...), dict(rule='five_per_class', per_class=5)
    or dict(rule='held_out', count=...). listed: how many clips the data set's own list has, where it is known.
    """
    rule, settings = _rule_of(gallery)
    clip_ids = manifest.column('clip_id')
    if rule == 'list':
        wanted = read_gallery_list(**settings)
        names = {plain_id(clip_id): clip_id for clip_id in clip_ids} | {clip_id: clip_id for clip_id in clip_ids}
        there = [names[clip_id] for clip_id in wanted if clip_id in names]
        missing = [clip_id for clip_id in wanted if clip_id not in names]
        return Selection(there, len(wanted), missing, gallery_hash(wanted))
    if rule == 'five_per_class':
        per_class = settings.get('per_class', 5)
        chosen = five_per_class(clip_ids, manifest.column('labels'), per_class)
        if not chosen:
            raise UserError("a gallery by class needs labels; the manifest has none in 'label' or 'labels'.")
        short = [f'{label} ({len(of)} of {per_class})' for label, of in sorted(chosen.items()) if len(of) < per_class]
        there = [clip_id for of in chosen.values() for clip_id in of]
        return Selection(there, per_class * len(chosen), short, gallery_hash(there))
    if rule == 'held_out':
        there = held_out(clip_ids, settings['count'])
        return Selection(there, settings['count'], [], gallery_hash(there))
    return select_all(manifest, listed)


def select_all(manifest: Manifest, listed: int | None = None) -> Selection:
    """Every clip of the manifest; listed as in `select`."""
    clip_ids = manifest.column('clip_id')
    return Selection(clip_ids, listed or len(clip_ids), [], gallery_hash(clip_ids))


def _rule_of(gallery: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    settings = dict(gallery)
    rule = settings.pop('rule', 'list' if 'gallery_file' in settings else None)
    if rule not in RULES:
        raise UserError(f"gallery: rule must be one of {', '.join(RULES)}, not '{rule}'.{near_names(str(rule), RULES)}")
    for name in settings:
        if name not in RULES[rule]:
            takes = ', '.join(sorted(RULES[rule])) or 'no settings'
            raise UserError(f"gallery: the rule '{rule}' takes {takes}, not '{name}'.{near_names(name, RULES[rule])}")
    needed = {'list': 'gallery_file', 'held_out': 'count'}.get(rule)
    if needed and needed not in settings:
        raise UserError(f"gallery: the rule '{rule}' needs '{needed}'.")
    for name in ('count', 'per_class'):
        if name in settings and (not isinstance(settings[name], int) or settings[name] < 1):
            raise UserError(f'gallery: {name} must be a number from 1 on, not {settings[name]}.')
    return rule, settings


class ClipLabels(Mapping[str, list[str]]):
    """clip_id -> labels of a manifest's clips, read when first asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    @cached_property
    def _labels(self) -> dict[str, list[str]]:
        return dict(zip(self.manifest.column('clip_id'), self.manifest.column('labels'), strict=True))

    def __getitem__(self, clip_id: str) -> list[str]:
        return self._labels[clip_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self.manifest)


def evaluation_facts(manifest: Manifest, chosen: Selection, protocol: str = '', rule: str = 'all') -> dict[str, Any]:
    """What a metric may ask of a test set: 'labels', and 'gallery' with protocol, rule, hash, listed, found, missing.

    The hash is `gallery_hash` of the listed clips for a list, of the chosen ones for a rule.
    """
    facts = {
        'protocol': protocol or 'the test set of the config',
        'rule': rule,
        'hash': f'sha256:{chosen.digest}',
        'hash_of': f'the sorted clip_ids {"of the list" if rule == "list" else "that were chosen"}, joined by newlines',
        'listed': chosen.listed,
        'found': len(chosen.clip_ids),
        'missing': chosen.missing,
    }
    return {'labels': ClipLabels(manifest), 'gallery': facts}


@DATASETS.register_module()
class GallerySubset(Dataset):
    """The clips of another data set that an evaluation protocol compares.

    dataset: the data set's config, with replace_bad=False. gallery: which clips, see `select`. protocol: its name, for
    the reports. min_found: the share of the listed clips that must be there, below which the run is refused.
    still: show one frame only, repeated: None (all frames), 'clip' (the middle frame of the whole clip, in every window)
    or 'window' (the middle frame of each window).
    """

    def __init__(
        self,
        dataset: Mapping[str, Any],
        gallery: Mapping[str, Any],
        protocol: str = '',
        min_found: float = 0.9,
        still: str | None = None,
    ) -> None:
        if still not in STILLS:
            raise UserError(f"still must be None, 'clip' or 'window', not '{still}'.")
        self.dataset = DATASETS.build(dict(dataset))
        if getattr(self.dataset, 'replace_bad', False):
            raise UserError(f'{protocol}: set replace_bad=False; an evaluation must not replace clips by others.')
        if not isinstance(getattr(self.dataset, 'manifest', None), Manifest):
            raise UserError(f'a gallery needs a data set with a manifest, which {type(self.dataset).__name__} has not.')
        self.still = still
        selection = select(gallery, self.dataset.manifest, getattr(self.dataset, 'listed', None))
        _demand_enough(selection, protocol, min_found)
        chosen = set(selection.clip_ids)
        mask = np.array([clip_id in chosen for clip_id in self.dataset.manifest.column('clip_id')])
        self.places = np.flatnonzero(mask)
        self.manifest = self.dataset.manifest.pick(mask)
        self.metainfo = evaluation_facts(self.manifest, selection, protocol, _rule_of(gallery)[0])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[int(self.places[index])]
        if self.still:
            video = sample['video']
            # Segments of a clip stand on an axis in front: (N_T, T, 3, H, W).
            frame = video[..., video.shape[-4] // 2, :, :, :].unsqueeze(-4)
            if self.still == 'clip' and video.dim() == 5:
                frame = frame[len(frame) // 2]
            sample['video'] = frame.expand_as(video).contiguous()
        return sample


def _demand_enough(selection: Selection, protocol: str, min_found: float) -> None:
    found, listed = len(selection.clip_ids), selection.listed
    name = protocol or 'gallery'
    print_log(f'{name}: found {found:,} of {listed:,} listed clips', logger='current')
    named = ', '.join(selection.missing[:_NAMED]) + (', ...' if len(selection.missing) > _NAMED else '')
    which = f' ({named})' if named else ''
    if not found:
        raise UserError(
            f'{name}: none of the {listed:,} listed clips is in the data set{which}; check data_root and the list.'
        )
    if found < min_found * listed:
        raise UserError(
            f'{name}: {listed - found:,} of {listed:,} listed clips are missing{which}; figures of the other {found:,} '
            'could not be compared with any: get the clips, or accept a smaller share by '
            'test_dataloader.dataset.min_found.'
        )
