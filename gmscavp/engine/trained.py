"""A trained model from its config and checkpoint, without the rest of a run."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from gmscavp import compat
from gmscavp.engine.checkpoints import newest_checkpoint
from gmscavp.engine.runner import whole_weights
from gmscavp.engine.sharded_checkpoints import is_sharded_folder, read_sharded
from gmscavp.errors import UserError
from gmscavp.registry import MODELS


def find_checkpoint(path: Path) -> Path:
    """A checkpoint as it is, a file or the folder of a sharded model; of a work directory its newest one.

    UserError when there is none.
    """
    whole = path.is_file() or is_sharded_folder(path)
    checkpoint = path if whole else newest_checkpoint(path) if path.is_dir() else None
    if checkpoint is None:
        raise UserError(f'there is no checkpoint at {path}; train first, or give the path of a .pth file.')
    return checkpoint


def load_model(config: Config, path: Path) -> nn.Module:
    """The config's model with all weights of the checkpoint, ready to be used. UserError: they do not fit."""
    file = find_checkpoint(path)
    return model_with(config, file, whole_checkpoint(file))


def model_with(config: Config, file: Path, checkpoint: dict[str, Any]) -> nn.Module:
    """As load_model, of a file that was read by whole_checkpoint. UserError: they do not fit."""
    model = MODELS.build(config.model)
    model.load_state_dict(whole_weights(file, checkpoint, model))
    return model.eval()


def whole_checkpoint(path: Path) -> dict[str, Any]:
    """Meta data and whole weights of a checkpoint, be it a file or a sharded model's folder, in this process alone."""
    if path.is_dir():
        return read_sharded(path, lambda _: None, lambda part: part in ('meta', 'state_dict'))
    return compat.load_checkpoint_file(path, 'cpu')
