"""Trained models of our own as judges: built from their config, their weights from a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint
from torch import Tensor, nn

from gmscavp import compat
from gmscavp.errors import UserError
from gmscavp.registry import MODELS


def load_judge(config: str, checkpoint: str) -> nn.Module:
    """The model of a config with all weights of a checkpoint (.pth, or a work directory: its newest), for use alone.

    UserError: a file is missing, or they do not fit each other.
    """
    if not Path(config).is_file():
        raise UserError(f'the judge has no config {config}; give the config that it was trained with.')
    place = Path(checkpoint)
    if place.is_dir():
        # The pointer holds the path at the time of training.
        newest = find_latest_checkpoint(str(place))
        place = place / Path(newest).name if newest else place / 'last_checkpoint'
    if not place.is_file():
        raise UserError(
            f'the judge of {config} has no checkpoint {place}; train it with: python tools/train.py {config}'
        )
    model = MODELS.build(Config.fromfile(config).model)
    compat.load_weights(model, place)
    return model.requires_grad_(False).eval()


class AlignmentJudge:
    """How probably a clip's picture and sound belong together, by a trained alignment classifier.

    config, checkpoint: as in `load_judge`, of a model with `aligned_probability(video, mel) -> (B,)`, without which it is a
    UserError.
    """

    def __init__(self, config: str, checkpoint: str, device: str | torch.device = 'cpu') -> None:
        model: Any = load_judge(config, checkpoint)
        if not hasattr(model, 'aligned_probability'):
            raise UserError(f'{config} is of a {type(model).__name__}, which is no alignment classifier.')
        self.model = model.to(device)

    @torch.no_grad()
    def __call__(self, video: Tensor, audio: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) uint8, waveforms (B, S) -> probabilities (B,) on the CPU."""
        batch: Mapping[str, Any] = self.model.data_preprocessor({'video': video, 'audio': audio}, False)
        return self.model.aligned_probability(batch['video'], batch['mel']).float().cpu()
