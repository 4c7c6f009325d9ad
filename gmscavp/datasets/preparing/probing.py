"""What there is to know of one clip before training on it: its header, how loud it is, how much it moves."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gmscavp.datasets.decoding import ClipError, probe, read_clip
from gmscavp.datasets.decoding.media import MediaInfo

# Long clips are judged by parts of them, at even distances from the first second to the last.
WHOLE_S = 30.0
PARTS = 6
PART_S = 5.0

# Frames a second and pixels at which movement is measured, and the blocks in which it is looked for.
_FPS = 4.0
_SIDE = 64
_BLOCK = 8
_SAMPLE_RATE = 16_000

# The quietest value of 16-bit sound is -90 dBFS.
_SILENCE_DB = -120.0

# Below this there is hardly a frame to read.
_SHORTEST_S = 0.5


class Window(NamedTuple):
    """A part of a file, in seconds from its start; without an end, the whole file. file: an absolute path."""

    file: str
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True)
class Measures:
    """Of the window: start_s and end_s within the file, pictures (as shown, after rotation) and sound.

    loudness: RMS in dB of full scale (0 is a full-scale square wave). peak: the same of the loudest sample. motion: the
    grey levels (0 to 255) by which the picture changes in a quarter of a second, see `motion_of`.
    """

    start_s: float
    end_s: float
    width: int
    height: int
    fps: float
    audio_rate: int
    loudness: float
    peak: float
    motion: float

    @property
    def duration_s(self) -> float:
        """Length of the window, seconds."""
        return self.end_s - self.start_s


class Trouble(NamedTuple):
    """Why a clip could not be measured. cause: one of decoding's CAUSES, 'timed out' or 'crashed'."""

    cause: str
    detail: str


def measure(window: Window) -> Measures | Trouble:
    """Read a window, or for one longer than WHOLE_S seconds PARTS parts of it. A window may end after its file."""
    try:
        header = probe(window.file)
        _demand_both(window.file, header)
        start_s = window.start_s or 0.0
        end_s = header.duration_s if window.end_s is None else min(window.end_s, header.duration_s)
        if end_s - start_s < _SHORTEST_S:
            raise ClipError(window.file, 'too short', f'{max(0.0, end_s - start_s):.2f} s')
        return _read(window.file, start_s, end_s, header)
    except ClipError as error:
        return Trouble(error.cause, error.detail)


def _demand_both(file: str, header: MediaInfo) -> None:
    for there, kind in ((header.has_video, 'video'), (header.has_audio, 'audio')):
        if not there:
            raise ClipError(file, f'no {kind} track')


def _read(file: str, start_s: float, end_s: float, header: MediaInfo) -> Measures:
    powers, peaks, changes = [], [], []
    for part_s, lasting_s in parts_of(start_s, end_s):
        clip = read_clip(file, part_s, lasting_s, _FPS, (_SIDE, _SIDE), _SAMPLE_RATE, 'pyav')
        powers.append(float(clip.audio.square().mean()))
        peaks.append(float(clip.audio.abs().max()))
        changes.append(changes_of(clip.video))
    return Measures(
        start_s=start_s,
        end_s=end_s,
        width=header.width,
        height=header.height,
        fps=header.fps,
        audio_rate=header.sample_rate,
        loudness=decibels(math.sqrt(sum(powers) / len(powers))),
        peak=decibels(max(peaks)),
        motion=motion_of(torch.cat(changes)),
    )


def parts_of(start_s: float, end_s: float) -> list[tuple[float, float]]:
    """(start, length) in seconds of the parts by which a window is judged."""
    lasting_s = end_s - start_s
    if lasting_s <= WHOLE_S:
        return [(start_s, lasting_s)]
    step_s = (lasting_s - PART_S) / (PARTS - 1)
    return [(start_s + k * step_s, PART_S) for k in range(PARTS)]


def changes_of(video: Tensor) -> Tensor:
    """(T, 3, H, W) uint8, H and W multiples of 8 -> (T - 1,): how much the block of 8 x 8 pixels that changes most does.

    The mean over the block, of the absolute difference between frames, in grey levels. A mouth that speaks moves one
    block and hardly the mean of the picture.
    """
    grey = video.float().mean(1)
    return torch.nn.functional.avg_pool2d((grey[1:] - grey[:-1]).abs()[:, None], _BLOCK).amax((1, 2, 3))


def motion_of(changes: Tensor) -> float:
    """(N,) changes from frame to frame -> the level that three quarters of them do not exceed, 0 without any.

    So a show of stills, which changes now and then, counts as still. Of 394 real clips, people who speak to the camera
    among them, the least moving one has 2.7.
    """
    return float(changes.quantile(0.75)) if len(changes) else 0.0


def decibels(amplitude: float) -> float:
    """An amplitude in dB of full scale, at least -120."""
    return max(_SILENCE_DB, 20 * math.log10(max(amplitude, 1e-12)))
