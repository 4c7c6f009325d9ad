"""The index of a shard: where every frame and every sample of its clips lies in the tar.

It is made while a shard is written, stands beside it (`train-000000.idx`, an Arrow file, one row a clip), and is made
again from the tar where it is missing or does not match. Times of files are not compared, because copying changes them:
the size and samples of the content are.
"""

import json
import logging
import math
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from mmengine.logging import print_log

from gmscavp.datasets.decoding.media import MAX_ASPECT, MAX_PIXELS, MAX_SIDE
from gmscavp.datasets.shards.members import WAV_HEADER
from gmscavp.errors import UserError

SCHEMA = pa.schema(
    {
        'key': pa.string(),
        'clip_id': pa.string(),
        'labels': pa.list_(pa.string()),
        'caption': pa.string(),
        'split': pa.string(),
        'group': pa.string(),
        'source': pa.string(),
        'start_s': pa.float64(),
        'end_s': pa.float64(),
        'fps': pa.float64(),
        'height': pa.int32(),
        'width': pa.int32(),
        'frame_offset': pa.list_(pa.int64()),
        'frame_size': pa.list_(pa.int64()),
        'frame_crc': pa.list_(pa.int64()),
        'sample_rate': pa.int32(),
        'samples': pa.int64(),
        'audio_offset': pa.int64(),
        'audio_crc': pa.list_(pa.int64()),
    }
)
"""Offsets and sizes are bytes in the tar; audio_offset is that of the first sample. A frame or sound that is not there
has the offset -1. start_s and end_s are seconds in the file that the clip was cut from."""

_VERSION = 1
_PROBES = 8
_PROBE_BYTES = 4096
_LARGEST_JSON = 4_000_000
_ROUNDING_S = 0.001
# A WebDataset key is what stands before the first dot of the name, with the folder.
_MEMBER = re.compile(r'((?:[^/]*/)*[^/.]+)\.(.+)')
_FRAME = re.compile(r'(\d+)\.jpg')


@dataclass(frozen=True)
class ShardIndex:
    """rows: a table of SCHEMA. size: bytes of the tar that it describes. notes: what its writer left (see writing.py)."""

    rows: pa.Table
    size: int
    notes: Mapping[str, Any]

    def beyond(self, size: int) -> int:
        """How many clips have a part that is not there, or lies beyond `size` bytes."""
        return int(np.count_nonzero(~_whole(self.rows, size)))


def index_file(shard: Path) -> Path:
    """Where the index of a shard stands."""
    return shard.with_suffix('.idx')


def load_index(shard: Path) -> ShardIndex:
    """The index beside a shard where it matches; otherwise it is made again, and kept if the folder can be written.

    A shard that has become shorter keeps its old index, so that the clips that are cut off can be counted.
    UserError as in build_index; OSError when the shard cannot be read.
    """
    found = _read_index(index_file(shard))
    if found is not None and _matches(*found, shard):
        return found[0]
    index = build_index(shard)
    try:
        save_index(index, shard, index_file(shard))
    except OSError as error:
        # Data sets often lie where nobody may write.
        text = f'the index of {shard} is made at every start, as it cannot be kept ({error.strerror or error})'
        print_log(text, logger='current', level=logging.WARNING)
    return index


def build_index(shard: Path) -> ShardIndex:
    """The index of a shard from the tar itself; of a tar that is cut off, what can be found of it.

    UserError when it holds anything but plain files that stay inside it. Clips without a readable json have no row.
    """
    rows = []
    with shard.open('rb') as stream:
        size = os.fstat(stream.fileno()).st_size
        for key, members in _grouped(shard, stream).items():
            about = _about(stream, *members['json']) if 'json' in members else None
            if about is not None and (row := _row(key, about, members)) is not None:
                rows.append(row)
    return ShardIndex(pa.Table.from_pylist(rows, SCHEMA), size, {})


def save_index(index: ShardIndex, shard: Path, file: Path) -> None:
    """Write the index of `shard` under a temporary name, then as `file`."""
    with shard.open('rb') as stream:
        probes = [[offset, _crc_at(stream.fileno(), offset)] for offset in _probe_offsets(index.size)]
    about = {'version': _VERSION, 'size': index.size, 'probes': probes, 'notes': dict(index.notes)}
    schema = SCHEMA.with_metadata({'shard': json.dumps(about)})
    part = file.with_name(f'.{file.name}.{os.getpid()}.part')
    try:
        with part.open('wb') as stream:
            with pa.ipc.new_file(stream, schema) as writer:
                writer.write_table(index.rows.replace_schema_metadata(schema.metadata))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _read_index(file: Path) -> tuple[ShardIndex, dict[int, int]] | None:
    """An index file with its probes (offset: CRC-32); None when there is none, or none that makes sense."""
    try:
        rows = pa.ipc.open_file(file.read_bytes()).read_all()
        rows.validate(full=True)
        about = json.loads((rows.schema.metadata or {})[b'shard'])
        index = ShardIndex(rows, int(about['size']), dict(about['notes']))
        probes = {int(offset): int(crc) for offset, crc in about['probes']}
        known = about['version'] == _VERSION and rows.schema.equals(SCHEMA)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return (index, probes) if known and _sensible(rows, index.size) else None


def _sensible(rows: pa.Table, size: int) -> bool:
    """Whether every place lies in the tar, so that hostile numbers never reach a read."""
    lengths = [pc.list_value_length(rows[name]).to_numpy() for name in ('frame_offset', 'frame_size', 'frame_crc')]
    if any(not np.array_equal(lengths[0], other) for other in lengths[1:]) or any(
        rows[name].null_count for name in SCHEMA.names if name not in ('caption', 'split', 'group', 'source')
    ):
        return False
    offsets, sizes = (pc.list_flatten(rows[name]).to_numpy() for name in ('frame_offset', 'frame_size'))
    if not _drawable(rows['height'].to_numpy(), rows['width'].to_numpy()).all():
        return False
    return bool((offsets >= -1).all() and (sizes >= 0).all() and (offsets <= size).all() and (sizes <= size).all())


