"""Checkpoints of models whose weights lie on several ranks: a folder to which every rank writes its own part.

In <name>.sharded/ the distributed tensors are safetensors files and all else (schedules, counters, buffers) is one file,
`run.pth`, which is read as any checkpoint: nothing that is read can run code, since torch's own index, a pickle, is not
used. Both lie in a subfolder; contents.json names it, with the size and CRC-32 of every file, and is put in place last, so
that it always stands for a whole checkpoint. Any number of ranks reads what any other number wrote.
"""

import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed import checkpoint as parts_on_disk
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

from gmscavp.compat import load_checkpoint_file
from gmscavp.distributed import gather_objects, world
from gmscavp.errors import UserError
from gmscavp.seals import checksum

SUFFIX = '.sharded'
CONTENTS = 'contents.json'
_RUN = 'run.pth'
# In run.pth, where a distributed tensor was: {_ELSEWHERE: its name}.
_ELSEWHERE = '__sharded__'

Like = Callable[[str], Tensor | None]
"""Name of a tensor in a checkpoint -> one that is laid out over ranks as it is wanted; None for a whole one."""


def is_sharded_folder(path: Path) -> bool:
    """Whether a path is a checkpoint of this kind that was once finished."""
    return (path / CONTENTS).is_file()


def write_sharded(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """Save what a checkpoint of MMEngine holds, its distributed tensors in parts; every rank calls this.

    What stood in the folder before stays until the new is whole. OSError: the disk does not take it. UserError: it is not
    shared by all ranks.
    """
    rank, _ = world()
    folder.mkdir(parents=True, exist_ok=True)
    before = sorted(folder.glob('data-*'))
    count = 1 + max((int(path.name.removeprefix('data-')) for path in before), default=0)
    # What rank 0 saw counts: another one may come after it has begun.
    data = folder / gather_objects(f'data-{count}')[0]
    data.mkdir(exist_ok=True)
    tensors: dict[str, Tensor] = {}
    run = _without_parts(checkpoint, '', tensors)
    _save_parts(tensors, data)
    if rank == 0:
        # By itself torch.save says RuntimeError, and not why, when the disk is full.
        buffer = io.BytesIO()
        torch.save(run, buffer)
        (data / _RUN).write_bytes(buffer.getbuffer())
    # Each looks at its own files: those of other machines may not show in a folder's list at once.
    own = [*data.glob(f'shard-{rank + 1:05d}-*'), *([data / _RUN] if rank == 0 else [])]
    for file in own:
        to_disk(file)
    sums = gather_objects({file.name: checksum(file) for file in own})
    if rank == 0:
        listing = {'data': data.name, 'files': dict(sorted(item for part in sums for item in part.items()))}
        if not all((data / name).exists() for name in listing['files']):
            raise UserError(
                f'{folder} is not the same for all ranks; put --work-dir on a disk that all machines share.'
            )
        _point_to(folder, listing)
        for path in before:
            shutil.rmtree(path)
    # Nobody goes on, and perhaps removes an older one, before this one is there.
    gather_objects(None)


def read_sharded(folder: Path, like: Like, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Any]:
    """What `write_sharded` was given, tensors laid out as `like` says; every rank calls this where one is distributed.

    wanted: which entries of the checkpoint ('state_dict', 'optimizer', ...) are read. UserError: the folder is unfinished
    or damaged, or torch is too old.
    """
    contents = _contents(folder)
    data = folder / contents['data']
    _demand_files(data, contents['files'])
    run = {name: value for name, value in load_checkpoint_file(data / _RUN).items() if wanted(name)}
    names = set(_named_elsewhere(run))
    try:
        stored = _stored_shapes(data)
        tensors = {name: _room(like(name), *stored[name]) for name in names}
        together = any(isinstance(tensor, DTensor) for tensor in tensors.values())
        _demand_sums(data, contents['files'], together)
        _load_parts(tensors, data, together)
    except (KeyError, OSError, RuntimeError, ValueError, AssertionError, SafetensorError) as error:
        raise UserError(
            f'checkpoint {folder} is damaged ({str(error).splitlines()[0]}); take another one of the run.'
        ) from error
    return _with_parts(run, tensors)


def spread(checkpoint: Any, like: Like, name: str = '') -> Any:
    """The same with every whole tensor laid out over ranks where `like` is; every rank has the whole ones."""
    if isinstance(checkpoint, Tensor):
        room = like(name)
        if isinstance(room, DTensor) and not isinstance(checkpoint, DTensor) and checkpoint.shape == room.shape:
            # Every rank takes its part of its own copy: nothing is sent.
            return distribute_tensor(
                checkpoint.to(room.device), room.device_mesh, list(room.placements), src_data_rank=None
            )
        return checkpoint
    if isinstance(checkpoint, dict):
        return {key: spread(value, like, f'{name}.{key}' if name else str(key)) for key, value in checkpoint.items()}
    return checkpoint


def is_whole_folder(folder: Path) -> bool:
    """Whether all bytes of a checkpoint in a folder are those that were written. Each is read once, and nothing is run."""
    try:
        contents = _contents(folder)
        data = folder / contents['data']
        return all(checksum(data / name) == sums for name, sums in contents['files'].items())
    except (UserError, FileNotFoundError):
        return False


def remove_sharded(folder: Path) -> None:
    """Remove a checkpoint; cut off in the middle, it is none."""
    (folder / CONTENTS).unlink(missing_ok=True)
    shutil.rmtree(folder)


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _demand_files(data: Path, listed: Mapping[str, list[int]]) -> None:
    """UserError where files are missing, cut off or not of this save: torch would take what there is for the whole."""
    found = {file.name: file.stat().st_size for file in data.glob('*.*')} if data.is_dir() else {}
    for name in sorted({*found} ^ {*listed}) + [name for name in found if found[name] != listed.get(name, [-1])[0]]:
        raise UserError(f'checkpoint {data.parent} is damaged ({name}); take another one of the run.')


def _demand_sums(data: Path, listed: Mapping[str, list[int]], together: bool) -> None:
    """UserError where bytes are not those that were written. together: every rank calls this and reads a share."""
    rank, ranks = world() if together else (0, 1)
    changed = [name for name in sorted(listed)[rank::ranks] if checksum(data / name) != listed[name]]
    if together:
        changed = [name for share in gather_objects(changed) for name in share]
    if changed:
        raise UserError(f'checkpoint {data.parent} is damaged ({changed[0]}); take another one of the run.')


def _contents(folder: Path) -> dict[str, Any]:
    """{'data': subfolder, 'files': {name: [bytes, CRC-32]}}. UserError: not there, or not that."""
    try:
        found = json.loads((folder / CONTENTS).read_text(encoding='utf-8'))
        names = [found['data'], *found['files']]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'checkpoint {folder} is unfinished or damaged; take another one of the run.') from error
    # What is read stays within the folder.
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise UserError(f'checkpoint {folder} is damaged; take another one of the run.')
    return found


