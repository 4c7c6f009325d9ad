"""How near a vocoded sound is to the true one: distances of log-mels and of spectra, and their MMEngine adapter."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.registry import METRICS

MEL_RANGE_DB = 100.0
N_FFT, HOP = 1024, 256
FLOOR_DB = -80.0


def mel_distance(mel: Tensor, true_mel: Tensor) -> Tensor:
    """Mean absolute difference of log-mels in [0, 1], which hold 100 dB: (B, 1, F, M) twice -> (B,) dB."""
    return MEL_RANGE_DB * (mel - true_mel).abs().flatten(1).mean(1)


def log_spectral_distance(audio: Tensor, true_audio: Tensor, floor_db: float = FLOOR_DB) -> Tensor:
    """Root mean square over frequency of the difference of levels in dB, mean over frames: (B, S) twice -> (B,) dB.

    Gray and Markel 1976. Hann windows of N_FFT samples, HOP apart; levels, against a sine of full scale, count from
    floor_db up, so that what nobody hears in silence does not.
    """
    level, true_level = (_levels(x, floor_db) for x in (audio, true_audio))
    return (level - true_level).square().mean(1).sqrt().mean(1)


def _levels(audio: Tensor, floor_db: float) -> Tensor:
    """(B, S) -> (B, K, F) dB against a sine of full scale."""
    window = torch.hann_window(N_FFT, device=audio.device)
    spectrum = torch.stft(audio.float(), N_FFT, HOP, window=window, pad_mode='constant', return_complex=True).abs()
    return 20 * torch.log10((2 * spectrum / window.sum()).clamp(min=10 ** (floor_db / 20)))


@METRICS.register_module()
class VocodingMetric(BaseMetric):
    """Mel distance and log-spectral distance in dB, means over the clips that could be read; lower is better.

    Takes predictions with audio, true_audio (S,) and mel, true_mel (1, F, M). Clips that could not be read are left out
    and counted as `skipped`.
    """

    default_prefix = 'vocoding'

    def __init__(self) -> None:
        # See RetrievalMetric: MMEngine's name for collection by collectives.
        super().__init__(collect_device='gpu')

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the figures of one batch."""
        for clip in data_samples:
            figures = None
            if clip['valid']:
                figures = {
                    'mel_distance': float(mel_distance(clip['mel'][None], clip['true_mel'][None])),
                    'log_spectral_distance': float(
                        log_spectral_distance(clip['audio'][None], clip['true_audio'][None])
                    ),
                }
            self.results.append(figures)

    def compute_metrics(self, results: list[Mapping[str, float] | None]) -> dict[str, float]:
        """Figures over all clips that could be read."""
        read = [figures for figures in results if figures is not None]
        if not read:
            raise UserError(f'none of the {len(results)} clips of the evaluation could be read; see the causes above.')
        means = {name: sum(figures[name] for figures in read) / len(read) for name in read[0]}
        return means | {'clips': float(len(read)), 'skipped': float(len(results) - len(read))}
