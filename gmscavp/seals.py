"""Checksums of whole files: a checkpoint in which a single bit has changed is known before it is read.

torch writes a checkpoint as a zip archive, whose parts have a CRC-32 each, and reads it without looking at them. Besides,
they do not cover names, lengths and the directory. So the CRC-32 of all bytes before it is put at the end, as the archive's
comment, which every reader of archives passes over. A safetensors file may end in nothing else and has it in its metadata.
CRC-32 finds any one changed bit, and any 32 in a row, for certain.
"""

import errno
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

# The last record of an archive, 22 bytes of which the last two count the bytes of the comment (APPNOTE.TXT 4.3.16).
_END, _END_BYTES = b'PK\x05\x06', 22
_BEGIN = b'PK\x03\x04'
_MARK = b'gmscavp crc32 '
_SEAL_BYTES = len(_MARK) + 8
_CHUNK = 1 << 22

SEAL_ENTRY = {'gmscavp_crc32': 'crc32 00000000'}
"""For the metadata of a safetensors file, which `seal_safetensors` then fills in."""
_SEALED = re.compile(rb'"gmscavp_crc32":"crc32 ([0-9a-f]{8})"')
# With one bit of the entry changed, one of its halves is still there.
_ONCE_SEALED = re.compile(rb'"gmscavp_crc32"|"crc32 ')


def checksum(file: Path) -> list[int]:
    """[bytes, CRC-32]."""
    with file.open('rb') as stream:
        return [file.stat().st_size, _crc32(stream, file.stat().st_size)]


def seal(file: Path) -> None:
    """Put the checksum at the end of what torch.save wrote. ValueError: that is no archive, or has a comment already."""
    with file.open('r+b') as stream:
        size = stream.seek(0, os.SEEK_END)
        if _tail(stream, _END_BYTES)[:4] != _END:
            raise ValueError(f'{file} does not end as an archive that torch writes')
        stream.seek(size - 2)
        stream.write(_SEAL_BYTES.to_bytes(2, 'little') + _MARK)
        stream.seek(0)
        stream.write(_digits(stream, size + len(_MARK)))


def is_archive(file: Path) -> bool:
    """Whether a file is, or was before it was damaged, of the kind that torch writes; older versions wrote another one."""
    with file.open('rb') as stream:
        return stream.read(4) == _BEGIN or _END in _tail(stream, _END_BYTES + _SEAL_BYTES)


def is_intact(file: Path) -> bool:
    """Whether all bytes of an archive are those that were written. It is read once, and nothing in it is run.

    One without a seal, of before there were seals, is judged by the CRC-32s of its parts.
    """
    with file.open('rb') as stream:
        tail = _tail(stream, _END_BYTES + _SEAL_BYTES)
        if tail[:4] == _END:
            stream.seek(0)
            return tail[-8:] == _digits(stream, file.stat().st_size - 8)
    # A comment that it should have and has not was cut off.
    if tail[-_END_BYTES:][:4] != _END or tail[-2:] != b'\0\0':
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    # What Python's reader raises for the flags, names, lengths and offsets of a damaged directory.
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError):
        return False
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EIO):
            raise
        return False


def seal_safetensors(file: Path) -> None:
    """Fill in the checksum of a safetensors file. ValueError: its metadata has not SEAL_ENTRY."""
    with file.open('r+b') as stream:
        found = _SEALED.search(_header(stream))
        if not found:
            raise ValueError(f'{file} has no place for a checksum in its metadata')
        digits = _digits_around(stream, found.start(1))
        stream.seek(found.start(1))
        stream.write(digits)


def is_intact_safetensors(file: Path) -> bool:
    """Whether all bytes of a safetensors file are those that were written; one without a checksum is not judged."""
    with file.open('rb') as stream:
        header = _header(stream)
        found = _SEALED.search(header)
        if not found:
            return not _ONCE_SEALED.search(header)
        return found[1] == _digits_around(stream, found.start(1))


def _header(stream: BinaryIO) -> bytes:
    """The first bytes of a safetensors file: the length of its header as 8 bytes, and the header."""
    stream.seek(0)
    length = stream.read(8)
    # A damaged length may be any; the metadata comes first.
    return length + stream.read(min(int.from_bytes(length, 'little'), _CHUNK))


def _digits_around(stream: BinaryIO, place: int) -> bytes:
    """Of all bytes but the 8 at this place."""
    stream.seek(0)
    before = _crc32(stream, place)
    stream.seek(8, os.SEEK_CUR)
    return _digits(stream, os.fstat(stream.fileno()).st_size - place - 8, before)


def _tail(stream: BinaryIO, size: int) -> bytes:
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
    return stream.read()


def _crc32(stream: BinaryIO, size: int, total: int = 0) -> int:
    """Of the next `size` bytes, going on from those before."""
    while size > 0 and (chunk := stream.read(min(size, _CHUNK))):
        size, total = size - len(chunk), zlib.crc32(chunk, total)
    return total


def _digits(stream: BinaryIO, size: int, total: int = 0) -> bytes:
    return b'%08x' % _crc32(stream, size, total)
