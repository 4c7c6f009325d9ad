"""What every data set of clips shares: reading a window of a manifest's row, and what happens to a clip that is bad."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import Dataset

from gmscavp.datasets.decoding import ClipError, open_clip, read_clip
from gmscavp.datasets.decoding.media import TOLERANCE_S
from gmscavp.datasets.gallery import evaluation_facts, select_all
from gmscavp.datasets.layout import in_planes
from gmscavp.datasets.manifest import ClipRecord, Manifest
from gmscavp.datasets.vanishing import is_there, wait_for
from gmscavp.errors import UserError, near_names
from gmscavp.readers import reading
from gmscavp.registry import TRANSFORMS
from gmscavp.structures import Clip, Draw

# So many bad clips in a row mean that something else is wrong than a few files.
_TRIES = 20


@dataclass(frozen=True)
class ClipFormat:
    """What a clip looks like when it is read: seconds, frames a second, pixels (short side or (H, W)), samples a second.

    backend: 'pyav', 'decord' or 'torchcodec'.
    """

    duration_s: float
    fps: float
    size: int | tuple[int, int]
    sample_rate: int
    backend: str = 'pyav'

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> 'ClipFormat':
        """From a config's dictionary; a key that does not exist is an error that names the near ones."""
        known = cls.__dataclass_fields__
        for name in settings:
            if name not in known:
                raise UserError(f"clip has no setting '{name}'.{near_names(name, known)} It takes {', '.join(known)}.")
        return cls(**settings)

    @property
    def frames(self) -> int:
        """T, the number of frames."""
        return round(self.duration_s * self.fps)

    @property
    def samples(self) -> int:
        """S, the number of audio samples."""
        return round(self.duration_s * self.sample_rate)


class Sample(TypedDict):
    """What a data set gives, ready for torch's default collate.

    With several segments a clip, video, audio and start_s (then a tensor) begin with an axis for them. valid is False
    for a clip that could not be read and was not replaced; failures holds a line 'cause<tab>file' for every clip that
    could not be read on the way.
    """

    video: Tensor
    audio: Tensor
    clip_id: str
    start_s: float | Tensor
    valid: bool
    failures: str


