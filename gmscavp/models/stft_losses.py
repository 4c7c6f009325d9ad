"""Losses between waveforms on their short-time spectra, at several resolutions. Pure functions."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Magnitudes below -100 dB of a sine of full scale under a window of 512 count as that.
FLOOR = 1e-3
RESOLUTIONS = ((512, 120), (1024, 250), (256, 50))
"""(n_fft, hop) in samples."""


def magnitudes(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """(B, S) -> (B, K, F), under a Hann window, never below FLOOR."""
    window = torch.hann_window(n_fft, device=audio.device)
    x = torch.stft(audio.float(), n_fft, hop, window=window, pad_mode='constant', return_complex=True)
    power = x.real.square() + x.imag.square()
    return power.clamp(min=FLOOR**2).sqrt()


def spectral_convergence(spectrum: Tensor, true: Tensor) -> Tensor:
    """||true - spectrum|| / ||true|| of each row, then the mean: (B, K, F) twice -> (). Arik et al. 2019."""
    difference = (true - spectrum).flatten(1).norm(dim=1)
    return (difference / true.flatten(1).norm(dim=1)).mean()


def log_magnitude_distance(spectrum: Tensor, true: Tensor) -> Tensor:
    """Mean absolute difference of natural logarithms: (B, K, F) twice -> (). Arik et al. 2019."""
    return (true.log() - spectrum.log()).abs().mean()


def multi_resolution(
    audio: Tensor, true_audio: Tensor, resolutions: Sequence[tuple[int, int]] = RESOLUTIONS
) -> tuple[Tensor, Tensor]:
    """Spectral convergence and log magnitude distance, means over resolutions (n_fft, hop): (B, S) twice -> (), ().

    Yamamoto et al. 2020 (Parallel WaveGAN), the multi-resolution STFT loss.
    """
    convergence, distance = [], []
    for n_fft, hop in resolutions:
        x, y = magnitudes(audio, n_fft, hop), magnitudes(true_audio, n_fft, hop)
        convergence.append(spectral_convergence(x, y))
        distance.append(log_magnitude_distance(x, y))
    return torch.stack(convergence).mean(), torch.stack(distance).mean()
