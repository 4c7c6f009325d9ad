"""What a preparation shows and leaves behind: a bar while it works, the manifest when it is done."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gmscavp.datasets.manifest import Manifest
from gmscavp.datasets.preparing.probing import Measures


class Kept(NamedTuple):
    """A clip that stays: its number in the listing, its file as the manifest names it, and what the file holds."""

    number: int
    file: str
    measured: Measures


def columns_of(manifest: Manifest, kept: Sequence[Kept]) -> dict[str, list[Any]]:
    """The listing's columns for the clips that are kept, with their windows and what was measured."""
    numbers = [clip.number for clip in kept]
    columns = {}
    for name in manifest.columns:
        values = manifest.column(name)
        columns[name] = [values[number] for number in numbers]
    columns['file'] = [clip.file for clip in kept]
    columns['duration_s'] = [clip.measured.duration_s for clip in kept]
    for name in Measures.__dataclass_fields__:
        columns[name] = [getattr(clip.measured, name) for clip in kept]
    return columns


def write_manifest(columns: Mapping[str, Sequence[Any]], out: Path) -> None:
    """Write columns as .parquet or .csv (several labels separated by ';'). OSError when the disk refuses."""
    if out.suffix == '.csv':
        columns = {**columns, 'labels': [';'.join(labels) for labels in columns['labels']]}
        table = pa.table({name: list(values) for name, values in columns.items()})
        write_atomically(out, lambda part: pa_csv.write_csv(table, part))
    else:
        text = pa.list_(pa.string())
        arrays = {name: pa.array(list(values), text if name == 'labels' else None) for name, values in columns.items()}
        write_atomically(out, lambda part: pa_parquet.write_table(pa.table(arrays), part))


def write_atomically(file: Path, write: Callable[[Path], Any]) -> None:
    """Write beside the file and rename, so that a reader sees the old or the new one, never a part."""
    partial = file.with_name(f'.{file.name}.{os.getpid()}.part')
    try:
        write(partial)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


class Counter:
    """A bar of clips; Ctrl-C within it is passed on with how far it came."""

    def __init__(self, doing: str, total: int, done: int, shown: bool) -> None:
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn('clips'), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), disable=not shown)
        self.task = self.bar.add_task(doing, total=total, completed=done)
        self.doing, self.total, self.done = doing, total, done

    def advance(self) -> None:
        """One more."""
        self.done += 1
        self.bar.advance(self.task)

    def __enter__(self) -> 'Counter':
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.bar.stop()
        if kind is KeyboardInterrupt:
            raise KeyboardInterrupt(
                f'stopped {self.doing} after {self.done:,} of {self.total:,} clips; the same command goes on from there.'
            ) from None
