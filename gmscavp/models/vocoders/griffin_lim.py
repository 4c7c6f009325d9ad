"""Griffin-Lim: phases by iteration, nothing to train."""

import torch
from torch import Tensor
from torch.nn import functional as F

from gmscavp.compat import torchaudio
from gmscavp.errors import UserError
from gmscavp.models.vocoders.base import Vocoder
from gmscavp.models.vocoders.magnitudes import (
    band_weights,
    corrected,
    demand_settings,
    level_of,
    mel_filters,
    mel_magnitudes,
)
from gmscavp.registry import VOCODERS


@VOCODERS.register_module()
class GriffinLim(Vocoder):
    """Magnitudes that filter to the mel, phases by the fast Griffin-Lim algorithm (Perraudin et al. 2013).

    iterations: of the phases. momentum: from 0, the plain algorithm, to below 1. corrections: of the magnitudes, which
    begin at the level of the bands. The phases start at zero, so that one mel always gives one sound. The rest: see
    Vocoder.
    """

    filters: Tensor
    weights: Tensor

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop: int,
        bands: int,
        f_min: float,
        f_max: float,
        iterations: int = 32,
        momentum: float = 0.99,
        corrections: int = 16,
    ) -> None:
        super().__init__()
        demand_settings('GriffinLim', sample_rate, n_fft, hop, bands, f_min, f_max)
        if iterations < 1 or corrections < 0 or not 0 <= momentum < 1:
            raise UserError(
                f'GriffinLim: iterations must be 1 or more, corrections 0 or more and momentum from 0 to below 1; '
                f'got {iterations}, {corrections} and {momentum:g}.'
            )
        self.n_fft, self.hop, self.corrections = n_fft, hop, corrections
        self.iterations, self.momentum = iterations, momentum
        filters = mel_filters(sample_rate, n_fft, bands, f_min, f_max)
        self.register_buffer('filters', filters, persistent=False)
        self.register_buffer('weights', band_weights(filters), persistent=False)
        self.register_buffer('window', torch.hann_window(n_fft), persistent=False)

    @torch.autocast('cuda', enabled=False)
    @torch.autocast('cpu', enabled=False)
    def forward(self, mel: Tensor) -> Tensor:
        """(B, 1, F, M) in [0, 1] -> (B, F * hop) waveform in [-1, 1]."""
        bands = mel_magnitudes(mel.float()[:, 0])
        level = level_of(bands, self.filters, self.weights)
        magnitudes = corrected(level, bands, self.filters, self.weights, self.corrections)
        frames = magnitudes.shape[1]
        # The window in the middle of the last sample has no frame of its own, and torchaudio mirrors half a window.
        padded = max(frames + 1, self.n_fft // self.hop + 2)
        spectrum = F.pad(magnitudes.mT, (0, padded - frames), mode='replicate')
        audio = torchaudio.functional.griffinlim(
            spectrum,
            self.window,
            self.n_fft,
            self.hop,
            self.n_fft,
            power=1.0,
            n_iter=self.iterations,
            momentum=self.momentum,
            length=(padded - 1) * self.hop,
            rand_init=False,
        )
        return audio[:, : frames * self.hop].clamp(-1, 1)
