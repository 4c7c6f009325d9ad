"""Writing shards: a manifest's clips decoded once, at the rates and the size that they are trained at."""

import hashlib
import io
import json
import math
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from gmscavp.datasets.decoding import ClipError, probe, read_clip
from gmscavp.datasets.decoding.media import TOLERANCE_S
from gmscavp.datasets.manifest import ClipRecord, Manifest, splits_of
from gmscavp.datasets.shards.claim import claim_folder, replace_text
from gmscavp.datasets.shards.finding import LISTING
from gmscavp.datasets.shards.index import ShardIndex, build_index, index_file, load_index, save_index
from gmscavp.datasets.shards.members import JPEG_QUALITY, clip_members, key_of
from gmscavp.datasets.shards.pool import write_all
from gmscavp.errors import UserError

_FORMAT_VERSION = 1

# As VideoFolder holds out where a manifest has no column `split`.
_TEST_SHARE = 0.1

# Below TOLERANCE_S, which read_clip allows after the end of a file, so that rounding does not fail a whole clip.
_TAIL_S = TOLERANCE_S - 0.001


@dataclass(frozen=True)
class ShardFormat:
    """What is stored of a clip: frames a second, short side in pixels, samples a second, seconds at most."""

    fps: float
    size: int
    sample_rate: int
    max_s: float


@dataclass(frozen=True)
class Shard:
    """One shard to write: its file name and the numbers of its rows in the manifest."""

    name: str
    rows: np.ndarray


def write_shards(
    manifest: Manifest,
    root: Path,
    out: Path,
    *,
    fps: float,
    size: int,
    sample_rate: int,
    clips_per_shard: int = 512,
    workers: int = 0,
    max_s: float = 60.0,
    force: bool = False,
) -> dict[str, int]:
    """Write the clips of a manifest, whose files lie under `root`, as shards into the folder `out`.

    A row's window [start_s, end_s] is stored whole, or else the whole file; at most max_s seconds of it, which a process
    holds in memory while it writes them. fps: frames a
    second. size: short side in pixels. sample_rate: samples a second. The clips of a split are shuffled once and shared
    out to `<split>-000000.tar`, ...; without a column `split` a tenth is the test split, chosen as by VideoFolder. The
    same manifest and settings give the same bytes, with any number of workers (processes, 0 for one per core).

    A stopped run goes on where it was when called again with the same manifest and settings; force clears the shards of
    other ones first. At the end shards.json holds settings, counts and hashes. Gives the number of clips 'written' and of
    those left out by cause (those of ClipError, and 'no split').

    UserError: settings that make no sense, a folder that holds something else, a disk that refuses.
    The processes import the calling script: call this under `if __name__ == '__main__':`, or with workers=1.
    """
    form = ShardFormat(float(fps), size, sample_rate, float(max_s))
    _demand_sense(form, clips_per_shard, workers)
    splits = splits_of(manifest, _TEST_SHARE)
    shards = share_out(splits, clips_per_shard)
    if not shards:
        raise UserError('no row of the manifest is in a split, so there is nothing to write.')
    settings = {
        'format': _FORMAT_VERSION,
        **asdict(form),
        'jpeg_quality': JPEG_QUALITY,
        'clips_per_shard': clips_per_shard,
        'manifest': _manifest_hash(manifest),
    }
    try:
        claim_folder(out, settings, force=force)
        waiting = [shard for shard in shards if _finished(out / shard.name) is None]
        write = partial(write_shard, manifest=manifest, root=root, out=out, form=form)
        write_all(write, waiting, workers, done=sum(len(shard.rows) for shard in shards) - _clips(waiting), out=out)
        return _finish(out, shards, settings, splits)
    except OSError as error:
        raise UserError(f'the shards cannot be written to {out}: {error.strerror or error}.') from error


def share_out(splits: Sequence[str | None], clips_per_shard: int) -> list[Shard]:
    """The shards of a manifest whose rows have these splits. Rows without one are in no shard."""
    column = np.array([split or '' for split in splits])
    shards = []
    for split in sorted(set(column) - {''}):
        # Lists are often sorted by class, and what lies in one shard is trained on in one go.
        rows = np.random.default_rng(0).permutation(np.flatnonzero(column == split))
        for number, first in enumerate(range(0, len(rows), clips_per_shard)):
            shards.append(Shard(f'{key_of(split)}-{number:06d}.tar', rows[first : first + clips_per_shard]))
    return shards


