"""A trained model from its config and checkpoint, without the rest of a run."""

from pathlib import Path

from mmengine.config import Config
from torch import nn

from gmscavp import compat
from gmscavp.engine.checkpoints import newest_checkpoint
from gmscavp.engine.runner import whole_weights
from gmscavp.errors import UserError
from gmscavp.registry import MODELS


def find_checkpoint(path: Path) -> Path:
    """A .pth file as it is, the newest checkpoint of a work directory. UserError when there is none."""
    checkpoint = newest_checkpoint(path) if path.is_dir() else path
    if checkpoint is None or not checkpoint.is_file():
        raise UserError(f'there is no checkpoint at {path}; train first, or give the path of a .pth file.')
    return checkpoint


def load_model(config: Config, path: Path) -> nn.Module:
    """The config's model with all weights of the checkpoint, ready to be used. UserError: they do not fit."""
    file = find_checkpoint(path)
    model = MODELS.build(config.model)
    model.load_state_dict(whole_weights(file, compat.load_checkpoint_file(file, 'cpu'), model))
    return model.eval()
