"""Vectors of windows and where they are from, in one LanceDB table: on disk, or behind an object-store URI.

One table, so that everything of a file (its windows, its hash) is one commit: a reader sees all of it or nothing, and a
process that dies leaves the database as it was before. What a database says of itself stands in the table's schema.
Reading one runs nothing: it holds plain columns, and whatever it has beyond them is refused.
"""

import fcntl
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gmscavp.errors import UserError
from gmscavp.search.conditions import quoted
from gmscavp.search.layout import About, Known, read_about, schema_of

# By name: the types of an optional library cannot be checked where it is not installed.
lancedb: Any
try:
    lancedb = importlib.import_module('lancedb')
except ImportError:  # the extra gmscavp[search]
    lancedb = None

INSTALL = 'pip install -c requirements/constraints.txt "gmscavp[search]"'
ANN_FROM = 50_000
"""Windows from which on an approximate index is built; below, every vector is compared (docs/results/search.md)."""

_TABLE, _ROOT = 'windows', 'gmscavp.root'
# Every commit writes the list of all pieces of the table; joined now and then, they stay few.
_COMMITS_A_TIDY = 256
# How long a reader may go on with what it opened.
_KEPT = timedelta(hours=1)
# Cells of 1,000 rows, and four times the samples, took longer to build and found no more.
_CELL_ROWS, _SAMPLES_A_CELL, _INDEX_ROUNDS = 4_000, 64, 10
_FILES_A_DELETE = 500
# Of a folder that holds more than a library.
_TABLES = 10_000


class AnnSearch(NamedTuple):
    """How hard an index is searched: cells looked into, and, for each answer, vectors compared exactly."""

    nprobes: int
    refine: int


# More of either finds more and takes longer; benchmarks/search.py measures both.
ANN_SEARCH = AnnSearch(40, 20)


