"""MMEngine's side of the evaluation: collects what the model gives over batches and ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from gmscavp.errors import UserError
from gmscavp.evaluation.retrieval import Gallery, retrieval_figures
from gmscavp.registry import METRICS


@METRICS.register_module()
class RetrievalMetric(BaseMetric):
    """R@1/5/10, median and mean rank, video to audio (v2a) and back (a2v), beside N and chance.

    Clips that could not be read are left out and counted as `skipped`. A tie counts against the query.
    """

    default_prefix = 'retrieval'

    def __init__(self) -> None:
        # 'gpu' names MMEngine's collection by collectives, which gloo does on a CPU too; its 'cpu' way leaves folders of
        # pickles in the current directory.
        super().__init__(collect_device='gpu')
        self.gallery: Gallery | None = None

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep one batch of embeddings."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[Mapping[str, Any]]) -> dict[str, float]:
        """Figures over all clips that could be read."""
        read = [sample for sample in results if sample['valid']]
        if not read:
            raise UserError(f'none of the {len(results)} clips of the evaluation could be read; see the causes above.')
        video, audio = (torch.stack([sample[f'{side}_embedding'] for sample in read]) for side in ('video', 'audio'))
        if not (torch.isfinite(video).all() and torch.isfinite(audio).all()):
            raise UserError(
                'the model gives embeddings that are not finite: training has diverged; lower the learning rate.'
            )
        self.gallery = Gallery([sample['clip_id'] for sample in read], video, audio)
        return retrieval_figures(self.gallery) | {'skipped': len(results) - len(read)}
