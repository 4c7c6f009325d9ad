"""Reading one damaged file, and judging what came of it."""

import os
import resource
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from faults_seeds import HEIGHT, RATE, WIDTH, mutant
from mmengine.logging import MMLogger

from gmscavp.datasets.decoding import ClipError, read_clip
from gmscavp.datasets.shards import Shards
from gmscavp.datasets.shards.members import read_jpeg
from gmscavp.errors import UserError
from gmscavp.inference.reading import read_sound

BEGIN_S, SECONDS, FPS, SIZE = 0.5, 1.0, 8, 48

SEEDS = {
    'pyav': ('h264.mp4', 'vp9.webm', 'png.mov', 'bomb.mp4', 'pcm.wav'),
    'decord': ('h264.mp4', 'vp9.webm', 'png.mov', 'bomb.mp4'),
    'torchcodec': ('h264.mp4', 'vp9.webm', 'png.mov', 'bomb.mp4'),
    'cv2': ('frame.jpg', 'shard.tar'),
}
"""Which whole files each decoding library reads; sound is PyAV's for all, and cv2 reads shards and their pictures."""

RIGHT, ERROR, OTHER, WRONG = 'right clip', 'typed error', 'other content', 'wrong clip'
MEMORY, UNTYPED, CRASH, TIMEOUT = 'memory', 'untyped error', 'crash', 'timeout'
KINDS = (RIGHT, ERROR, OTHER, WRONG, MEMORY, UNTYPED, CRASH, TIMEOUT)
BAD = (WRONG, UNTYPED, CRASH, TIMEOUT)
"""What must not be. A crash or a timeout is the child's."""

# Grey levels by which a picture may differ from the whole file's, RMS in the sound, and seconds of silence.
_GREY, _RMS, _SILENCE_S = 6.0, 0.05, 0.1
_BLOCK = RATE // 100


class Task(NamedTuple):
    """One damaged file. folder: of the seeds, absolute."""

    number: int
    backend: str
    seed_file: str
    rule: str
    folder: str


class Outcome(NamedTuple):
    """kind: one of KINDS. peak_mib: the most memory that its process has had so far. seconds: that it took."""

    kind: str
    detail: str
    peak_mib: float
    seconds: float


class Read(NamedTuple):
    """video: (T, 3, H, W) uint8 or None. audio: (S,) float32 or None."""

    video: np.ndarray | None
    audio: np.ndarray | None


def attempt(task: Task) -> Outcome:
    """Damage, read, judge. Anything but an answer of the reader or its typed error is said as such."""
    folder = Path(task.folder)
    expected = whole(task.folder, task.seed_file, task.backend)
    place = folder / f'mutant-{os.getpid()}'
    place.mkdir(exist_ok=True)
    name = 'train-000000.tar' if task.seed_file == 'shard.tar' else f'mutant{Path(task.seed_file).suffix}'
    file = place / name
    file.with_suffix('.idx').unlink(missing_ok=True)
    file.write_bytes(mutant(folder, task.seed_file, task.rule, task.number))
    started = time.monotonic()
    kind, detail = _outcome(file, folder / task.seed_file, task, expected)
    seconds = time.monotonic() - started
    file.unlink()
    return Outcome(kind, detail, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, seconds)


def _outcome(file: Path, seed: Path, task: Task, expected: Read) -> tuple[str, str]:
    try:
        found = READERS.get(seed.suffix, _clip)(file, task.backend)
    except UserError as error:
        starved = isinstance(error.__cause__, MemoryError) or 'memory' in str(error).lower()
        return (MEMORY if starved else ERROR), str(error).replace(str(file), 'FILE')
    # What escapes a reader is what this looks for.
    except Exception as error:
        return UNTYPED, repr(error)
    kind, detail = judge(found, expected, checked=seed.suffix == '.tar')
    # Sound as plain samples has nothing that could tell silence from damage.
    if kind == WRONG and detail == SILENT and seed.suffix == '.wav' and file.stat().st_size >= seed.stat().st_size:
        return OTHER, f'{detail} that stands in the file'
    # A file whose packets are shown at other moments is another file, as far as anyone can tell.
    if kind == WRONG and seed.suffix in ('.mp4', '.mov', '.webm') and detail in (REPEATED, SILENT):
        same = _timetable(file) == _timetable(seed)
        told = 'as its index says' if seed.suffix != '.webm' else 'a block is lost or late, and WebM lists none'
        return (WRONG, detail) if same else (OTHER, f'{detail}: {told}')
    return kind, detail


