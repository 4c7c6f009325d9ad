"""Clips from shards: any window of any clip of any shard, by its place in the index."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmscavp.datasets.base import ClipDataset, ClipFormat
from gmscavp.datasets.manifest import Manifest
from gmscavp.datasets.shards.finding import demand_format, read_rows
from gmscavp.datasets.shards.reading import ClipReader, Places, ShardFiles
from gmscavp.registry import DATASETS
from gmscavp.structures import Clip


@DATASETS.register_module()
class Shards(ClipDataset):
    """Clips of the shards `<split>-000000.tar`, ... in `data_root`, as tools/prepare_data.py writes them.

    Windows start on a frame of the shards, so that picture and sound keep their relation; start_s of a sample counts in
    the file that the clip was cut from. clip.fps: the shards' frame rate or a whole fraction of it. clip.sample_rate: the
    shards'. clip.size: other sizes than the stored one are scaled to. clip.backend does not matter.

    A clip that is cut off or does not have the checksums of its json is damaged; so is one of a shard that has gone.
    UserError: no shards, shards of different settings or other ones than `clip` asks for, a clip_id in two of them.
    """

    def __init__(
        self,
        data_root: str,
        clip: Mapping[str, Any],
        window: Mapping[str, Any],
        transforms: Sequence[Mapping[str, Any]] = (),
        replace_bad: bool = True,
        split: str = 'train',
    ) -> None:
        root = Path(data_root)
        rows, counts, self.listed = read_rows(root, split)
        demand_format(rows, ClipFormat.of(clip), root)
        super().__init__(Manifest.from_table(rows, f'{root} ({split})'), root, clip, window, transforms, replace_bad)
        # Rows of shard k: those from shard_starts[k] up to shard_starts[k + 1].
        self.shard_starts = np.cumsum([0, *counts.values()])
        self._shard_numbers = {name: number for number, name in enumerate(counts)}
        self._places = Places(self.manifest.arrow_file)
        self._files = ShardFiles()

    def _window_of(self, file: str, start_s: float) -> Clip:
        """The window that starts on the stored frame nearest to start_s."""
        shard, key = os.path.split(file)
        number = self._shard_numbers[os.path.basename(shard)]
        place = self._places.find(key, *self.shard_starts[number : number + 2])
        form = self.clip
        first, wanted = window_frames(
            start_s - place.start_s, form.frames, form.fps, place.fps, len(place.frame_offset)
        )
        reader = ClipReader(file, self._files.handle(file, shard))
        audio = reader.audio(place, round(first / place.fps * form.sample_rate), form.samples)
        video = reader.frames(place, wanted, form.size)
        return Clip(
            torch.from_numpy(video).permute(0, 3, 1, 2), torch.from_numpy(audio), place.start_s + first / place.fps
        )


def window_frames(offset_s: float, frames: int, fps: float, stored_fps: float, stored: int) -> tuple[int, np.ndarray]:
    """Where a window of `frames` frames at `fps` starts, offset_s into a clip, and (T,) which stored frames make it.

    Stored frame k is what was on screen at (k + 0.5) / stored_fps. With stored_fps = n * fps the middle one of every n
    is taken, the earlier of two. Where the clip ends before the window its last frame is repeated, as in read_clip.
    """
    step = round(stored_fps / fps)
    first = min(max(math.floor(offset_s * stored_fps + 0.5), 0), max(stored - step * frames, 0))
    return first, np.minimum(first + step * np.arange(frames) + (step - 1) // 2, stored - 1)
