"""Losses between waveforms on their short-time spectra, at several resolutions. Pure functions."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Against a sine of full scale, -80 dB: magnitudes below it count as that.
FLOOR = 1e-4
_LEAST = 1e-3
RESOLUTIONS = ((512, 120), (1024, 250), (256, 50))
"""(n_fft, hop) in samples."""


def magnitudes(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """(B, S) -> (B, K, F), under a Hann window, never below FLOOR of a sine of full scale."""
    window = torch.hann_window(n_fft, device=audio.device)
    x = torch.stft(audio.float(), n_fft, hop, window=window, pad_mode='constant', return_complex=True)
    power = x.real.square() + x.imag.square()
    return power.clamp(min=(FLOOR * n_fft / 4) ** 2).sqrt()


def spectral_convergence(spectrum: Tensor, true: Tensor) -> Tensor:
    """||true - spectrum|| / ||true|| of each row, then the mean: (B, K, F) twice -> (). Arik et al. 2019."""
    difference = (true - spectrum).flatten(1).norm(dim=1)
    return (difference / true.flatten(1).norm(dim=1)).mean()


def log_magnitude_distance(spectrum: Tensor, true: Tensor) -> Tensor:
    """Mean absolute difference of natural logarithms: (B, K, F) twice -> (). Arik et al. 2019."""
    return (true.log() - spectrum.log()).abs().mean()


def log_spectral_distance(spectrum: Tensor, true: Tensor) -> Tensor:
    """Root mean square over frequency of the difference of natural logarithms, mean over frames: (B, K, F) twice -> ().

    Gray and Markel 1976. Unlike the mean absolute difference it does not put up with gaps between lines.
    """
    # The root has no gradient at zero.
    return ((true.log() - spectrum.log()).square().mean(1) + _LEAST**2).sqrt().mean() - _LEAST


def multi_resolution(
    audio: Tensor, true_audio: Tensor, resolutions: Sequence[tuple[int, int]] = RESOLUTIONS
) -> tuple[Tensor, Tensor, Tensor]:
    """The three distances above, each a mean over resolutions (n_fft, hop): (B, S) twice -> (), (), ().

    The first two are the multi-resolution STFT loss of Yamamoto et al. 2020 (Parallel WaveGAN).
    """
    distances = (spectral_convergence, log_magnitude_distance, log_spectral_distance)
    pairs = [(magnitudes(audio, *each), magnitudes(true_audio, *each)) for each in resolutions]
    first, second, third = (torch.stack([distance(*pair) for pair in pairs]).mean() for distance in distances)
    return first, second, third
