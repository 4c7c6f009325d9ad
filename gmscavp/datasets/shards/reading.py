"""Reading parts of one clip from its shard, with every checksum compared."""

import io
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gmscavp.datasets.decoding import ClipError
from gmscavp.datasets.shards.members import block_crcs, from_pcm, read_jpeg

# Open at a time in one process.
_OPEN_FILES = 128

# Frames that are not wanted are read along with the others while they are no more than this many times as many bytes.
_READ_ALONG = 2.5


class Place(NamedTuple):
    """Where a clip lies in its shard; names as in the index."""

    start_s: float
    fps: float
    height: int
    width: int
    frame_offset: np.ndarray
    frame_size: np.ndarray
    frame_crc: np.ndarray
    sample_rate: int
    samples: int
    audio_offset: int
    audio_crc: np.ndarray


class Places:
    """The rows of all shards, memory-mapped."""

    def __init__(self, arrow_file: Path) -> None:
        self._file = arrow_file
        self._table = pa.ipc.open_file(pa.memory_map(str(arrow_file), 'r')).read_all()

    def __reduce__(self) -> tuple[type['Places'], tuple[Path]]:
        return type(self), (self._file,)

    def find(self, key: str, start: int, stop: int) -> Place:
        """The clip of this key among the rows start..stop, those of its shard."""
        row = start + pc.index(self._table['key'].slice(start, stop - start), key).as_py()
        cells = (self._table[name][int(row)] for name in Place._fields)
        return Place(*(cell.values.to_numpy() if isinstance(cell, pa.ListScalar) else cell.as_py() for cell in cells))


class ShardFiles:
    """Shards that this process has open. Nothing is handed on to a process that is forked or spawned."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._open: OrderedDict[str, io.FileIO] = OrderedDict()

    def __reduce__(self) -> tuple[type['ShardFiles'], tuple[()]]:
        return type(self), ()

    def handle(self, file: str, shard: str) -> int:
        """The descriptor of a shard, opened now or before; ClipError for `file` when that fails."""
        if self._process != os.getpid():
            self.__init__()  # type: ignore[misc]
        if shard not in self._open:
            try:
                # Closed when it falls out of the dictionary, or with the data set.
                self._open[shard] = io.FileIO(shard)
            except OSError as error:
                raise ClipError(file, 'missing file', error.strerror or str(error)) from error
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard].fileno()


class ClipReader:
    """Reads parts of one clip; whatever is not as the index promises is a ClipError for `file`."""

    def __init__(self, file: str, handle: int) -> None:
        self.file, self.handle = file, handle

    def frames(self, place: Place, numbers: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
        """(T,) numbers of frames, increasing -> (T, H, W, 3) uint8."""
        height, width = size if not isinstance(size, int) else _short_side(place.height, place.width, size)
        frames = np.empty((len(numbers), height, width, 3), np.uint8)
        for slot, (number, jpeg) in enumerate(zip(numbers, self._jpegs(place, numbers), strict=True)):
            if crc32(jpeg) != place.frame_crc[number]:
                raise ClipError(self.file, 'damaged', f'frame {number} does not have its checksum')
            if not read_jpeg(jpeg, (height, width), (place.height, place.width), frames[slot]):
                raise ClipError(self.file, 'damaged', f'frame {number} cannot be decoded')
        return frames

    def audio(self, place: Place, first: int, count: int) -> np.ndarray:
        """Samples first to first + count as (count,) float32; silence after the end of the clip."""
        rate = place.sample_rate
        if place.audio_offset < 0:
            raise ClipError(self.file, 'damaged', 'its sound is not in the shard')
        # Whole seconds, which have a checksum each.
        block, last = first // rate, min(-(-(first + count) // rate) * rate, place.samples)
        pcm = self._bytes(place.audio_offset + 2 * block * rate, 2 * max(last - block * rate, 0))
        if block_crcs(pcm, 2 * rate) != place.audio_crc[block : -(-last // rate)].tolist():
            raise ClipError(self.file, 'damaged', 'its sound does not have its checksum')
        heard = from_pcm(pcm)[first - block * rate :][:count]
        return np.pad(heard, (0, count - len(heard)))

    def _jpegs(self, place: Place, numbers: np.ndarray) -> Iterator[bytes]:
        begins, sizes = place.frame_offset[numbers], place.frame_size[numbers]
        if (begins < 0).any():
            raise ClipError(self.file, 'damaged', f'frame {numbers[np.argmin(begins)]} is not in the shard')
        start, stop = int(begins.min()), int((begins + sizes).max())
        if stop - start > _READ_ALONG * int(sizes.sum()):
            for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
                yield self._bytes(begin, size)
            return
        # In one go: on network disks every request costs as much as the bytes.
        content = self._bytes(start, stop - start)
        for begin, size in zip((begins - start).tolist(), sizes.tolist(), strict=True):
            yield content[begin : begin + size]

    def _bytes(self, offset: int, size: int) -> bytes:
        try:
            content = os.pread(self.handle, size, offset)
        except OSError as error:
            raise ClipError(self.file, 'damaged', error.strerror or str(error)) from error
        if len(content) < size:
            raise ClipError(self.file, 'damaged', 'its shard is cut off')
        return content


def _short_side(height: int, width: int, size: int) -> tuple[int, int]:
    short = min(height, width)
    return round(height * size / short), round(width * size / short)
