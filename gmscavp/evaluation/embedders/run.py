"""A classifier of our own as judge."""

from typing import Any

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.evaluation.embedders.base import Embedder, at_rate
from gmscavp.evaluation.trained import load_judge
from gmscavp.registry import EMBEDDERS


@EMBEDDERS.register_module()
class RunEmbedder(Embedder):
    """The features and class scores of a run of ClipClassifier, or of a model that is called alike.

    config: its config file. checkpoint: a .pth file, or its work directory (the newest checkpoint).
    """

    def __init__(self, config: str, checkpoint: str) -> None:
        model: Any = load_judge(config, checkpoint)
        if not hasattr(model, 'classes'):
            raise UserError(f'{config} is of a {type(model).__name__}, which is no classifier of sound.')
        self.model, self.log_mel = model, model.data_preprocessor.log_mel

    def to(self, device: str | torch.device) -> None:
        """Move the classifier."""
        self.model.to(device)

    @torch.no_grad()
    def __call__(self, waveform: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
        """(B, S) -> features (B, D), class scores (B, C)."""
        device = next(self.model.parameters()).device
        sound = at_rate(waveform.to(device), sample_rate, self.log_mel.settings['sample_rate'])
        features, scores = self.model(mel=self.log_mel(sound), mode='tensor')
        return features.float().cpu(), scores.float().cpu()
