"""The manifest: one row a clip, in a file that every worker maps instead of copying.

A CSV or Parquet table is read once, brought to one schema and written as an Arrow file in the user's cache folder; from
then on it is memory-mapped, so that its size in memory does not grow with the number of worker processes.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from gmscavp.errors import UserError, near_names

_TEXT = ('clip_id', 'file', 'label', 'caption', 'split', 'group')
_SECONDS = ('start_s', 'end_s')
# Part of the cache's key: raise it when the schema below changes.
_SCHEMA_VERSION = 1


class ClipRecord(NamedTuple):
    """One row. start_s and end_s (seconds within the file) are None where the whole file is the clip."""

    clip_id: str
    file: str
    start_s: float | None
    end_s: float | None
    labels: list[str]
    caption: str | None
    split: str | None
    group: str | None


class Manifest:
    """Rows of clips, memory-mapped. Picking rows shares the file and keeps only their numbers.

    Columns: clip_id (default: the file name without its ending), file, start_s, end_s, label or labels (several
    separated by ';'), caption, split, group; other columns are kept as they are. start_s counts only together with
    end_s: data sets also write there where a clip was cut from its source.
    """

    def __init__(self, arrow_file: Path, rows: np.ndarray | None = None) -> None:
        self._file = arrow_file
        self._table = pa.ipc.open_file(pa.memory_map(str(arrow_file), 'r')).read_all()
        self._rows = np.arange(len(self._table)) if rows is None else rows

    @classmethod
    def read(cls, path: str | Path) -> 'Manifest':
        """Open a .csv or .parquet manifest. Raises UserError that names the file and what is wrong with it."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f'manifest {path} does not exist.')
        stat = path.stat()
        key = f'{_SCHEMA_VERSION} {path.resolve()} {stat.st_size} {stat.st_mtime_ns}'
        cached = _cache_folder() / _file_name(key)
        if not cached.is_file():
            _write_arrow(_normalise(_read_table(path), str(path)), cached)
        return cls(cached)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Any]], source: str) -> 'Manifest':
        """Make a manifest of columns in memory; `source` names their origin in errors."""
        return cls.from_table(pa.table({name: list(values) for name, values in columns.items()}), source)

    @classmethod
    def from_table(cls, table: pa.Table, source: str) -> 'Manifest':
        """Make a manifest of an Arrow table in memory, its other columns included."""
        return cls(_write_by_content(_normalise(table, source)))

    @property
    def arrow_file(self) -> Path:
        """The memory-mapped file with all rows, also those that were not picked."""
        return self._file

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ClipRecord:
        row = int(self._rows[index])
        return ClipRecord(*(self._table[name][row].as_py() for name in ClipRecord._fields))

    def __getstate__(self) -> tuple[Path, np.ndarray]:
        return self._file, self._rows

    def __setstate__(self, state: tuple[Path, np.ndarray]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return self._table.column_names

    def column(self, name: str) -> list[Any]:
        """All values of one column. Raises UserError for a column that the manifest does not have."""
        if name not in self._table.column_names:
            raise UserError(f"the manifest has no column '{name}'; it has {', '.join(self._table.column_names)}.")
        return self._table[name].take(pa.array(self._rows)).to_pylist()

    def has(self, name: str) -> bool:
        """Whether any row says something in this column."""
        return name in self._table.column_names and any(value is not None for value in self.column(name))

    def pick(self, keep: Sequence[bool] | np.ndarray) -> 'Manifest':
        """Only the rows where `keep` is true, in the same order."""
        return Manifest(self._file, self._rows[np.asarray(keep, dtype=bool)])


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix == '.parquet':
            return pa_parquet.read_table(path)
        if path.suffix == '.csv':
            # Identifiers may look like numbers ('00012', '-1e5'): they stay text.
            types = {name: pa.string() for name in (*_TEXT, 'labels')} | {name: pa.float64() for name in _SECONDS}
            options = pa_csv.ConvertOptions(
                column_types=types, strings_can_be_null=True, null_values=['', 'nan', 'NaN', 'null']
            )
            # Captions may have several lines, also where a block of the file ends.
            parse = pa_csv.ParseOptions(newlines_in_values=True)
            return pa_csv.read_csv(path, parse_options=parse, convert_options=options)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f'manifest {path} cannot be read: {str(error).splitlines()[0]}') from error
    raise UserError(f'manifest {path} must end in .csv or .parquet.')