class ClipDataset(Dataset[Sample]):
    """Clips of a manifest: video (T, 3, H, W) uint8 and audio (S,) float32 of the same window.

    manifest: rows whose `file` lies under `root`. clip: the fields of ClipFormat. window: a transform that chooses where
    the window starts; one that gives a list of N_T starts makes samples of segments, (N_T, T, 3, H, W) and (N_T, S),
    and a file in which they would be less than a frame apart is too short. transforms: applied to the clip in turn, with
    the same random choices for all segments of a file. replace_bad: a clip that cannot be read is replaced by
    another one drawn at random (training), or else comes back as zeros with valid=False (evaluation).
    """

    # How many clips the data set's own list has, where there is one; some of them may not be there.
    listed: int | None = None
    # So long, in seconds, a folder that was there may be gone before reading gives up; and how often that has happened.
    patience_s: float = 120.0
    waits: int = 0
    # So long, in seconds, a worker process may read at one clip before it is ended; 0: for ever.
    limit_s: float = 120.0

    def __init__(
        self,
        manifest: Manifest,
        root: Path,
        clip: Mapping[str, Any],
        window: Mapping[str, Any],
        transforms: Sequence[Mapping[str, Any]] = (),
        replace_bad: bool = True,
    ) -> None:
        self.manifest = manifest
        self.root = root
        self.clip = ClipFormat.of(clip)
        self.window = TRANSFORMS.build(dict(window))
        self.transforms = [TRANSFORMS.build(dict(transform)) for transform in transforms]
        self.replace_bad = replace_bad
        # Clips that ended the process that read them, which are bad from then on: clip_id -> cause.
        self.quarantine: dict[str, str] = {}
        self._was_there = is_there(root)

    @cached_property
    def metainfo(self) -> dict[str, Any]:
        """What the metrics may ask of a test set; nothing in training, where MMEngine keeps it with the weights."""
        return {} if self.replace_bad else evaluation_facts(self.manifest, select_all(self.manifest, self.listed))

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Sample:
        # Training asks by a Draw, so that neither workers nor what was read before decide; else torch's generator does.
        rng = index.rng() if isinstance(index, Draw) else np.random.default_rng(int(torch.randint(2**62, ())))
        failures = []
        for candidate in self._candidates(index, rng):
            record = self.manifest[candidate]
            try:
                clip = self._read_patiently(record, rng)
            except ClipError as error:
                failures.append(f'{error.cause}\t{error.file}')
                continue
            return self._sample(record, clip, failures)
        if self.replace_bad:
            raise UserError(f'{len(failures)} clips in a row could not be read; the last: {failures[-1]}.')
        return self._sample(self.manifest[index], None, failures)

    def _candidates(self, index: int, rng: np.random.Generator) -> Iterator[int]:
        yield index
        if self.replace_bad:
            for _ in range(_TRIES - 1):
                yield int(rng.integers(len(self)))

    def _read_patiently(self, record: ClipRecord, rng: np.random.Generator) -> Clip | list[Clip]:
        """As _read, but where the whole folder has gone no clip is bad: it is waited for."""
        file = str(self.root / record.file)
        if record.clip_id in self.quarantine:
            raise ClipError(file, self.quarantine[record.clip_id], 'in quarantine')
        state = rng.bit_generator.state
        while True:
            try:
                with reading(file, record.clip_id, self.limit_s):
                    return self._read(record, rng)
            except (ClipError, OSError):
                if not self._was_there or is_there(self.root):
                    raise
            self.waits += 1
            wait_for(self.root, self.patience_s)
            rng.bit_generator.state = state

    def _read(self, record: ClipRecord, rng: np.random.Generator) -> Clip | list[Clip]:
        """The clip of a row, or its segments where the window gives several starts."""
        file = str(self.root / record.file)
        if record.end_s is not None:
            return self._cut(file, partial(self._window_of, file), record.start_s or 0.0, record.end_s, rng)
        with open_clip(file) as opened:
            return self._cut(file, partial(self._read_window, opened.read), 0.0, opened.duration_s, rng)

    def _cut(
        self, file: str, window_of: Callable[[float], Clip], start_s: float, end_s: float, rng: np.random.Generator
    ) -> Clip | list[Clip]:
        wanted = self.clip.duration_s
        if end_s - start_s < wanted - TOLERANCE_S:
            raise ClipError(file, 'too short', f'{end_s - start_s:.2f} s, wanted {wanted:g} s')
        starts_s = self.window(start_s, max(start_s, end_s - wanted), rng)
        if not isinstance(starts_s, list):
            return self._transformed(window_of(starts_s), rng)
        if any(later - start < 1 / self.clip.fps - 1e-6 for start, later in pairwise(starts_s)):
            raise ClipError(file, 'too short', f'{end_s - start_s:.2f} s for {len(starts_s)} windows of {wanted:g} s')
        return self._same_choices([window_of(start) for start in starts_s], rng)

    def _window_of(self, file: str, start_s: float) -> Clip:
        return self._read_window(partial(read_clip, file), start_s)

    def _read_window(self, read: Callable[..., Clip], start_s: float) -> Clip:
        form = self.clip
        return read(start_s, form.duration_s, form.fps, form.size, form.sample_rate, form.backend)

    def _transformed(self, clip: Clip, rng: np.random.Generator) -> Clip:
        for transform in self.transforms:
            clip = transform(clip, rng)
        return clip

    def _same_choices(self, segments: list[Clip], rng: np.random.Generator) -> list[Clip]:
        """Transform segments of one file alike: a crop or a flip that differed would tell them apart."""
        state = rng.bit_generator.state
        transformed = []
        for clip in segments:
            rng.bit_generator.state = state
            transformed.append(self._transformed(clip, rng))
        return transformed

    def _sample(self, record: ClipRecord, clip: Clip | list[Clip] | None, failures: list[str]) -> Sample:
        valid = clip is not None
        video, audio, start_s = _tensors(self._blank() if clip is None else clip)
        return Sample(
            video=video,
            audio=audio,
            clip_id=record.clip_id,
            start_s=start_s,
            valid=valid,
            failures='\n'.join(failures),
        )

    def _blank(self) -> Clip | list[Clip]:
        """Zeros of the shape that window and transforms give, so that they stack with the other clips of a batch."""
        rng = np.random.default_rng(0)
        size = self.clip.size
        height, width = (size, size) if isinstance(size, int) else size
        starts_s = self.window(0.0, 0.0, rng)
        blanks = []
        for _ in starts_s if isinstance(starts_s, list) else [0.0]:
            video = torch.zeros(self.clip.frames, 3, height, width, dtype=torch.uint8)
            blanks.append(self._transformed(Clip(video, torch.zeros(self.clip.samples)), rng))
        return blanks if isinstance(starts_s, list) else blanks[0]


def _tensors(clip: Clip | list[Clip]) -> tuple[Tensor, Tensor, float | Tensor]:
    """Video, audio and start of a clip; of segments, with an axis for them in front."""
    if isinstance(clip, Clip):
        return in_planes(clip.video), clip.audio, clip.start_s
    starts_s = torch.tensor([segment.start_s for segment in clip], dtype=torch.float64)
    video = torch.stack([in_planes(segment.video) for segment in clip])
    return video, torch.stack([segment.audio for segment in clip]), starts_s


def list_files(root: Path, endings: Sequence[str]) -> list[str]:
    """Paths relative to `root`, sorted, of all files below it with one of the endings ('.mp4', ...).

    Raises UserError when the folder is missing.
    """
    if not root.is_dir():
        raise UserError(f'data folder {root} does not exist; set data_root, for example --cfg-options data_root=PATH.')
    found = (path for path in root.rglob('*') if path.suffix.lower() in endings and path.is_file())
    return sorted(str(path.relative_to(root)) for path in found)


def say_found(name: str, split: str, found: int, listed: int, root: Path) -> None:
    """Log how many of the listed clips are there; a share of the data sets' clips is gone from the web by now."""
    print_log(f'{name} {split}: found {found:,} of {listed:,} listed clips in {root}', logger='current')
