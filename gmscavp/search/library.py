"""A folder of videos and sounds into a search database: only what is new or changed is embedded, a file at a time."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gmscavp.datasets.base import list_files
from gmscavp.datasets.decoding import ClipError
from gmscavp.datasets.manifest import Manifest
from gmscavp.datasets.video_folder import VIDEO_ENDINGS
from gmscavp.errors import UserError
from gmscavp.inference.files import AUDIO_ENDINGS
from gmscavp.inference.windows import Side, Windows
from gmscavp.search.embedding import Embedder
from gmscavp.search.layout import About, Known, Vectors, rows_of
from gmscavp.search.store import Store, create_store, demand_model, demand_settings, has_store, open_store

BOTH: tuple[Side, ...] = ('video', 'audio')

_READ_AT_ONCE = 2**20
# A track that is not there is no fault of a file that has the other one.
_ABSENT = ('no video track', 'no audio track')


class Work(NamedTuple):
    """What indexing has to do. todo: files new to the database or seemingly changed; relabel: only the label is new."""

    todo: list[str]
    relabel: dict[str, str | None]
    vanished: list[str]
    unchanged: int
    labels: Mapping[str, str | None]


@dataclass(frozen=True)
class Step:
    """What became of a file: 'added', 'replaced', 'unchanged' or 'bad'; then by which cause, and what was seen."""

    file: str
    state: str
    windows: int = 0
    duration_s: float = 0.0
    cause: str = ''
    detail: str = ''


def library_store(uri: str, model: Embedder, root: Path, stride_s: float = 1.0, sides: Sequence[Side] = BOTH) -> Store:
    """The database of a folder for a model's windows; made if it is not there, of what its first good file gives.

    UserError: no file can be embedded, or the database is of another model or other windows.
    """
    if not 0 < stride_s <= model.clip.duration_s:
        raise UserError(
            f'--stride must be above 0 and at most a window, {model.clip.duration_s:g} seconds, not {stride_s:g}.'
        )
    if has_store(uri):
        store = open_store(uri)
        demand_model(store, model.identity)
        demand_settings(store, window_s=model.clip.duration_s, stride_s=stride_s, sides=tuple(sides))
        return store
    failed: ClipError | None = None
    for file in media_files(root):
        side: Side = 'audio' if Path(file).suffix.lower() in AUDIO_ENDINGS else sides[0]
        if side not in sides:
            continue
        try:
            windows = model.windows(root / file, side, end_s=model.clip.duration_s)
        except ClipError as error:
            failed = error
            continue
        return create_store(uri, about_of(model, windows, stride_s, tuple(sides)))
    raise failed or UserError(f'{root} holds no files for --sides {" ".join(sides)}; choose others.')


def about_of(model: Embedder, windows: Windows, stride_s: float, sides: tuple[Side, ...]) -> About:
    """What a database of such windows says of itself. UserError: the fused embedding is not its scales one by one."""
    width, lengths = windows.fused.shape[1], tuple(scale.shape[1] for scale in windows.scales)
    if sum(scale[0].numel() for scale in windows.scales) != width or width % sum(lengths):
        raise UserError(
            f'a model whose embedding ({width}) is not made of its scales {lengths} cannot be searched with.'
        )
    return About(model.identity, width, lengths, float(model.clip.duration_s), float(stride_s), tuple(sides))


def media_files(root: Path) -> list[str]:
    """Videos and sounds below a folder, relative to it, sorted. UserError: there are none, or no folder."""
    if not root.is_dir():
        raise UserError(f'there is no folder {root}; give the folder of the library.')
    found = list_files(root, (*VIDEO_ENDINGS, *AUDIO_ENDINGS))
    if not found:
        raise UserError(f'{root} holds no videos or sounds; to forget a library: python tools/search.py delete --all')
    return [Path(name).as_posix() for name in found]


def labels_of(manifest: Path) -> dict[str, str]:
    """File -> its labels with ';' between, of a manifest (docs/data.md)."""
    rows = Manifest.read(manifest)
    pairs = zip(rows.column('file'), rows.column('labels'), strict=True)
    return {file: ';'.join(labels) for file, labels in pairs if labels}


def plan(store: Store, root: Path, labels: Mapping[str, str] | None = None, check_content: bool = False) -> Work:
    """Compare a folder with the database by size and time of change; check_content: read every file all the same.

    labels: replaces those of the database where given. UserError: the folder has none of the files of the database,
    so that it is not the same library.
    """
    known, todo, relabel = store.known(), [], {}
    files = media_files(root)
    if known and not known.keys() & set(files):
        raise UserError(
            f'{root} holds none of the {len(known):,} files of {store.uri}; give the folder that the library is in now, '
            'or another --db, or forget the old files first: python tools/search.py delete --all'
        )
    unchanged = 0
    for file in files:
        had = known.get(file)
        if had is None or check_content or _stamp(root / file) != (had.size, had.mtime_ns):
            todo.append(file)
            continue
        unchanged += 1
        if labels is not None and labels.get(file) != had.label:
            relabel[file] = labels.get(file)
    kept = {file: had.label for file, had in known.items()} if labels is None else labels
    return Work(todo, relabel, sorted(known.keys() - set(files)), unchanged, kept)


def carry_out(work: Work, store: Store, model: Embedder, root: Path) -> Iterator[Step]:
    """Do it, a step a file, each committed when it is given; stopped anywhere, another plan has only the rest."""
    store.remove(work.vanished)
    for file, label in work.relabel.items():
        store.relabel(file, label)
    known = store.known() if work.todo else {}
    for file in work.todo:
        yield _index(file, store, model, root, known.get(file), work.labels.get(file))


def _index(file: str, store: Store, model: Embedder, root: Path, had: Known | None, label: str | None) -> Step:
    path = root / file
    try:
        file.encode()
        before = os.stat(path)
        content_hash = content_hash_of(path)
    except UnicodeEncodeError:
        return Step(file.encode(errors='replace').decode(), 'bad', cause='name is no UTF-8')
    except OSError as error:
        return Step(file, 'bad', cause='cannot be read', detail=error.strerror or str(error))
    if had is not None and had.content_hash == content_hash:
        if had.label != label:
            store.relabel(file, label)
        return Step(file, 'unchanged', had.windows, had.duration_s)
    try:
        sides = _embedded(path, store, model)
    except UserError as error:
        # What the database has is of content that is no more.
        store.remove([file] if had else [])
        cause, detail = (error.cause, error.detail) if isinstance(error, ClipError) else ('no vectors', str(error))
        return Step(file, 'bad', cause=cause, detail=detail)
    if _stamp(path) != (before.st_size, before.st_mtime_ns):
        return Step(file, 'bad', cause='changed while it was read', detail='index again')
    lasts_s = max(float(side.end_s.max()) for side in sides.values())
    count = sum(len(side.vectors) for side in sides.values())
    entry = Known(content_hash, before.st_size, before.st_mtime_ns, label, lasts_s, count)
    store.commit(rows_of(store.about, file, entry, sides), replaces=had is not None)
    return Step(file, 'replaced' if had else 'added', count, lasts_s)


def _embedded(path: Path, store: Store, model: Embedder) -> dict[str, Vectors]:
    """Windows of the sides that a file has. ClipError: it has none, or one of them is damaged."""
    found: dict[str, Vectors] = {}
    absent = None
    for side in store.about.sides:
        if side == 'video' and path.suffix.lower() in AUDIO_ENDINGS:
            continue
        try:
            # Half precision at once: a film is thousands of windows.
            parts = [
                (windows.start_s.numpy(), windows.end_s.numpy(), windows.fused.numpy().astype(np.float16))
                for windows in model.iter_windows(path, side, store.about.stride_s)
            ]
        except ClipError as error:
            if error.cause not in _ABSENT:
                raise
            absent = error
            continue
        starts, ends, vectors = zip(*parts, strict=True)
        found[side] = Vectors(np.concatenate(starts), np.concatenate(ends), np.concatenate(vectors))
    if not found:
        raise absent or ClipError(str(path), 'no video track', 'only pictures are embedded')
    return found


def content_hash_of(path: Path) -> str:
    """BLAKE2b of all bytes of a file, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open('rb') as stream:
        while piece := stream.read(_READ_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change; None where the file cannot be had."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