def _point_to(folder: Path, listing: Mapping[str, Any]) -> None:
    part = folder / f'.{CONTENTS}.part'
    with part.open('w', encoding='utf-8') as stream:
        json.dump(listing, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    for place in (folder / listing['data'], folder):
        to_disk(place)
    part.replace(folder / CONTENTS)
    for place in (folder, folder.parent):
        to_disk(place)


def _room(like: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    if isinstance(like, DTensor) and like.shape == shape:
        return torch.empty_like(like, dtype=dtype, requires_grad=False)
    return torch.empty(shape, dtype=dtype)


def _without_parts(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The same tree on the CPU, its distributed tensors moved to `tensors` under their dotted names."""
    if isinstance(value, DTensor):
        tensors[name] = value
        return {_ELSEWHERE: name}
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {
            key: _without_parts(inner, f'{name}.{key}' if name else str(key), tensors) for key, inner in value.items()
        }
    return value


def _named_elsewhere(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if value.keys() == {_ELSEWHERE}:
            yield value[_ELSEWHERE]
        else:
            for inner in value.values():
                yield from _named_elsewhere(inner)


def _with_parts(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ELSEWHERE}:
            return tensors[value[_ELSEWHERE]]
        return {key: _with_parts(inner, tensors) for key, inner in value.items()}
    return value


def _save_parts(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write distributed tensors, every rank its own parts, as safetensors files. OSError: a disk does not take them."""
    writer = parts_on_disk.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        parts_on_disk.save(dict(tensors), storage_writer=writer)
    except parts_on_disk.CheckpointException as error:
        for cause, _ in error.failures.values():
            if isinstance(cause, OSError):
                raise cause from error
        raise


def _stored_shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Names of what `_save_parts` wrote, with whole shapes and types; from the headers of the files alone."""
    found = parts_on_disk.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {name: entry for name, entry in found.items() if isinstance(entry, TensorStorageMetadata)}
    return {name: (entry.size, entry.properties.dtype) for name, entry in tensors.items()}


def _load_parts(tensors: Mapping[str, Tensor], folder: Path, together: bool) -> None:
    """Fill tensors, distributed in whatever way or whole, with what `_save_parts` wrote; nothing is unpickled.

    together: some are distributed and every rank calls this; else each reads for itself.
    """
    reader = parts_on_disk.HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        # That there is one process is no news.
        warnings.filterwarnings('ignore', 'torch.distributed is disabled')
        parts_on_disk.load(dict(tensors), storage_reader=reader, no_dist=not together)