def write_shard(
    shard: Shard, on_clip: Callable[[], None], *, manifest: Manifest, root: Path, out: Path, form: ShardFormat
) -> None:
    """Write one shard and its index under temporary names, then under their own. on_clip is called after every clip."""
    part = out / f'.{shard.name}.{os.getpid()}.part'
    dropped: Counter[str] = Counter()
    cut = 0
    try:
        with part.open('wb') as stream:
            with tarfile.open(fileobj=stream, mode='w', format=tarfile.USTAR_FORMAT) as tar:
                for row in shard.rows:
                    try:
                        members, whole = stored_clip(manifest[int(row)], root, form)
                    except ClipError as error:
                        dropped[error.cause] += 1
                    else:
                        cut += not whole
                        for name, content in members:
                            # Owner and time stay zero: the same clips give the same bytes.
                            header = tarfile.TarInfo(name)
                            header.size = len(content)
                            tar.addfile(header, io.BytesIO(content))
                    on_clip()
            stream.flush()
            os.fsync(stream.fileno())
        found = build_index(part)
        notes = {'sha256': _sha256(part), 'rows': len(shard.rows), 'dropped': dict(sorted(dropped.items())), 'cut': cut}
        index_file(out / shard.name).unlink(missing_ok=True)
        os.replace(part, out / shard.name)
        # The index comes last: with it the shard is finished.
        save_index(ShardIndex(found.rows, found.size, notes), out / shard.name, index_file(out / shard.name))
    finally:
        part.unlink(missing_ok=True)


def stored_clip(record: ClipRecord, root: Path, form: ShardFormat) -> tuple[list[tuple[str, bytes]], bool]:
    """The members of a clip, and whether it is stored to its end. ClipError where it cannot be read."""
    file = str(root / record.file)
    length_s = probe(file).duration_s
    start_s = record.start_s or 0.0
    duration_s = min(record.end_s if record.end_s is not None else length_s, length_s) - start_s
    whole = duration_s <= form.max_s
    # The frames cover what read_clip would fill in after the end, so that the same windows can be cut from both.
    frames = math.floor((duration_s + _TAIL_S if whole else form.max_s) * form.fps)
    if frames < 1:
        raise ClipError(file, 'too short', f'{duration_s:.2f} s from {start_s:.2f} s on')
    stored_s = frames / form.fps
    clip = read_clip(file, start_s, stored_s, form.fps, form.size, form.sample_rate, 'pyav')
    duration_s = duration_s if whole else stored_s
    return clip_members(record, clip, start_s, duration_s, form.fps, form.sample_rate), whole


def _finished(shard: Path) -> Any:
    """What the writer noted about a shard that is there whole; None where it is yet to be written."""
    if not shard.is_file() or not index_file(shard).is_file():
        return None
    index = load_index(shard)
    return index.notes if index.notes and shard.stat().st_size == index.size else None


def _finish(
    out: Path, shards: Sequence[Shard], settings: dict[str, Any], splits: Sequence[str | None]
) -> dict[str, int]:
    """Write shards.json; count."""
    listing, dropped, written, cut = {}, Counter[str](), 0, 0
    for shard in shards:
        index = load_index(out / shard.name)
        clips = len(index.rows)
        listing[shard.name] = {'clips': clips, 'bytes': index.size, **index.notes}
        written, cut = written + clips, cut + index.notes['cut']
        dropped.update(index.notes['dropped'])
    if without := len(splits) - _clips(shards):
        dropped['no split'] = without
    if cut:
        print_log(f'{cut} clips were cut after {settings["max_s"]:g} s', logger='current')
    totals = {
        'written': written,
        'cut': cut,
        'dropped': dict(dropped),
        'bytes': sum(x['bytes'] for x in listing.values()),
    }
    text = json.dumps({'complete': True, 'settings': settings, 'totals': totals, 'shards': listing}, indent=1)
    replace_text(out / LISTING, text + '\n')
    return {'written': written, **dropped}


def _clips(shards: Sequence[Shard]) -> int:
    return sum(len(shard.rows) for shard in shards)


def _sha256(file: Path) -> str:
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()


def _manifest_hash(manifest: Manifest) -> str:
    digest = hashlib.sha256()
    for name in ClipRecord._fields:
        digest.update(json.dumps([name, manifest.column(name)]).encode())
    return digest.hexdigest()


def _demand_sense(form: ShardFormat, clips_per_shard: int, workers: int) -> None:
    for name, value in (('fps', form.fps), ('sample_rate', form.sample_rate), ('max_s', form.max_s)):
        if not 0 < value < math.inf:
            raise UserError(f'{name}: {value} is not a number above 0')
    if not isinstance(form.size, int) or form.size < 1:
        raise UserError(f'size: {form.size} is not a short side in pixels')
    if clips_per_shard < 1 or workers < 0:
        raise UserError(
            f'clips_per_shard, workers: {clips_per_shard} and {workers} must be numbers above 0 (0 workers: all)'
        )
