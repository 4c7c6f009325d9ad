"""What stands in a search database: its columns, and what it says of itself, read as what a stranger may have written."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from gmscavp import __version__
from gmscavp.errors import UserError
from gmscavp.inference.windows import Side

VERSION = 1
"""Of the layout of a database. A release reads this one and those before."""

_ABOUT = 'gmscavp.search'


@dataclass(frozen=True)
class About:
    """What all vectors of a database share.

    model: identity of the model. width: E. lengths: tokens of each scale in a vector, fine to coarse. window_s: of a whole
    window. stride_s: from one to the next. sides: which are embedded. made_by: the release that made the database.
    """

    model: str
    width: int
    lengths: tuple[int, ...]
    window_s: float
    stride_s: float
    sides: tuple[Side, ...]
    version: int = VERSION
    made_by: str = __version__


class Known(NamedTuple):
    """A file of a database: hash, size and time of change of its content, labels (';' between), seconds, windows."""

    content_hash: str
    size: int
    mtime_ns: int
    label: str | None
    duration_s: float
    windows: int


class Vectors(NamedTuple):
    """Windows of one side of a file: start_s, end_s (N,) seconds, vectors (N, E)."""

    start_s: np.ndarray
    end_s: np.ndarray
    vectors: np.ndarray


def rows_of(about: About, file: str, known: Known, sides: Mapping[str, Vectors]) -> pa.Table:
    """The rows of one file. sides: 'video' or 'audio' -> its windows."""
    tables = []
    for modality, (start_s, end_s, vectors) in sides.items():
        count = len(vectors)
        flat = pa.array(np.asarray(vectors, np.float16).reshape(-1))
        columns = dict(
            file=pa.array([file] * count, pa.string()),
            modality=pa.array([modality] * count, pa.string()),
            number=pa.array(np.arange(count), pa.int32()),
            start_s=pa.array(np.asarray(start_s, np.float64)),
            end_s=pa.array(np.asarray(end_s, np.float64)),
            duration_s=pa.array([known.duration_s] * count, pa.float64()),
            label=pa.array([known.label] * count, pa.string()),
            content_hash=pa.array([known.content_hash] * count, pa.string()),
            size=pa.array([known.size] * count, pa.int64()),
            mtime_ns=pa.array([known.mtime_ns] * count, pa.int64()),
            vector=pa.FixedSizeListArray.from_arrays(flat, about.width),
        )
        tables.append(pa.table(columns))
    return pa.concat_tables(tables).cast(schema_of(about))


def schema_of(about: About) -> pa.Schema:
    """Of the table: plain columns, and what the database says of itself."""
    plain = dict(
        file=pa.string(),
        modality=pa.string(),
        number=pa.int32(),
        start_s=pa.float64(),
        end_s=pa.float64(),
        duration_s=pa.float64(),
        label=pa.string(),
        content_hash=pa.string(),
        size=pa.int64(),
        mtime_ns=pa.int64(),
        vector=pa.list_(pa.float16(), about.width),
    )
    return pa.schema(plain.items(), metadata={_ABOUT: json.dumps(asdict(about))})


def read_about(uri: str, schema: pa.Schema) -> About:
    """From what a stranger may have written. UserError: it is not what a release writes."""
    refusal = UserError(f'{uri} is no search database of gmscavp; make one with: python tools/search.py index')
    # LanceDB can keep functions of its own by name there, which it would call.
    if b'embedding_functions' in (schema.metadata or {}):
        raise refusal
    try:
        told = json.loads((schema.metadata or {})[_ABOUT.encode()])
        version, made_by = told['version'], told['made_by']
    except (KeyError, ValueError, TypeError):
        raise refusal from None
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise UserError(
            f'{uri} has layout {version!r} of gmscavp {made_by}; this is {__version__}, which reads up to {VERSION}: '
            'install that release, or index anew.'
        )
    try:
        about = About(**{field.name: told[field.name] for field in fields(About)})
        about = About(**asdict(about) | dict(lengths=tuple(map(int, about.lengths)), sides=tuple(about.sides)))
        whole = int(about.width) > 0 and all(n > 0 for n in about.lengths) and about.width % sum(about.lengths) == 0
        whole = whole and about.stride_s > 0 and about.window_s > 0 and set(about.sides) <= {'video', 'audio'}
    except (KeyError, ValueError, TypeError, ZeroDivisionError):
        raise refusal from None
    if not whole or not schema.equals(schema_of(about)):
        raise refusal
    return about