class Store:
    """An open database. `about` says what it holds; its rows are windows of files, one file written at a time."""

    def __init__(self, uri: str, connection: Any, table: Any, about: About) -> None:
        self.uri, self.about = uri, about
        self._connection, self._table, self._commits = connection, table, 0

    @property
    def root(self) -> str:
        """The folder that file names are relative to, where it was last indexed; '' where that is not known."""
        told = self._table.schema.field('file').metadata or {}
        return told.get(_ROOT.encode(), b'').decode(errors='replace')

    def set_root(self, root: str) -> None:
        """Remember where the library is now."""
        if root != self.root:
            with _said(self.uri):
                self._table.update_field_metadata({'path': 'file', 'metadata': {_ROOT: root}})

    def known(self, where: str = '') -> dict[str, Known]:
        """Every file of the database, by its name relative to the root. where: a condition of `Filters`."""
        columns = ['file', 'content_hash', 'size', 'mtime_ns', 'label', 'duration_s']
        with _said(self.uri):
            query = self._table.search().select(columns).limit(max(1, self._table.count_rows()))
            rows = (query.where(where) if where else query).to_arrow()
            grouped = rows.group_by('file').aggregate([(name, 'max') for name in columns[1:]] + [('file', 'count')])
        return {
            row['file']: Known(
                row['content_hash_max'],
                row['size_max'],
                row['mtime_ns_max'],
                row['label_max'],
                row['duration_s_max'],
                row['file_count'],
            )
            for row in grouped.to_pylist()
        }

    def commit(self, rows: pa.Table, replaces: bool) -> None:
        """Write all windows of one file (see `rows_of`) at once; with `replaces` in place of all that it had."""
        file = rows['file'][0].as_py()
        with _said(self.uri):
            if replaces:
                keys = self._table.merge_insert(['file', 'modality', 'number'])
                keys = keys.when_matched_update_all().when_not_matched_insert_all()
                keys.when_not_matched_by_source_delete(f'file = {quoted(file)}').execute(rows.cast(self.schema))
            else:
                self._table.add(rows.cast(self.schema))
            self._commits += 1
            if self._commits % _COMMITS_A_TIDY == 0:
                self._table.optimize(cleanup_older_than=_KEPT)

    def relabel(self, file: str, label: str | None) -> None:
        """Give a file another label."""
        with _said(self.uri):
            self._table.update(where=f'file = {quoted(file)}', values={'label': label})

    def remove(self, files: Sequence[str]) -> None:
        """Forget files."""
        with _said(self.uri):
            for first in range(0, len(files), _FILES_A_DELETE):
                names = ', '.join(map(quoted, files[first : first + _FILES_A_DELETE]))
                self._table.delete(f'file IN ({names})')

    def drop(self) -> None:
        """Forget everything, the model too."""
        with _said(self.uri):
            self._connection.drop_table(_TABLE)

    def tidy(self, ann_from: int = ANN_FROM) -> None:
        """Join small pieces, bring the index up to date; build one where there are `ann_from` windows and none yet."""
        with _said(self.uri):
            self._table.optimize(cleanup_older_than=_KEPT)
            if len(self) >= ann_from and not self.index:
                self.build_index()

    def build_index(self) -> None:
        """An index of cells and short codes over all vectors, in place of one that there is."""
        # A bit a dimension of a rotated vector (Gao & Long 2024): unlike product codes, nothing but the cells is trained.
        # It takes whole bytes; scalar codes take any width.
        codes = lancedb.index.IvfSq if self.about.width % 8 else lancedb.index.IvfRq
        kind = codes(
            distance_type='dot',
            num_partitions=max(1, len(self) // _CELL_ROWS),
            max_iterations=_INDEX_ROUNDS,
            sample_rate=_SAMPLES_A_CELL,
        )
        with _said(self.uri):
            self._table.create_index('vector', config=kind)

    @property
    def index(self) -> str:
        """The kind of the index over vectors; '' for none."""
        with _said(self.uri):
            kinds = [index.index_type for index in self._table.list_indices() if 'vector' in index.columns]
        return str(kinds[0]) if kinds else ''

    def search(
        self,
        vector: np.ndarray,
        limit: int,
        where: str = '',
        exact: bool = False,
        vectors: bool = False,
        ann: AnnSearch = ANN_SEARCH,
    ) -> pa.Table:
        """The `limit` rows of the largest inner products with (E,), best first; column `score`.

        where: a condition of `Filters`. exact: pass the index over. vectors: with the column `vector`. ann: for the index.
        """
        columns = ['file', 'modality', 'start_s', 'end_s', 'duration_s', 'label', '_distance']
        with _said(self.uri):
            query = self._table.search(np.asarray(vector, np.float32), vector_column_name='vector')
            query = query.distance_type('dot').select(columns + ['vector'] * vectors).limit(limit)
            query = query.where(where) if where else query
            query = query.bypass_vector_index() if exact else query.nprobes(ann.nprobes).refine_factor(ann.refine)
            found = query.to_arrow()
        # LanceDB's distance of inner products is one less the product.
        scores = 1 - np.asarray(found['_distance'], np.float64)
        return found.drop_columns('_distance').append_column('score', pa.array(scores))

    @property
    def schema(self) -> pa.Schema:
        """Of the rows that `commit` takes."""
        return schema_of(self.about)

    @property
    def size(self) -> int | None:
        """Bytes on disk; None where the database is not in a folder."""
        if '://' in self.uri:
            return None
        return sum(file.stat().st_size for file in Path(self.uri).rglob('*') if file.is_file())

    def __len__(self) -> int:
        with _said(self.uri):
            return int(self._table.count_rows())


def open_store(uri: str) -> Store:
    """A database that there is. UserError: there is none, it is damaged, made by a newer release, or no such database."""
    if not has_store(uri):
        raise UserError(f'there is no search database {uri}; make one with: python tools/search.py index')
    with _said(uri):
        connection = lancedb.connect(uri)
        table = connection.open_table(_TABLE)
        return Store(uri, connection, table, read_about(uri, table.schema))


def has_store(uri: str) -> bool:
    """Whether a database is there. UserError: it cannot be told, or the library lancedb is missing."""
    if lancedb is None:
        raise UserError(f'search needs the library lancedb; install it with: {INSTALL}')
    # Connecting makes a folder.
    if '://' not in uri and not Path(uri).is_dir():
        return False
    with _said(uri):
        return _TABLE in lancedb.connect(uri).list_tables(limit=_TABLES).tables


def create_store(uri: str, about: About) -> Store:
    """A database without windows. UserError: it cannot be written."""
    if has_store(uri):
        raise UserError(f'{uri} is there already; give another --db.')
    with _said(uri):
        lancedb.connect(uri).create_table(_TABLE, schema=schema_of(about))
    return open_store(uri)


def demand_settings(store: Store, **settings: Any) -> None:
    """UserError: the database was made with other settings (fields of About) than these."""
    for name, given in settings.items():
        had = getattr(store.about, name)
        if had != given:
            raise UserError(
                f'{store.uri} was made with {name} {_told(had)}, not {_told(given)}; give the same, or another --db.'
            )


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """Keeps others on this machine from writing; readers go on. Behind a URI nothing is locked.

    UserError: another process writes already, or nothing can be written there.
    """
    if '://' in uri:
        yield
        return
    try:
        Path(uri).mkdir(parents=True, exist_ok=True)
        lock = (Path(uri) / '.writing').open('w')
    except OSError as error:
        raise UserError(f'{uri} cannot be written to: {error.strerror or error}.') from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f'{uri} is being written to by another process; wait until it has ended.') from error
        yield


def demand_model(store: Store, identity: str) -> None:
    """UserError: the vectors are of another model; similarities of two models mean nothing."""
    if store.about.model != identity:
        raise UserError(
            f'{store.uri} was made with the model {store.about.model}, not with {identity}; give that one, or index into '
            'another --db.'
        )


@contextmanager
def _said(uri: str) -> Iterator[None]:
    """What LanceDB raises of a database, in words."""
    try:
        yield
    except (RuntimeError, ValueError, OSError, pa.ArrowException) as error:
        reason = str(error).split('\n')[0].partition(', /')[0]
        raise UserError(f'{uri} cannot be used: {reason}.') from error


def _told(value: Any) -> str:
    return ' '.join(map(str, value)) if isinstance(value, tuple) else str(value)
