"""Which shards a folder holds, and the rows of all their clips. What is missing or cut off is said, and left out."""

import json
import logging
import re
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from mmengine.logging import print_log

from gmscavp.datasets.base import ClipFormat, say_found
from gmscavp.datasets.shards.index import SCHEMA, load_index
from gmscavp.datasets.shards.members import key_of
from gmscavp.errors import UserError

LISTING = 'shards.json'


def demand_format(rows: pa.Table, form: ClipFormat, root: Path) -> None:
    """UserError where the shards differ, or hold something else than the clips asked for."""
    stored: dict[str, float] = {}
    for name in ('fps', 'sample_rate'):
        values = pc.unique(rows[name]).to_pylist()
        if len(values) > 1:
            files = [rows['file'][pc.index(rows[name], value).as_py()].as_py().split('/')[0] for value in values[:2]]
            raise UserError(
                f'the shards in {root} differ: {name} is {values[0]:g} in {files[0]} and {values[1]:g} in {files[1]}; '
                'keep shards of one making in a folder.'
            )
        stored[name] = values[0]
    step = stored['fps'] / form.fps
    if round(step) < 1 or abs(step - round(step)) > 1e-6 * step:
        raise UserError(
            f'clip.fps: the shards in {root} hold {stored["fps"]:g} frames a second, from which {form.fps:g} cannot be '
            f'taken; set clip.fps to {stored["fps"]:g} or a half, a third, ... of it, or write the shards again.'
        )
    if form.sample_rate != stored['sample_rate']:
        raise UserError(
            f'clip.sample_rate: the shards in {root} hold {stored["sample_rate"]:g} samples a second, not '
            f'{form.sample_rate}; set clip.sample_rate to that, or write the shards again.'
        )


class Found(NamedTuple):
    """rows: those of the index of all shards of a split, with a column `file` ('<shard>/<key>'). counts: how many of them
    each shard has, in the same order. listed: how many clips the split had before any was left out or lost."""

    rows: pa.Table
    counts: dict[str, int]
    listed: int


def read_rows(root: Path, split: str) -> Found:
    """The clips of all shards of a split; says what should be there and is not.

    UserError: no folder, no shards, no clip in them, one clip_id twice, a shard that holds other things than clips.
    """
    if not root.is_dir():
        raise UserError(f'data folder {root} does not exist; set data_root, for example --cfg-options data_root=PATH.')
    pattern = re.compile(re.escape(key_of(split)) + r'-\d+\.tar')
    listed = {name: counts for name, counts in _listing(root).items() if pattern.fullmatch(name)}
    present = sorted(path.name for path in root.iterdir() if pattern.fullmatch(path.name))
    if not present:
        raise UserError(
            f"{root} holds no shards of the split '{split}' ({key_of(split)}-000000.tar, ...); write them with "
            f'`python tools/prepare_data.py ... --shards {root}`.'
        )
    tables, counts = [], {}
    for name in present:
        table = _rows_of(root / name, listed.get(name, (0, 0))[0])
        tables.append(table)
        counts[name] = len(table)
    for name in sorted(set(listed) - set(present)):
        _warn(f'shard {root / name} is missing with its {listed[name][0]} clips')
    rows = pa.concat_tables(tables)
    total = max(sum(before for _, before in listed.values()), len(rows))
    say_found('Shards', split, len(rows), total, root)
    if not len(rows):
        raise UserError(f"no clip can be read from the shards of the split '{split}' in {root}; write them again.")
    _refuse_twins(rows, root)
    return Found(rows, counts, total)


def _rows_of(shard: Path, listed: int) -> pa.Table:
    """The rows of one shard; of one that cannot be opened, none."""
    try:
        index, size = load_index(shard), shard.stat().st_size
    except OSError as error:
        _warn(f'shard {shard} cannot be read ({error.strerror or error}); its clips are left out')
        return SCHEMA.empty_table().append_column('file', pa.array([], pa.string()))
    clips, unknown = len(index.rows), max(listed - len(index.rows), 0)
    if unknown:
        _warn(f'shard {shard} is cut off or damaged: {unknown} of its {listed} clips are not in it')
    if damaged := index.beyond(size):
        _warn(f'shard {shard} is cut off or damaged: {damaged} of its {clips} clips cannot be read whole')
    names = pc.binary_join_element_wise(pa.scalar(shard.name), index.rows['key'], '/')
    return index.rows.append_column('file', names)


def _listing(root: Path) -> dict[str, tuple[int, int]]:
    """How many clips each shard has by shards.json, and had before some were left out; empty without one."""
    try:
        listing = json.loads((root / LISTING).read_text(encoding='utf-8'))
        shards = {name: (int(shard['clips']), int(shard['rows'])) for name, shard in listing['shards'].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _warn(f'{root / LISTING} cannot be read ({type(error).__name__}), so missing shards would not be noticed')
        return {}
    if not listing.get('complete'):
        _warn(f'the shards in {root} were not written to the end; the command that wrote them goes on from there')
    return shards


def _refuse_twins(rows: pa.Table, root: Path) -> None:
    counts = pc.value_counts(rows['clip_id'])
    if len(counts) == len(rows):
        return
    twin = next(entry['values'] for entry in counts.to_pylist() if entry['counts'] > 1)
    files = rows.filter(pc.equal(rows['clip_id'], twin))['file'].to_pylist()
    shards = ' and '.join(file.split('/')[0] for file in files[:2])
    raise UserError(f"clip_id '{twin}' stands twice in the shards in {root} ({shards}); keep one of them.")


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
