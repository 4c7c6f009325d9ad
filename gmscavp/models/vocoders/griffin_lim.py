"""Griffin-Lim: phases by iteration, nothing to train."""

import torch
from torch import Tensor
from torch.nn import functional as F

from gmscavp.compat import torchaudio
from gmscavp.errors import UserError
from gmscavp.models.vocoders.base import Vocoder
from gmscavp.models.vocoders.magnitudes import demand_settings, mel_filters, mel_magnitudes, spectrum_of
from gmscavp.registry import VOCODERS


@VOCODERS.register_module()
class GriffinLim(Vocoder):
    """Magnitudes by non-negative least squares, phases by the fast Griffin-Lim algorithm (Perraudin et al. 2013).

    iterations: of the phases. momentum: from 0, the plain algorithm, to below 1. spectrum_iterations: of the magnitudes.
    The phases start at zero, so that one mel always gives one sound. The rest: see Vocoder.
    """

    filters: Tensor

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
        spectrum_iterations: int = 50,
    ) -> None:
        super().__init__()
        demand_settings('GriffinLim', sample_rate, n_fft, hop, bands, f_min, f_max)
        if iterations < 1 or spectrum_iterations < 0 or not 0 <= momentum < 1:
            raise UserError(
                f'GriffinLim: iterations must be 1 or more, spectrum_iterations 0 or more and momentum from 0 to below 1; '
                f'got {iterations}, {spectrum_iterations} and {momentum:g}.'
            )
        self.n_fft, self.hop, self.spectrum_iterations = n_fft, hop, spectrum_iterations
        self.iterations, self.momentum = iterations, momentum
        self.register_buffer('filters', mel_filters(sample_rate, n_fft, bands, f_min, f_max), persistent=False)
        self.register_buffer('window', torch.hann_window(n_fft), persistent=False)

    @torch.autocast('cuda', enabled=False)
    @torch.autocast('cpu', enabled=False)
    def forward(self, mel: Tensor) -> Tensor:
        """(B, 1, F, M) in [0, 1] -> (B, F * hop) waveform in [-1, 1]."""
        magnitudes = spectrum_of(mel_magnitudes(mel.float()[:, 0]), self.filters, self.spectrum_iterations)
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