def _normalise(table: pa.Table, source: str) -> pa.Table:
    """Bring a table to the manifest's schema, or say what is wrong with it."""
    names = table.column_names
    if 'file' not in names:
        hint = near_names('file', names)
        raise UserError(f"{source}: a manifest needs a column 'file'; found columns {', '.join(names)}.{hint}")
    columns: dict[str, pa.Array] = {}
    rows = len(table)
    for name in _TEXT:
        columns[name] = table[name].cast(pa.string()) if name in names else pa.nulls(rows, pa.string())
    for name in _SECONDS:
        columns[name] = _seconds(table, name, source)
    if columns['file'].null_count:
        raise UserError(f"{source}: row {_first(pc.is_null(columns['file']))} has no 'file'.")
    if columns['clip_id'].null_count:
        stems = pa.array([Path(file).stem for file in columns['file'].to_pylist()])
        columns['clip_id'] = pc.coalesce(columns['clip_id'], stems)
    columns['start_s'] = pc.if_else(pc.is_null(columns['end_s']), None, pc.coalesce(columns['start_s'], 0.0))
    wrong = pc.fill_null(pc.less_equal(columns['end_s'], columns['start_s']), False)
    if pc.any(wrong).as_py():
        raise UserError(f'{source}: row {_first(wrong)} ends (end_s) before it starts (start_s).')
    columns['labels'] = _labels(table, columns.pop('label'))
    _refuse_twins(columns['clip_id'], source)
    extra = {name: table[name] for name in names if name not in {*columns, 'label'}}
    return pa.table(columns | extra).combine_chunks()


def _seconds(table: pa.Table, name: str, source: str) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(len(table), pa.float64())
    try:
        return table[name].cast(pa.float64())
    except pa.ArrowException as error:
        raise UserError(f"{source}: column '{name}' must hold seconds: {str(error).splitlines()[0]}") from error


def _labels(table: pa.Table, label: pa.Array) -> pa.Array:
    if 'labels' not in table.column_names:
        return pa.array([[] if one is None else [one] for one in label.to_pylist()], pa.list_(pa.string()))
    values = table['labels'].to_pylist()
    split = [value.split(';') if isinstance(value, str) else (value or []) for value in values]
    return pa.array([[one.strip() for one in many if one.strip()] for many in split], pa.list_(pa.string()))


def _refuse_twins(clip_ids: pa.Array, source: str) -> None:
    counts = pc.value_counts(clip_ids)
    if len(counts) < len(clip_ids):
        twin = next(entry['values'] for entry in counts.to_pylist() if entry['counts'] > 1)
        raise UserError(f"{source}: clip_id '{twin}' stands in more than one row; every clip needs its own clip_id.")


def _first(mask: pa.Array) -> int:
    """The number of the first true row as a person counts, from 1."""
    return int(pc.index(mask, pa.scalar(True)).as_py()) + 1


def _cache_folder() -> Path:
    base = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    folder = base / 'gmscavp' / 'manifests'
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # A home that cannot be written (containers, shared clusters) only costs reading the table again next time.
        folder = Path(tempfile.mkdtemp(prefix='gmscavp-manifests-'))
    return folder


def _file_name(key: str) -> str:
    return hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest() + '.arrow'


def _write_by_content(table: pa.Table) -> Path:
    """Write a table under a name made of its content: the same rows are kept once, however often they are made."""
    part = _write_part(table, _cache_folder())
    with part.open('rb') as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
    file = part.with_name(_file_name(f'{_SCHEMA_VERSION} {digest}'))
    os.replace(part, file)
    return file


def _write_arrow(table: pa.Table, file: Path) -> None:
    os.replace(_write_part(table, file.parent), file)


def _write_part(table: pa.Table, folder: Path) -> Path:
    # Written beside and renamed: another process may read the same cache at this moment.
    with (
        tempfile.NamedTemporaryFile(dir=folder, suffix='.tmp', delete=False) as part,
        pa.ipc.new_file(part, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=max(len(table), 1))
    return Path(part.name)


def hash_share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, so that a choice made by it never changes."""
    return int(hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:12], 16) / 16**12


def splits_of(rows: Manifest, test_share: float) -> list[str]:
    """The split of every row: as the manifest says, or 'test' for a share of the groups (files without a group)."""
    if rows.has('split'):
        return rows.column('split')
    names = [group or file for group, file in zip(rows.column('group'), rows.column('file'), strict=True)]
    return ['test' if hash_share(name) < test_share else 'train' for name in names]
