"""A few seconds of a file, to be shown: read once, played, drawn and compared."""

import math
import shutil
import tempfile
import threading
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gmscavp.datasets.base import ClipFormat
from gmscavp.datasets.decoding import MediaInfo, probe
from gmscavp.datasets.decoding.audio import resample
from gmscavp.datasets.encoding import write_clip
from gmscavp.datasets.muxing import write_wave
from gmscavp.inference import Model, Pictures, Sound
from gmscavp.inference.sources import STILLS, open_audio, open_video
from gmscavp.inference.writing import AAC_RATES

SIDE, FPS = 240, 15
"""Of what is shown: pixels of the short side, and frames a second at the most."""

_RATE = 44_100


class Workspace:
    """A folder of files that the page made, which only this user may read; the oldest go when there are too many."""

    def __init__(self, most: int = 1000) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix='gmscavp-page-')).resolve()
        self.made, self.uploads = self.folder / 'made', self.folder / 'uploads'
        self.made.mkdir()
        self.uploads.mkdir()
        self._files: deque[Path] = deque()
        self._most, self._lock = most, threading.Lock()

    def new(self, name: str) -> Path:
        """A path for a file, in a folder of a name that nobody guesses."""
        folder = self.made / uuid.uuid4().hex
        folder.mkdir()
        with self._lock:
            self._files.append(folder)
            old = [self._files.popleft() for _ in range(len(self._files) - self._most)]
        for gone in old:
            shutil.rmtree(gone, ignore_errors=True)
        return folder / name

    def close(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Moment:
    """frames: (T, H, W, 3) uint8, sound: (S,) float32, each None where the file has none."""

    frames: np.ndarray | None
    fps: float
    sound: torch.Tensor | None
    rate: int
    lasts_s: float

    @property
    def pictures(self) -> Pictures | None:
        """As a model takes them."""
        return None if self.frames is None else Pictures(self.frames, self.fps)

    @property
    def heard(self) -> Sound | None:
        """As a model takes it."""
        return None if self.sound is None else Sound(self.sound, self.rate)

    def write(self, workspace: Workspace) -> Path:
        """A file that browsers play: mp4, or wav where there are no pictures."""
        silent = torch.zeros(max(1, round(self.lasts_s * self.rate)))
        wave = (silent if self.sound is None else self.sound.clamp(-1, 1)).numpy()
        if self.frames is None:
            target = workspace.new('moment.wav')
            write_wave(target, wave, self.rate)
        else:
            target = workspace.new('moment.mp4')
            write_clip(target, self.frames, self.fps, wave, self.rate, crf=26)
        return target

    def mel(self, model: Model) -> np.ndarray | None:
        """(F, M) as the model hears it; None without sound."""
        if self.sound is None:
            return None
        log_mel = model.model.data_preprocessor.log_mel
        wave = resample(self.sound, self.rate, log_mel.settings['sample_rate'])
        with torch.inference_mode():
            return log_mel(wave[None].to(model.device))[0, 0].cpu().numpy()


def read_moment(file: Path, start_s: float, end_s: float, backend: str) -> Moment:
    """The seconds from start_s to end_s of a file, as far as it goes. ClipError: it cannot be read."""
    if file.suffix.lower() in STILLS:
        still = open_video(file, ClipFormat(1.0, 1, SIDE, _RATE, backend), ())
        return Moment(_rows(still.read(np.zeros(1))), 1.0, None, _RATE, 1.0)
    info = probe(file)
    rate = info.sample_rate if info.sample_rate in AAC_RATES else _RATE
    frames, fps, lasts_s = _frames(file, info, start_s, end_s, rate, backend) if info.has_video else (None, 1.0, 0.0)
    sound = _sound(file, start_s, end_s, rate) if info.has_audio else None
    if frames is None and sound is not None:
        lasts_s = len(sound) / rate
    return Moment(frames, fps, sound, rate, lasts_s)


def _frames(
    file: Path, info: MediaInfo, start_s: float, end_s: float, rate: int, backend: str
) -> tuple[np.ndarray, float, float]:
    """Frames at most FPS a second, frames a second, seconds."""
    scale = min(1.0, SIDE / min(info.width, info.height))
    size = (max(2, round(info.height * scale / 2) * 2), max(2, round(info.width * scale / 2) * 2))
    fps = float(min(max(1.0, info.fps or FPS), FPS))
    track = open_video(file, ClipFormat(1.0, fps, size, rate, backend), ())
    end_s = min(end_s, track.end_s)
    start_s = max(0.0, min(start_s, end_s - 1 / fps))
    count = max(1, round((end_s - start_s) * fps))
    times_s = np.minimum(start_s + (np.arange(count) + 0.5) / fps, track.end_s - 2e-3)
    return _rows(track.read(times_s)), fps, count / fps


def _sound(file: Path, start_s: float, end_s: float, rate: int) -> torch.Tensor:
    track = open_audio(file, rate)
    end_s = max(min(end_s, track.end_s), start_s + 0.1)
    # Tracks are read by whole seconds.
    first_s = math.floor(start_s)
    wave = track.read(first_s, math.ceil(end_s) - first_s)
    return wave[round((start_s - first_s) * rate) : round((end_s - first_s) * rate)].clone()


def _rows(frames: torch.Tensor) -> np.ndarray:
    """(T, 3, H, W) -> (T, H, W, 3), even."""
    rows = frames.permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(rows[:, : rows.shape[1] // 2 * 2, : rows.shape[2] // 2 * 2])
