"""A name for what embeddings depend on, so that those of two models are never compared by mistake."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gmscavp.datasets.base import ClipFormat

# The parts of a model that embed, in the config and among its weights.
_PARTS = ('data_preprocessor', 'video_backbone', 'audio_backbone', 'video_pyramid', 'audio_pyramid', 'head')


def identity_of(model: nn.Module, config: Mapping[str, Any], clip: ClipFormat, transforms: Sequence[Any]) -> str:
    """16 hexadecimal digits of SHA-256 over weights and settings of the embedding parts, and over how clips are read.

    Which library reads pictures does not count, nor where the model is, nor what it was trained with.
    """
    # The preprocessor has options for training alone.
    settings = {name: plain(config[name]) for name in _PARTS if name in config and name != 'data_preprocessor'}
    reading = (clip.duration_s, clip.fps, clip.size, clip.sample_rate)
    told = [settings, reading, [(type(x).__name__, plain(vars(x))) for x in transforms]]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        if name.split('.')[0] in _PARTS:
            digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def plain(value: Any) -> Any:
    """Settings without the differences between a config and its dump: a class is its name."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, type):
        return value.__name__
    # Dumps name classes in full.
    return value.rsplit('.', 1)[-1] if isinstance(value, str) else value
