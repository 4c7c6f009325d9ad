"""How well a codec gives back what it was given: mean absolute error and peak signal-to-noise ratio."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.registry import METRICS

BEST_DB = 100.0
"""What a reconstruction without any error counts as."""


def signal_to_noise_db(mean_square: Tensor, signal_range: float) -> Tensor:
    """Peak signal-to-noise ratio, 20 log10(range) - 10 log10(mean square error): (...) -> (...), at most BEST_DB."""
    floor = signal_range**2 * 10 ** (-BEST_DB / 10)
    return 10 * torch.log10(signal_range**2 / mean_square.clamp(min=floor))


@METRICS.register_module()
class ReconstructionMetric(BaseMetric):
    """psnr: peak signal-to-noise ratio in dB, of every clip, then the mean over clips. mae: mean absolute error.

    mae is a share of the signal's range: 0.01 is 1 of the 100 dB of a log-mel, or 2.55 of 255 levels of a picture. Clips
    that could not be read are left out and counted as `skipped`. Only these figures are kept, never the signals.
    """

    default_prefix = 'reconstruction'

    def __init__(self) -> None:
        # 'gpu' names MMEngine's collection by collectives, which gloo does on a CPU too.
        super().__init__(collect_device='gpu')

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Errors of one batch of clips: signal, reconstruction, signal_range, valid."""
        for clip in data_samples:
            error, signal_range = clip['reconstruction'] - clip['signal'], clip['signal_range']
            psnr = signal_to_noise_db(error.square().mean(), signal_range)
            mae = error.abs().mean() / signal_range
            self.results.append(dict(valid=clip['valid'], psnr=float(psnr), mae=float(mae)))

    def compute_metrics(self, results: list[Mapping[str, Any]]) -> dict[str, float]:
        """Means over all clips that could be read."""
        figures = torch.tensor([[clip['psnr'], clip['mae']] for clip in results if clip['valid']], dtype=torch.float64)
        if not len(figures):
            raise UserError(f'none of the {len(results)} clips of the evaluation could be read; see the causes above.')
        if not figures.isfinite().all():
            raise UserError(
                'the codec gives values that are not finite: training has diverged; lower the learning rate.'
            )
        psnr, mae = figures.mean(0).tolist()
        return {'psnr': psnr, 'mae': mae, 'skipped': len(results) - len(figures)}