def _drawable(height: np.ndarray, width: np.ndarray) -> np.ndarray:
    """(N,), (N,) -> (N,) bool: whether pictures have a size that a file's could have, which memory is taken for."""
    short, long = np.minimum(height, width).astype(np.int64), np.maximum(height, width).astype(np.int64)
    return (short >= 1) & (long <= MAX_SIDE) & (long <= MAX_ASPECT * short) & (short * long <= MAX_PIXELS)


def _matches(index: ShardIndex, probes: Mapping[int, int], shard: Path) -> bool:
    """Whether the tar is the one of the index, or the front of it."""
    with shard.open('rb') as stream:
        size = os.fstat(stream.fileno()).st_size
        inside = [offset for offset in probes if 0 <= offset <= size - min(_PROBE_BYTES, index.size)]
        if size > index.size or not inside:
            return False
        return all(_crc_at(stream.fileno(), offset) == probes[offset] for offset in inside)


def _probe_offsets(size: int) -> list[int]:
    last = max(size - _PROBE_BYTES, 0)
    return sorted({int(offset) for offset in np.linspace(0, last, _PROBES)})


def _crc_at(handle: int, offset: int) -> int:
    return zlib.crc32(os.pread(handle, _PROBE_BYTES, offset))


def _whole(rows: pa.Table, size: int) -> np.ndarray:
    """(N,) bool: whether all of a clip lies within the first `size` bytes."""
    offsets, sizes = (pc.list_flatten(rows[name]).to_numpy() for name in ('frame_offset', 'frame_size'))
    clips = pc.list_parent_indices(rows['frame_offset']).to_numpy()
    lost = np.bincount(clips, (offsets < 0) | (offsets + sizes > size), minlength=len(rows)) > 0
    audio = rows['audio_offset'].to_numpy()
    return ~lost & (audio >= 0) & (audio + 2 * rows['samples'].to_numpy() <= size)


def _grouped(shard: Path, stream: Any) -> dict[str, dict[str, tuple[int, int]]]:
    """key -> {what stands after the first dot: (offset, size)}."""
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    for member in _tar_members(stream):
        name = member.name.removeprefix('./')
        if member.isdir() and '..' not in name.split('/'):
            continue
        plain = member.isreg() and not member.issparse()
        if not plain or name.startswith('/') or '..' in name.split('/'):
            raise UserError(
                f"shard {shard} holds '{member.name}', which is no plain file inside it; such a tar is not read. "
                'Write the shards again, or take this one away.'
            )
        if match := _MEMBER.fullmatch(name):
            # With a folder in front the key would look like a path.
            groups.setdefault(match[1].replace('/', '%2F'), {})[match[2]] = member.offset_data, member.size
    return groups


def _tar_members(stream: Any) -> Iterator[tarfile.TarInfo]:
    """The members of a tar up to its end, or to where it is cut off or its headers make no sense."""
    try:
        with tarfile.open(fileobj=stream, mode='r:') as tar:
            yield from tar
    # Besides its own errors, tarfile lets through what headers of nonsense do to it.
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError):
        return


def _about(stream: Any, offset: int, size: int) -> dict[str, Any] | None:
    """What a clip's json says, None where it cannot be read."""
    if size > _LARGEST_JSON:
        return None
    content = os.pread(stream.fileno(), size, offset)
    try:
        about = json.loads(content)
    except ValueError:
        return None
    return about if len(content) == size and isinstance(about, dict) else None


def _row(key: str, about: Mapping[str, Any], members: Mapping[str, tuple[int, int]]) -> dict[str, Any] | None:
    """One row of SCHEMA; None where the json is not one of ours."""
    numbered = {int(match[1]): place for name, place in members.items() if (match := _FRAME.fullmatch(name))}
    audio_offset, audio_size = members.get('wav', (-1, 0))
    try:
        frames, samples = len(about['frame_crc32']), about['samples']
        places = [numbered.get(number, (-1, 0)) for number in range(frames)]
        row = {
            'key': key,
            'clip_id': about['clip_id'],
            'end_s': about['start_s'] + about['duration'],
            'frame_offset': [place[0] for place in places],
            'frame_size': [place[1] for place in places],
            'frame_crc': about['frame_crc32'],
            'audio_offset': audio_offset + WAV_HEADER if audio_size >= WAV_HEADER + 2 * samples else -1,
            'audio_crc': about['audio_crc32'],
        }
        row |= {name: about[name] for name in SCHEMA.names if name not in row}
        # One row at a time, so that a value of a wrong kind costs one clip.
        pa.Table.from_pylist([row], SCHEMA)
        above_zero = (row[name] for name in ('fps', 'height', 'width', 'sample_rate', 'samples'))
        seconds = frames / row['fps'] if all(0 < value < math.inf for value in above_zero) else 0.0
        # The sound is as long as the frames, and they cover the clip but for a part of the last one.
        covered = 0 < seconds < math.inf and about['duration'] * row['fps'] < frames + 1
        seen = bool(_drawable(np.array(row['height']), np.array(row['width'])))
        sensible = seen and covered and abs(samples / row['sample_rate'] - seconds) < _ROUNDING_S
    except (KeyError, TypeError, ValueError, pa.ArrowException):
        return None
    return row if sensible and 0 <= row['start_s'] < row['end_s'] < math.inf else None
