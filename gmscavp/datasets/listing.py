"""What published data sets share: a table that lists clips, and files on disk that may or may not be there."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gmscavp.datasets.manifest import Manifest
from gmscavp.errors import UserError

# Panda-70M writes all captions of a video into one field; csv's own limit is 131,072 characters.
_FIELD_LIMIT = 2**31 - 1


class Listing(NamedTuple):
    """The clips that are there, and how many the data set lists."""

    manifest: Manifest
    listed: int


def table_rows(file: Path, name: str, setting: str) -> Iterator[tuple[str, list[str]]]:
    """('<file>, line <n>', fields) of a csv in UTF-8, without empty lines, comments (#) and a byte order mark.

    `name` and `setting` say in errors which data set it is of and which setting names the file. Raises UserError for a
    file that is missing, empty or no such table.
    """
    if not file.is_file():
        raise UserError(f'{name} csv {file} does not exist; set {setting} to its path.')
    csv.field_size_limit(_FIELD_LIMIT)
    found = False
    place = str(file)
    try:
        with file.open(newline='', encoding='utf-8-sig') as lines:
            reader = csv.reader(lines, skipinitialspace=True, strict=True)
            for fields in reader:
                place = f'{file}, line {reader.line_num}'
                if fields and not fields[0].startswith('#'):
                    found = True
                    yield place, fields
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f'{name} csv {file} is damaged after {place}: {error}.') from error
    if not found:
        raise UserError(f'{name} csv {file} is empty.')


def seconds(text: str, place: str) -> float:
    """A time such as '30.000'. Raises UserError that names the place of any other text."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{place}: '{text}' is not a time in seconds.") from None


def demand_one_file_each(matches: Mapping[str, Sequence[str]], name: str) -> None:
    """Raise UserError when a clip (the key) has several files: which one is meant would be a guess."""
    several = {clip: files for clip, files in matches.items() if len(files) > 1}
    if several:
        clip, files = next(iter(several.items()))
        raise UserError(
            f'{name}: {len(several):,} clips have more than one file; for {clip} there are '
            f'{" and ".join(sorted(files)[:3])}. Leave one of each below the data folder.'
        )


def demand_found(manifest_columns: Mapping[str, Sequence[Any]], listed: int, name: str, root: Path, names: str) -> None:
    """Raise UserError when no listed clip is there; `names` says what the files must be called."""
    if not manifest_columns['file']:
        raise UserError(
            f'{name}: none of the {listed:,} listed clips is below {root}; files there must be called {names}.'
        )
