"""Clips in the form that trains fastest: small pictures, near key frames, sound at the model's rate."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gmscavp.datasets.decoding import ClipError, probe, read_clip
from gmscavp.datasets.encoding import write_clip_parts
from gmscavp.datasets.manifest import hash_share
from gmscavp.datasets.preparing.probing import Measures, Trouble

# Seconds that are held in memory at a time: 100 MB at 256 x 455 and 30 frames/s.
_PART_S = 8.0

# Outside of these the rate that a header gives is a mistake, or a waste: no recipe reads more than 30 frames/s.
_FPS_RANGE = (10.0, 30.0)


@dataclass(frozen=True)
class Form:
    """What rewritten files are like: h264 yuv420p and AAC mono in mp4.

    size: pixels of the short side; smaller pictures stay as they are. fps: constant frame rate, None for the file's own
    average within 10 to 30. sample_rate: Hz. gop_s: most seconds from one key frame to the next. crf: h264 quality.
    """

    size: int = 256
    fps: float | None = None
    sample_rate: int = 16_000
    gop_s: float = 0.5
    crf: int = 23


class Rewriting(NamedTuple):
    """A clip to rewrite: `measured` of the file at `source`, into `target` (absolute paths), in a form."""

    source: str
    target: str
    measured: Measures
    form: Form

    @property
    def fps(self) -> float:
        """Frames a second of the new file."""
        low, high = _FPS_RANGE
        return self.form.fps or min(max(self.measured.fps, low), high)

    @property
    def frames(self) -> int:
        """How many frames the window holds."""
        return int(self.measured.duration_s * self.fps + 1e-3)

    @property
    def picture_size(self) -> tuple[int, int]:
        """(H, W) of the new pictures, both even as yuv420p needs them."""
        height, width = self.measured.height, self.measured.width
        scale = min(1.0, self.form.size / min(height, width))
        return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


def rewrite(job: Rewriting) -> Trouble | None:
    """Write the new file, under a temporary name until it is whole; a Trouble when the old one cannot be read.

    Frame k, shown from k / fps on, is what the old file shows at (k + 0.5) / fps of the window: picture and sound stay
    in step within half a frame, whatever the old frame rate. Rotation is applied. OSError when the disk refuses.
    """
    target = Path(job.target)
    target.parent.mkdir(parents=True, exist_ok=True)
    gop = max(1, int(job.form.gop_s * job.fps))
    try:
        write_clip_parts(target, _parts(job), job.fps, job.form.sample_rate, crf=job.form.crf, gop=gop)
        probe(target)
    except ClipError as error:
        return Trouble(error.cause, error.detail)
    return None


def _parts(job: Rewriting) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    most = max(1, round(_PART_S * job.fps))
    for first in range(0, job.frames, most):
        start_s = job.measured.start_s + first / job.fps
        duration_s = min(most, job.frames - first) / job.fps
        size, rate = job.picture_size, job.form.sample_rate
        clip = read_clip(job.source, start_s, duration_s, job.fps, size, rate, 'pyav')
        yield clip.video.permute(0, 2, 3, 1).numpy(), clip.audio.numpy()


def target_name(clip_id: str) -> str:
    """The name of a rewritten file below its folder: as the clip_id, and in one of 256 subfolders where that has none.

    '<clip_id>.mp4' at the end, so that VGGSound, AudioSet and Panda70M find their clips below the folder as well.
    """
    name = clip_id if clip_id.endswith('.mp4') else f'{clip_id}.mp4'
    inside = [part.replace('\\', '_').replace(':', '_') for part in name.split('/') if part not in ('', '.', '..')]
    return '/'.join(inside) if len(inside) > 1 else f'{int(256 * hash_share(clip_id)):02x}/{inside[0]}'
