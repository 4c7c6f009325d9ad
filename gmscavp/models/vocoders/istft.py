"""A network over mel frames that predicts a short-time spectrum, turned into sound by one inverse transform."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.vocoders.base import Vocoder
from gmscavp.models.vocoders.magnitudes import band_weights, demand_settings, mel_filters, mel_magnitudes
from gmscavp.registry import VOCODERS

_KERNEL = 7
# LogMel says 1e-4 of everything softer.
_SILENCE = 1e-4
# Of log magnitude against the level of the bands, in nepers: -87 and +43 dB.
_SOFTEST, _LOUDEST = -10.0, 5.0


class ConvNextBlock(nn.Module):
    """Depthwise convolution over time, then a perceptron at every frame, added on: (B, C, F) -> (B, C, F).

    Liu et al. 2022 in one dimension, as Siuzdak 2023 (Vocos) uses it. scale: of what is added, at the beginning.
    """

    def __init__(self, width: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F) -> (B, C, F)."""
        return x + (self.scale * self.perceptron(self.norm(self.mix(x).mT))).mT


@VOCODERS.register_module()
class IstftVocoder(Vocoder):
    """ConvNeXt blocks over mel frames, a head for log magnitude and phase, an inverse STFT (Siuzdak 2023, Vocos).

    width: channels. depth: blocks. hidden: channels inside a block, three times the width by default. Magnitudes are
    predicted against the level of the bands, so that silence stays silent whatever the weights. Phases are predicted
    against a tone in the middle of each bin, whose phase runs on from frame to frame: without a clock equal frames would
    give a buzz at the rate of the frames. The rest: see Vocoder.
    context: frames to either side that a frame's sound depends on. period: frames after which the clock repeats.
    """

    weights: Tensor
    window: Tensor

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop: int,
        bands: int,
        f_min: float,
        f_max: float,
        width: int = 128,
        depth: int = 4,
        hidden: int | None = None,
        clock: bool = True,
        refinements: int = 0,
    ) -> None:
        super().__init__()
        demand_settings('IstftVocoder', sample_rate, n_fft, hop, bands, f_min, f_max)
        if min(width, depth, hidden or 1) < 1:
            raise UserError(f'IstftVocoder: width, depth and hidden must be 1 or more; got {width}, {depth}, {hidden}.')
        self.n_fft, self.hop, self.bands, self.clock = n_fft, hop, bands, clock
        self.refinements = refinements
        self.context = (depth + 1) * (_KERNEL // 2) + math.ceil(n_fft / 2 / hop)
        self.period = n_fft // math.gcd(n_fft, hop)
        self.embed = nn.Conv1d(bands, width, _KERNEL, padding=_KERNEL // 2)
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(ConvNextBlock(width, hidden or 3 * width, 1 / depth) for _ in range(depth)))
        self.head = nn.Linear(width, n_fft + 2)
        with torch.no_grad():
            # Magnitudes as the bands say, phases that differ from bin to bin: equal ones would be a click a frame.
            self.head.weight.mul_(0.3)
            self.head.bias[: n_fft // 2 + 1].zero_()
            self.head.bias[n_fft // 2 + 1 :].uniform_(-math.pi, math.pi)
        filters = mel_filters(sample_rate, n_fft, bands, f_min, f_max)
        self.register_buffer('weights', (band_weights(filters) / filters.sum(0).clamp(min=1e-12)).T, persistent=False)
        self.register_buffer('window', torch.hann_window(n_fft), persistent=False)

    def forward(self, mel: Tensor, first: int = 0) -> Tensor:
        """(B, 1, F, M) in [0, 1] -> (B, F * hop) waveform in [-1, 1]. first: number of the first frame in a longer mel."""
        frames = mel.shape[2]
        # The window in the middle of the last sample has no frame of its own.
        padded = F.pad(mel[:, 0].mT, (0, 1), mode='replicate').mT
        spectrum = self._spectrum(padded, first)
        magnitude = spectrum.abs() if self.refinements else None
        audio = torch.istft(spectrum, self.n_fft, self.hop, window=self.window, length=frames * self.hop)
        for _ in range(self.refinements):
            rebuilt = torch.stft(audio, self.n_fft, self.hop, window=self.window, pad_mode='constant', return_complex=True)
            power = rebuilt.real.square() + rebuilt.imag.square()
            spectrum = rebuilt * (magnitude / (power + 1e-8).sqrt())
            audio = torch.istft(spectrum, self.n_fft, self.hop, window=self.window, length=frames * self.hop)
        return audio.clamp(-1, 1)

    def _spectrum(self, mel: Tensor, first: int) -> Tensor:
        """(B, F, M) -> (B, K, F) complex."""
        x = self.embed(mel.mT)
        x = self.blocks(self.norm_in(x.mT).mT)
        log_gain, phase = self.head(self.norm_out(x.mT)).float().mT.chunk(2, dim=1)
        audible = (mel_magnitudes(mel.float()) - _SILENCE).clamp(min=0)
        magnitude = (audible @ self.weights).mT * log_gain.clamp(_SOFTEST, _LOUDEST).exp()
        if self.clock:
            phase = phase + self._running_phase(first, mel.shape[1])
        return torch.polar(magnitude, phase)

    def _running_phase(self, first: int, frames: int) -> Tensor:
        """2 pi k hop f of bin f = 0, 1 / n_fft, ... at frame k: (K, F), within a turn."""
        k = torch.arange(first, first + frames, device=self.window.device)
        bins = torch.arange(self.n_fft // 2 + 1, device=self.window.device)
        return 2 * math.pi / self.n_fft * (bins[:, None] * (k * self.hop % self.n_fft) % self.n_fft)
