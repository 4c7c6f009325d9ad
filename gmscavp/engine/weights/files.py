"""Writing weights: whole or not at all, with what they came from beside them."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from gmscavp import __version__
from gmscavp.compat import ABSENT, SAFETENSORS, format_entries
from gmscavp.engine.checkpoints import part_name, put_in_place
from gmscavp.engine.weights.conversion import Conversion
from gmscavp.engine.weights.layout import Layout
from gmscavp.errors import UserError
from gmscavp.seals import SEAL_ENTRY, seal_safetensors

PICKLES = ('.pth', '.pt', '.ckpt', '.bin')


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open('rb') as opened:
        return hashlib.file_digest(opened, 'sha256').hexdigest()


def write_weights(path: Path, converted: Conversion, layout: Layout, source: Path, licence: str) -> dict[str, str]:
    """Write our weights as safetensors; returns the metadata, which names source, hash, layout and licence."""
    metadata = {
        'format': 'pt',
        'layout': layout.name,
        'licence': licence,
        'source': source.name,
        'source_sha256': file_hash(source),
        'converted_by': f'gmscavp {__version__}',
        ABSENT: json.dumps(converted.absent),
        **format_entries(),
    }
    write_safetensors(path, converted.weights, metadata)
    return metadata


def write_released(path: Path, converted: Conversion, layout: Layout) -> None:
    """Write released weights: as a pickle wrapped as the release has it, or as safetensors without a wrapper.

    Raises UserError for any other kind of file.
    """
    if path.suffix == SAFETENSORS:
        return write_safetensors(path, converted.weights, {'format': 'pt', 'layout': layout.name})
    if path.suffix not in PICKLES:
        raise UserError(f'--out {path}: give it one of the endings {", ".join((SAFETENSORS, *PICKLES))}.')
    inner = {layout.prefix + name: tensor.clone() for name, tensor in converted.weights.items()}
    checkpoint = {layout.wrapper: inner} if layout.wrapper else inner
    return _whole(path, lambda part: torch.save(checkpoint, part))


def write_safetensors(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights as safetensors, whole or not at all, with a checksum in the metadata."""
    # Copies: tensors that share memory, as those cut from one do, are refused.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}

    def write(part: Path) -> None:
        save_file(copies, part, metadata | SEAL_ENTRY)
        seal_safetensors(part)

    _whole(path, write)


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside `path` and move there when it is done, so that a broken write leaves what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(part_name(path.name))
    try:
        # safetensors lets no one else read what it writes; a file of weights is as readable as any other.
        part.touch()
        mode = part.stat().st_mode
        write(part)
        part.chmod(mode)
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)
