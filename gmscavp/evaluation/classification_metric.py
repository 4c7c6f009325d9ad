"""MMEngine's side of the evaluation of classifiers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from gmscavp.errors import UserError
from gmscavp.evaluation.classes import average_precision, hits_in_order
from gmscavp.registry import METRICS


@METRICS.register_module()
class ClassificationMetric(BaseMetric):
    """mAP over classes with several labels a clip, in percent, beside chance, the mean share of clips that have a class.

    Of a class: (1/R) sum over the places k of its R clips of the share of them among the first k, clips in order of their
    score; classes without a clip are left out. A tie counts against the class. Clips that could not be read are left out
    and counted as `skipped`. By class, where the data set names them, the figures stand in `details`.
    """

    default_prefix = 'classes'

    def __init__(self) -> None:
        # As in RetrievalMetric: collectives, no folders of pickles.
        super().__init__(collect_device='gpu')
        self.details: dict[str, Any] = {}

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep one batch of scores."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[Mapping[str, Any]]) -> dict[str, float]:
        """Figures over all clips that could be read."""
        read = [clip for clip in results if clip['valid']]
        if not read:
            raise UserError(f'none of the {len(results)} clips of the evaluation could be read; see the causes above.')
        if 'labels' not in read[0]:
            raise UserError('the clips have no labels; wrap the data set in LabelledClips.')
        scores = torch.stack([clip['scores'] for clip in read]).T
        labels = torch.stack([clip['labels'] for clip in read]).T > 0.5
        if not torch.isfinite(scores).all():
            raise UserError('the class scores are not finite: training has diverged; lower the learning rate.')
        precision = 100 * average_precision(hits_in_order(scores, labels)).double()
        names = (self.dataset_meta or {}).get('classes', map(str, range(len(labels))))
        found = zip(names, precision.tolist(), labels.any(dim=1).tolist(), strict=True)
        self.details = {'average_precision': {name: value for name, value, any_clip in found if any_clip}}
        return {
            'mAP': precision.nanmean().item(),
            'chance_mAP': 100 * labels[labels.any(dim=1)].double().mean().item(),
            'N': len(read),
            'skipped': len(results) - len(read),
        }