REPEATED, SILENT = 'frames repeated', 'silence'


def judge(found: Read, expected: Read, checked: bool) -> tuple[str, str]:
    """Kind and reason of what was read, against the whole file's. checked: the format has checksums."""
    kinds = [_form(got, wanted) for got, wanted in zip(found, expected, strict=True) if wanted is not None]
    if any(kinds):
        return next(kind for kind in kinds if kind)
    changed = ''
    if found.video is not None and expected.video is not None:
        still = np.abs(np.diff(found.video.astype(float), axis=0)).mean((1, 2, 3)) == 0
        moving = np.abs(np.diff(expected.video.astype(float), axis=0)).mean((1, 2, 3)) > 1
        if (still & moving).any():
            return WRONG, REPEATED
        far = np.abs(found.video.astype(float) - expected.video).mean((1, 2, 3)).max()
        changed = f'picture {far:.1f} grey levels off' if far > _GREY else ''
    if found.audio is not None and expected.audio is not None:
        got, wanted = (
            each[: len(each) // _BLOCK * _BLOCK].reshape(-1, _BLOCK) for each in (found.audio, expected.audio)
        )
        silent = (np.abs(got).max(1) < 1e-4) & (np.abs(wanted).max(1) > 0.05)
        if silent.sum() * _BLOCK > 1.2 * _SILENCE_S * RATE:
            return WRONG, SILENT
        off = float(np.sqrt(np.mean((got - wanted) ** 2, dtype=float)))
        changed = changed or (f'sound {off:.2f} RMS off' if off > _RMS else '')
    return ((WRONG if checked else OTHER), changed) if changed else (RIGHT, '')


def _form(got: np.ndarray | None, wanted: np.ndarray) -> tuple[str, str] | None:
    """What is wrong with shape, type or range; None when they are right."""
    if got is None or got.dtype != wanted.dtype or got.ndim != wanted.ndim:
        return WRONG, 'nothing, or another type'
    if got.shape != wanted.shape:
        # A short side was asked for, and the other is what the header says.
        told = got.ndim == 4 and got.shape[:2] == wanted.shape[:2] and min(got.shape[2:]) == SIZE
        return (OTHER, 'another shape, as its header says') if told else (WRONG, f'{got.shape} for {wanted.shape}')
    if not np.isfinite(got).all() or (got.dtype == np.float32 and np.abs(got).max() > 1):
        return WRONG, 'values out of range'
    return None


@cache
def whole(folder: str, seed_file: str, backend: str) -> Read:
    """What a whole file gives."""
    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.simplefilter('ignore')
    seed = Path(folder) / seed_file
    file = Path(folder) / 'shards/train-000000.tar' if seed.suffix == '.tar' else seed
    return READERS.get(seed.suffix, _clip)(file, backend)


def _clip(file: Path, backend: str) -> Read:
    clip = read_clip(file, BEGIN_S, SECONDS, FPS, SIZE, RATE, backend)
    return Read(clip.video.numpy(), clip.audio.numpy())


def _sound(file: Path, backend: str) -> Read:
    return Read(None, read_sound(file, BEGIN_S, SECONDS, RATE).numpy())


def _picture(file: Path, backend: str) -> Read:
    """As a shard would, whose checksum is that of the damaged bytes."""
    into = np.zeros((SIZE, SIZE, 3), np.uint8)
    if not read_jpeg(file.read_bytes(), (SIZE, SIZE), (HEIGHT, WIDTH), into):
        raise ClipError(str(file), 'damaged')
    return Read(into.transpose(2, 0, 1)[None], None)


def _shard(file: Path, backend: str) -> Read:
    clip = dict(duration_s=SECONDS, fps=FPS, size=SIZE, sample_rate=RATE)
    data = Shards(str(file.parent), clip, dict(type='CentreWindow'), replace_bad=False)
    sample = data[0]
    if not sample['valid']:
        cause, name = sample['failures'].split('\t')
        raise ClipError(name, cause)
    return Read(sample['video'].numpy(), sample['audio'].numpy())


READERS: dict[str, Callable[[Path, str], Read]] = {'.wav': _sound, '.jpg': _picture, '.tar': _shard}


def _timetable(file: Path) -> list[tuple[str, float]]:
    """When every packet of a file is shown."""
    with av.open(str(file)) as container:
        return [
            (packet.stream.type, round(float(packet.pts * packet.time_base), 3))
            for packet in container.demux()
            if packet.pts is not None
        ]
