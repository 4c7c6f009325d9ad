"""From the log-mel back to magnitudes: what preprocessor.LogMel does to them, undone. Pure functions."""

import torch
from torch import Tensor

from gmscavp.compat import torchaudio
from gmscavp.errors import UserError

# LogMel: (20 log10(mel) - 20 + 100) / 100.
_SCALE, _OFFSET = 5.0, -4.0
# Magnitudes below it say nothing.
_FAINT = 1e-8


def mel_filters(sample_rate: int, n_fft: int, bands: int, f_min: float, f_max: float) -> Tensor:
    """The Slaney filters of the log-mel: (n_fft // 2 + 1, M). Frequencies in Hz."""
    return torchaudio.functional.melscale_fbanks(
        n_fft // 2 + 1, f_min, f_max, bands, sample_rate, norm='slaney', mel_scale='slaney'
    )


def mel_magnitudes(mel: Tensor) -> Tensor:
    """Log-mel in [0, 1] -> what the filters gave, of any shape. 0 stands for 1e-4 or less, and is taken for silence."""
    mel = mel.clamp(0, 1)
    return torch.where(mel > 0, 10 ** (_SCALE * mel + _OFFSET), 0.0)


def level_of(bands: Tensor, filters: Tensor, weights: Tensor) -> Tensor:
    """The smooth spectrum that the bands' levels draw: (..., M) -> (..., K). weights: band_weights."""
    return (bands / filters.sum(0).clamp(min=_FAINT)) @ weights.T


def corrected(spectrum: Tensor, bands: Tensor, filters: Tensor, weights: Tensor, times: int) -> Tensor:
    """Scale a spectrum, `times` times, by what each band lacks, so that it keeps its form and filters to the bands.

    (..., K), (..., M) -> (..., K). Multiplicative updates as of Lee and Seung 2001, with each bin's nearest bands. They
    leave a smooth spectrum smooth; least squares gives lines between which nothing is (docs/vocoders.md has figures).
    """
    for _ in range(times):
        ratio = bands / (spectrum @ filters).clamp(min=_FAINT)
        spectrum = spectrum * (ratio @ weights.T)
    return spectrum


def band_weights(filters: Tensor) -> Tensor:
    """Weights that read a spectrum's level off the bands, rows of sum 1: (K, M).

    Between the peaks of two filters both count by their distance, beyond the outermost ones that one alone.
    """
    peaks = filters.argmax(dim=0)
    bins = torch.arange(len(filters), device=filters.device)
    weights = torch.zeros_like(filters)
    right = torch.searchsorted(peaks, bins).clamp(1, len(peaks) - 1)
    share = ((bins - peaks[right - 1]) / (peaks[right] - peaks[right - 1]).clamp(min=1)).clamp(0, 1).to(filters.dtype)
    weights[bins, right] = share
    weights[bins, right - 1] += 1 - share
    return weights


def demand_settings(name: str, sample_rate: int, n_fft: int, hop: int, bands: int, f_min: float, f_max: float) -> None:
    """UserError unless a sound can be rebuilt from a log-mel of these settings."""
    if not 0 <= f_min < f_max <= sample_rate / 2:
        raise UserError(
            f'{name}: f_min {f_min:g} and f_max {f_max:g} Hz must rise and lie within half of sample_rate {sample_rate}.'
        )
    if bands < 2 or n_fft < 4 or n_fft % 2:
        raise UserError(f'{name}: bands must be 2 or more and n_fft an even number; got {bands} and {n_fft}.')
    if not 1 <= hop <= n_fft // 2:
        raise UserError(
            f'{name}: windows of n_fft {n_fft} must overlap by half for sound to be rebuilt; lower hop {hop} to '
            f'{n_fft // 2} or less.'
        )
