"""Which files are to be made into which, and what forbids it, before any work is done."""

import os
from collections import Counter
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import NamedTuple

from gmscavp.datasets.base import list_files
from gmscavp.errors import UserError

AUDIO_ENDINGS = ('.wav', '.flac', '.mp3', '.m4a', '.aac', '.ogg', '.opus', '.oga', '.mka', '.aiff', '.aif', '.w64')


class Job(NamedTuple):
    """A file and what is made of it, one file a sample."""

    source: Path
    targets: list[Path]


def find_files(given: str, endings: Sequence[str]) -> list[Path]:
    """A file as it is, the media files below a folder, or what a pattern with * names. UserError: there are none."""
    path = Path(given)
    if path.is_dir():
        found = [path / name for name in list_files(path, endings)]
        if not found:
            raise UserError(f'{given} holds no files that end in {" ".join(endings)}.')
        return found
    if path.exists() or not any(sign in given for sign in '*?['):
        return [path]
    found = sorted(Path(name) for name in glob(given, recursive=True) if os.path.isfile(name))
    if not found:
        raise UserError(f'no file matches {given}.')
    return found


def plan(given: str, sources: Sequence[Path], out: Path, samples: int) -> list[Job]:
    """One job a source. `out` is an .mp4 for a single file, else a folder, below which names stay as they were.

    With several samples, out_1.mp4, out_2.mp4, ... UserError: `out` is not what it must be, or cannot be written.
    """
    single = len(sources) == 1 and sources[0] == Path(given)
    if single and not out.is_dir():
        if out.suffix.lower() != '.mp4':
            raise UserError(f'--out {out} must end in .mp4, or be a folder that is there.')
        demand_folder(out.parent)
        return [Job(sources[0], _numbered(out, samples))]
    if out.suffix.lower() == '.mp4' and not out.is_dir():
        raise UserError(f'--out {out} must be a folder, as {len(sources)} files are to be made.')
    if not out.exists():
        demand_folder(out.parent)
        out.mkdir()
    demand_folder(out)
    root = Path(given) if Path(given).is_dir() else None
    # What an earlier run made is not to be made again of itself.
    inside = [source for source in sources if root is None or root.samefile(out) or out not in source.parents]
    relative = [source.relative_to(root) if root else Path(source.name) for source in inside]
    stems = Counter(name.with_suffix('') for name in relative)
    jobs = []
    for source, name in zip(inside, relative, strict=True):
        # Two files that differ in their ending alone keep it.
        target = out / (name.with_suffix('.mp4') if stems[name.with_suffix('')] == 1 else f'{name}.mp4')
        jobs.append(Job(source, _numbered(target, samples)))
    return jobs


def refusal(job: Job, force: bool) -> str | None:
    """Why a job must not be done; None: it may."""
    for target in job.targets:
        if target.exists() and job.source.exists() and target.samefile(job.source):
            return f'{target} is the input itself; choose another --out.'
        if target.exists() and not force:
            return f'{target} is there already; --force replaces it.'
    return None


def demand_folder(folder: Path) -> None:
    """UserError: it is no folder, or nothing can be written in it."""
    if not folder.is_dir():
        raise UserError(f'folder {folder} does not exist; make it first, or choose another --out.')
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f'nothing can be written in folder {folder}; choose another --out.')


def _numbered(target: Path, samples: int) -> list[Path]:
    if samples == 1:
        return [target]
    return [target.with_name(f'{target.stem}_{k + 1}{target.suffix}') for k in range(samples)]
