"""What the work on files needs of a trained model, and what all of it shares."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.config import Config
from rich.progress import Progress as RichProgress
from torch import Tensor

from gmscavp.datasets import ClipFormat
from gmscavp.errors import UserError
from gmscavp.inference.reading import Transforms
from gmscavp.structures import Pyramid

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


class Loaded(Protocol):
    """A model with its weights on a device, what clips it takes (clip, transforms), and where it came from."""

    model: Any
    config: Config
    checkpoint: Path
    device: torch.device
    clip: ClipFormat
    transforms: Transforms


def signal(run: Loaded, frames: Tensor) -> Tensor:
    """(B, T, 3, H, W) uint8 -> (B, 3, T, H, W) in [-1, 1] on the device."""
    return frames.to(run.device).transpose(1, 2).float() / 127.5 - 1


def encode(run: Loaded, side: str, windows: Tensor) -> Pyramid:
    """Tokens of every scale, not normalised: video (B, T, 3, H, W) uint8 or audio (B, S) float32 -> [(B, L_s, D)].

    UserError: the model embeds nothing, or its weights are of a run that had failed.
    """
    demand_embeddings(run)
    with torch.no_grad():
        if side == 'video':
            tokens = run.model.encode_video(signal(run, windows))
        else:
            tokens = run.model.encode_audio(run.model.data_preprocessor.log_mel(windows.to(run.device)))
    if not all(x.isfinite().all() for x in tokens):
        raise UserError(f'{run.checkpoint} gives values that are not numbers; it was saved by a run that had failed.')
    return tokens


def demand_embeddings(run: Loaded) -> None:
    """UserError: the model embeds nothing."""
    if not hasattr(run.model, 'encode_video') or not hasattr(run.model, 'head'):
        raise UserError(f'{type(run.model).__name__} has no embeddings; give a run of GMSCAVP.')


@contextmanager
def telling(progress: Progress | bool, what: str) -> Iterator[Progress]:
    """Whom to tell of progress: a function as it is, a bar for True, nobody for False."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield lambda done, total: None
    else:
        with RichProgress(transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def device_named(name: str | None) -> torch.device:
    """A device that is there. UserError: it is not."""
    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.zeros(1, device=name)
    # torch raises different ones for a name that it does not know, a build without it, and a number that is not there.
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise UserError(f"device '{name}' cannot be used here; take cpu, or cuda where there is a GPU.") from error
    return torch.device(name)
