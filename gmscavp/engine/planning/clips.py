"""What a batch of a config looks like, without a file being read."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor

from gmscavp.errors import UserError


class ClipShape(NamedTuple):
    """What one clip is: windows of so many frames of height x width pixels, and samples of sound, in windows of seconds."""

    segments: int
    frames: int
    height: int
    width: int
    samples: int
    duration_s: float


def clip_shape(config: Config) -> ClipShape:
    """The clips of the training loader, after its transforms. Raises UserError for a config without one."""
    dataset = next(_with_clip(config.get('train_dataloader', {})), None)
    if dataset is None:
        raise UserError('the config has no train_dataloader with a dataset.clip that says how large a clip is.')
    clip = dataset['clip']
    size = next((t['size'] for t in reversed(dataset.get('transforms', ())) if 'size' in t), clip['size'])
    height, width = (size, size) if isinstance(size, int) else size
    frames, samples = round(clip['duration_s'] * clip['fps']), round(clip['duration_s'] * clip['sample_rate'])
    segments = (dataset.get('window') or {}).get('segments', 1)
    return ClipShape(segments, frames, height, width, samples, clip['duration_s'])


def blank_batch(shape: ClipShape, clips: int) -> dict[str, Tensor]:
    """A batch as the training loader gives it, black and silent; of several segments each clip has an axis of them."""
    rows = (clips, shape.segments) if shape.segments > 1 else (clips,)
    return {
        'video': torch.zeros(*rows, shape.frames, 3, shape.height, shape.width, dtype=torch.uint8),
        'audio': torch.zeros(*rows, shape.samples),
    }


def _with_clip(settings: Any) -> Iterator[Mapping[str, Any]]:
    """The dictionaries of a config that say what a clip looks like, data sets within others too."""
    if isinstance(settings, dict) and isinstance(settings.get('clip'), dict):
        yield settings
    for value in settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ():
        yield from _with_clip(value)
