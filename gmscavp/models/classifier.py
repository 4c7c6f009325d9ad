"""A classifier of clips by their sound: also the judge by whose features generated sound is compared with real."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.registry import BACKBONES, MODELS
from gmscavp.structures import Losses


@MODELS.register_module()
class ClipClassifier(BaseModel):
    """Audio backbone -> mean and maximum over time -> linear layers; every class by itself: a clip may have several.

    classes: names. bands: into so many equal parts of the frequencies the last features are averaged: a convolution alone
    does not know where on the axis it stands, and a pitch is a place. width: of the features. dropout: before each linear
    layer.
    """

    def __init__(
        self,
        data_preprocessor: Mapping[str, Any],
        audio_backbone: Mapping[str, Any],
        classes: Sequence[str],
        bands: int = 4,
        width: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(MODELS.build(dict(data_preprocessor)))
        if not classes or len(set(classes)) < len(classes):
            raise UserError('ClipClassifier: classes must be names that differ, one or more.')
        self.classes, self.bands, self.dropout = list(classes), bands, dropout
        self.audio_backbone = BACKBONES.build(dict(audio_backbone))
        self.project = nn.Linear(self.audio_backbone.out_channels[-1] * bands, width)
        self.classify = nn.Linear(width, len(classes))

    def features(self, mel: Tensor) -> Tensor:
        """(B, 1, F, M) in [0, 1] -> (B, width)."""
        x = self.audio_backbone(mel)[-1]
        x = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), (x.shape[1], self.bands)).transpose(1, 2).flatten(2)
        # A sound that is short leaves little in the mean.
        x = x.mean(dim=1) + x.amax(dim=1)
        return F.gelu(self.project(F.dropout(x, self.dropout, self.training)))

    def scores(self, features: Tensor) -> Tensor:
        """(B, width) -> class scores (B, C), before the sigmoid."""
        return self.classify(F.dropout(features, self.dropout, self.training))

    def loss(self, mel: Tensor, labels: Tensor) -> Losses:
        """Binary cross-entropy, the mean over clips and classes: (B, 1, F, M), (B, C) in {0, 1}."""
        return {'loss_classes': F.binary_cross_entropy_with_logits(self.scores(self.features(mel)), labels)}

    def forward(
        self,
        mel: Tensor,
        video: Tensor | None = None,
        labels: Tensor | None = None,
        clip_id: Sequence[str] = (),
        start_s: Tensor | None = None,
        valid: Tensor | None = None,
        failures: Sequence[str] = (),
        mode: str = 'tensor',
    ) -> Losses | tuple[Tensor, Tensor] | list[dict[str, Any]]:
        """What MMEngine's runner calls. mode: 'loss' -> losses; 'predict' -> one dict a clip with `scores` (C,) and, where
        they are known, `labels` (C,), on the CPU; 'tensor' -> features (B, width) and class scores (B, C).
        """
        if mode == 'loss':
            if labels is None or labels.shape[1] != len(self.classes):
                raise UserError(
                    f'ClipClassifier learns {len(self.classes)} classes from `labels`, which the clips have not; wrap the '
                    'data set in LabelledClips with the same classes.'
                )
            return self.loss(mel, labels)
        features = self.features(mel)
        scores = self.scores(features)
        if mode == 'tensor':
            return features, scores
        columns: dict[str, Any] = {'clip_id': clip_id, 'scores': [row.clone() for row in scores.float().cpu()]}
        columns['valid'] = valid.tolist() if valid is not None else [True] * len(clip_id)
        if labels is not None:
            columns['labels'] = [row.clone() for row in labels.cpu()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
