"""How often a classifier of alignment is right, by kind of pair and by noise level."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.evaluation.generation.sync import ALIGNED
from gmscavp.registry import METRICS

WRONG = ('shifted', 'other')


def alignment_figures(probability: Mapping[str, Tensor], levels: Sequence[float] = ()) -> dict[str, float]:
    """Shares of pairs judged rightly, 0..1: p(aligned) by kind of pair, (N,) or (N, levels) -> figures.

    probability: 'aligned', and 'shifted' and 'other' of the wrong pairs; nan stands for a pair that there is not. A p of
    exactly one half is wrong either way. accuracy_aligned, accuracy_shifted, accuracy_other; accuracy: their mean with
    aligned pairs counting as much as all wrong ones, so that chance is 0.5. With levels also each of them at every level,
    as accuracy_shifted_at_0.5. Kinds without any pair are left out. ValueError: no aligned or no wrong pair at all.
    """
    figures = _figures(probability)
    for number, level in enumerate(levels):
        at = _figures({kind: p[:, number] for kind, p in probability.items()})
        figures |= {f'{name}_at_{level:g}': value for name, value in at.items()}
    return figures


def _figures(probability: Mapping[str, Tensor]) -> dict[str, float]:
    shares = {}
    for kind, values in probability.items():
        known = values[~values.isnan()]
        right = known > ALIGNED if kind == 'aligned' else known < ALIGNED
        if len(known):
            shares[kind] = right.double().mean().item()
    wrong = [share for kind, share in shares.items() if kind in WRONG]
    if 'aligned' not in shares or not wrong:
        raise ValueError('there are no aligned or no wrong pairs to judge.')
    accuracy = (shares['aligned'] + sum(wrong) / len(wrong)) / 2
    return {'accuracy': accuracy} | {f'accuracy_{kind}': share for kind, share in shares.items()}


@METRICS.register_module()
class AlignmentMetric(BaseMetric):
    """How often AlignmentClassifier is right on held-out clips: see alignment_figures, beside N and `skipped`.

    Clips that could not be read are left out and counted as `skipped`.
    """

    default_prefix = 'alignment'

    def __init__(self) -> None:
        # 'gpu' names MMEngine's collection by collectives, which gloo does on a CPU too.
        super().__init__(collect_device='gpu')

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep one batch of probabilities."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[Mapping[str, Any]]) -> dict[str, float]:
        """Figures over all clips that could be read."""
        read = [row for row in results if row['valid']]
        if not read:
            raise UserError(f'none of the {len(results)} clips of the evaluation could be read; see the causes above.')
        probability = {kind: torch.stack([row[kind] for row in read]) for kind in ('aligned', *WRONG)}
        if not probability['aligned'].isfinite().all() or not probability['shifted'].isfinite().all():
            raise UserError(
                'the classifier gives probabilities that are not finite: training has diverged; lower the learning rate.'
            )
        figures = alignment_figures(probability, read[0]['levels'])
        return figures | {'N': float(len(read)), 'skipped': float(len(results) - len(read))}
