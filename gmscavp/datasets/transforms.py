"""Where a clip is cut from its file, and what is changed on it; random choices come from the generator given."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.datasets.layout import in_planes, packed
from gmscavp.errors import UserError
from gmscavp.registry import TRANSFORMS
from gmscavp.structures import Clip


@TRANSFORMS.register_module()
class CentreWindow:
    """Start the window so that it lies in the middle."""

    def __call__(self, first_s: float, last_s: float, rng: np.random.Generator) -> float:
        """(earliest start, latest start) in seconds -> start in seconds."""
        return (first_s + last_s) / 2


@TRANSFORMS.register_module()
class RandomWindow:
    """Start the window anywhere it fits, evenly."""

    def __call__(self, first_s: float, last_s: float, rng: np.random.Generator) -> float:
        """(earliest start, latest start) in seconds -> start in seconds."""
        return float(rng.uniform(first_s, last_s)) if last_s > first_s else first_s


@TRANSFORMS.register_module()
class SegmentWindows:
    """Draw several windows of one file, in increasing time and at least a gap apart: the segments of temporal contrast.

    Counted in whole frames of `fps`, with L the latest start and gap g = L // segments, the k-th start is drawn evenly
    from s_(k-1) + g .. k g, the first from 0 .. g. Luo et al. 2023 (CAVP): of 10 s, three windows of 4 s at 4 frames/s
    start in [0, 8], [s_1 + 8, 16] and [s_2 + 8, 24]. Where L is less than `segments` frames, starts coincide.
    """

    def __init__(self, segments: int = 3, fps: float = 4.0) -> None:
        _demand_segments(segments)
        self.segments, self.fps = segments, fps

    def __call__(self, first_s: float, last_s: float, rng: np.random.Generator) -> list[float]:
        """(earliest start, latest start) in seconds -> starts in seconds, one for each segment."""
        # A hair of room: 5.9999... s are 6 s whose sum was rounded.
        gap = math.floor((last_s - first_s) * self.fps + 1e-6) // self.segments
        starts, lowest = [], 0
        for k in range(1, self.segments + 1):
            start = int(rng.integers(lowest, k * gap, endpoint=True))
            starts.append(first_s + start / self.fps)
            lowest = start + gap
        return starts


@TRANSFORMS.register_module()
class EvenWindows:
    """Several windows at even distances from the earliest start to the latest; a single one in the middle."""

    def __init__(self, segments: int) -> None:
        _demand_segments(segments)
        self.segments = segments

    def __call__(self, first_s: float, last_s: float, rng: np.random.Generator) -> list[float]:
        """(earliest start, latest start) in seconds -> starts in seconds, one for each segment."""
        if self.segments == 1:
            return [(first_s + last_s) / 2]
        return np.linspace(first_s, last_s, self.segments).tolist()


def _demand_segments(segments: int) -> None:
    if segments < 1:
        raise UserError(f'window: segments must be a number from 1 on, not {segments}.')


@TRANSFORMS.register_module()
class ResizedCrop:
    """Cut a random part out of the picture, the same in every frame, and bring it to size x size pixels.

    scale: share of the area, lowest and highest. ratio: width / height, lowest and highest.
    """

    def __init__(
        self, size: int, scale: tuple[float, float] = (0.5, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ) -> None:
        self.size, self.scale, self.ratio = size, scale, ratio

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Cut clip.video."""
        height, width = clip.video.shape[-2:]
        area = height * width * rng.uniform(*self.scale)
        ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        h = min(height, max(1, round(math.sqrt(area / ratio))))
        w = min(width, max(1, round(math.sqrt(area * ratio))))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        clip.video = _resize(clip.video[..., top : top + h, left : left + w], self.size)
        return clip


@TRANSFORMS.register_module()
class CentreCrop:
    """Cut the largest square out of the middle of the picture and bring it to size x size pixels."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Cut clip.video."""
        height, width = clip.video.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        clip.video = _resize(clip.video[..., top : top + side, left : left + side], self.size)
        return clip


def _resize(video: Tensor, size: int) -> Tensor:
    """(T, 3, h, w) uint8 -> (T, 3, size, size) uint8 in planes."""
    if video.shape[-2:] == (size, size):
        return in_planes(video)
    # Of packed pixels torch's kernel takes a third of the time.
    return in_planes(F.interpolate(packed(video), (size, size), mode='bilinear', antialias=True))


@TRANSFORMS.register_module()
class Flip:
    """Mirror the picture left to right, all frames of a clip or none."""

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Mirror clip.video or leave it."""
        if rng.random() < self.prob:
            clip.video = clip.video.flip(-1)
        return clip


@TRANSFORMS.register_module()
class Gain:
    """Make the sound louder or softer by a random number of decibels, without leaving [-1, 1]."""

    def __init__(self, low_db: float = -6.0, high_db: float = 6.0) -> None:
        self.low_db, self.high_db = low_db, high_db

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Scale clip.audio."""
        gain = 10 ** (rng.uniform(self.low_db, self.high_db) / 20)
        clip.audio = (clip.audio * gain).clamp(-1, 1)
        return clip


@TRANSFORMS.register_module()
class SpecMask(nn.Module):
    """Blank random stretches of time and of bands in a log-mel, on the device that holds it.

    Park et al. 2019 (SpecAugment), without warping. max_frames, max_bands: widest stretch of each kind.
    """

    def __init__(self, time_masks: int = 1, max_frames: int = 16, band_masks: int = 1, max_bands: int = 8) -> None:
        super().__init__()
        self.time_masks, self.max_frames = time_masks, max_frames
        self.band_masks, self.max_bands = band_masks, max_bands

    def forward(self, mel: Tensor) -> Tensor:
        """(B, 1, F, M) -> the same, with the stretches at the clip's own lowest value."""
        clips, _, frames, bands = mel.shape
        blank = torch.zeros(clips, frames, bands, dtype=torch.bool, device=mel.device)
        for _ in range(self.time_masks):
            blank |= _stretches(clips, frames, self.max_frames, mel.device)[:, :, None]
        for _ in range(self.band_masks):
            blank |= _stretches(clips, bands, self.max_bands, mel.device)[:, None, :]
        return torch.where(blank[:, None], mel.amin(dim=(1, 2, 3), keepdim=True), mel)


def _stretches(clips: int, length: int, widest: int, device: torch.device) -> Tensor:
    """One random stretch of 0..widest steps for every clip -> (B, length) bool."""
    width = torch.randint(0, min(widest, length) + 1, (clips, 1), device=device)
    start = (torch.rand(clips, 1, device=device) * (length - width + 1)).long()
    step = torch.arange(length, device=device)
    return (step >= start) & (step < start + width)
