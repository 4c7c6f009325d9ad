"""A network over mel frames that predicts a short-time spectrum, turned into sound by one inverse transform."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

_KERNEL = 7
# Of log magnitude against the level of the bands, in nepers: -87 and +43 dB.
_SOFTEST, _LOUDEST = -10.0, 5.0
# Of the refinements: the fast algorithm of Perraudin et al. 2013.
_MOMENTUM = 0.5
# Power below which a phase says nothing.
_FAINT = 1e-8


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
    predicted against the level of the bands, so that silence stays silent whatever the weights, and then multiplied
    `corrections` times by how much the bands of the mel lack. clock: phases are predicted against a tone in the middle of
    each bin, whose phase runs on from frame to frame; without it equal frames give a buzz at the rate of the frames.
    refinements: after the network, so many iterations of Griffin-Lim, which training sees through (Masuyama et al. 2019).
    Neither number is bound to the weights: a few refinements do in training, more in use bring sound nearer. The rest: see
    Vocoder.
    context: frames to either side that the sound of a frame depends on. in_pieces vocodes what does not fit in memory.
    """

    filters: Tensor
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
        corrections: int = 8,
        refinements: int = 24,
    ) -> None:
        super().__init__()
        demand_settings('IstftVocoder', sample_rate, n_fft, hop, bands, f_min, f_max)
        if min(width, depth, hidden or 1) < 1:
            raise UserError(f'IstftVocoder: width, depth and hidden must be 1 or more; got {width}, {depth}, {hidden}.')
        if min(corrections, refinements) < 0:
            raise UserError(
                f'IstftVocoder: corrections and refinements must be 0 or more; got {corrections} and {refinements}.'
            )
        self.n_fft, self.hop, self.clock = n_fft, hop, clock
        self.corrections, self.refinements = corrections, refinements
        self.context = (depth + 1) * (_KERNEL // 2) + math.ceil((refinements + 0.5) * n_fft / hop)
        self.embed = nn.Conv1d(bands, width, _KERNEL, padding=_KERNEL // 2)
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(ConvNextBlock(width, hidden or 3 * width, 1 / depth) for _ in range(depth)))
        self.head = nn.Linear(width, n_fft + 2)
        with torch.no_grad():
            # Magnitudes as the bands say, phases that differ from bin to bin: equal ones would be a click a frame.
            self.head.weight.mul_(0.05)
            self.head.bias[: n_fft // 2 + 1].zero_()
            self.head.bias[n_fft // 2 + 1 :].uniform_(-math.pi, math.pi)
        filters = mel_filters(sample_rate, n_fft, bands, f_min, f_max)
        self.register_buffer('filters', filters, persistent=False)
        self.register_buffer('weights', band_weights(filters), persistent=False)
        self.register_buffer('window', torch.hann_window(n_fft), persistent=False)

    def forward(self, mel: Tensor, first: int = 0) -> Tensor:
        """(B, 1, F, M) in [0, 1] -> (B, F * hop) waveform in [-1, 1]. first: number of the first frame in a longer mel."""
        frames = mel.shape[2]
        # The window in the middle of the last sample has no frame of its own.
        padded = F.pad(mel[:, 0].mT, (0, 1), mode='replicate').mT
        log_gain, phase = self._predicted(padded)
        return self._sound(padded, log_gain.float(), phase.float(), first)[:, : frames * self.hop].clamp(-1, 1)

    def in_pieces(self, mel: Tensor, frames: int) -> Tensor:
        """The same as forward, `frames` at a time, in memory that does not grow with the mel but for the waveform."""
        total, hop = mel.shape[2], self.hop
        pieces = []
        for start in range(0, total, frames):
            first, end = max(0, start - self.context), min(total, start + frames)
            sound = self(mel[:, :, first : end + self.context], first)
            pieces.append(sound[:, (start - first) * hop : (end - first) * hop])
        return torch.cat(pieces, dim=1)

    def _predicted(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, M) -> log magnitude against the level of the bands, phase; each (B, K, F)."""
        x = self.embed(mel.mT)
        x = self.blocks(self.norm_in(x.mT).mT)
        log_gain, phase = self.head(self.norm_out(x.mT)).mT.chunk(2, dim=1)
        return log_gain, phase

    @torch.autocast('cuda', enabled=False)
    @torch.autocast('cpu', enabled=False)
    def _sound(self, mel: Tensor, log_gain: Tensor, phase: Tensor, first: int) -> Tensor:
        """(B, F, M), (B, K, F), (B, K, F) -> (B, (F - 1) * hop)."""
        magnitude = self._magnitude(mel_magnitudes(mel.float()), log_gain.mT).mT
        if self.clock:
            phase = phase + self._running_phase(first, mel.shape[1])
        audio = self._inverse(torch.polar(magnitude, phase))
        before: Tensor | float = 0.0
        for _ in range(self.refinements):
            now = torch.stft(audio, self.n_fft, self.hop, window=self.window, pad_mode='constant', return_complex=True)
            x, before = now - _MOMENTUM * before, now
            # Not abs(), whose gradient has no bound near zero.
            power = x.real.square() + x.imag.square() + _FAINT
            audio = self._inverse(x * (magnitude * power.rsqrt()))
        return audio

    def _magnitude(self, bands: Tensor, log_gain: Tensor) -> Tensor:
        """(B, F, M), (B, F, K) -> (B, F, K), whose filtered magnitudes are nearly those of the bands."""
        level = level_of(bands, self.filters, self.weights) * log_gain.clamp(_SOFTEST, _LOUDEST).exp()
        return corrected(level, bands, self.filters, self.weights, self.corrections)

    def _inverse(self, spectrum: Tensor) -> Tensor:
        """(B, K, F) complex -> (B, (F - 1) * hop)."""
        return torch.istft(
            spectrum, self.n_fft, self.hop, window=self.window, length=(spectrum.shape[2] - 1) * self.hop
        )

    def _running_phase(self, first: int, frames: int) -> Tensor:
        """2 pi k hop f of bin f = 0, 1 / n_fft, ... at frame k: (K, F), within a turn."""
        k = torch.arange(first, first + frames, device=self.window.device)
        bins = torch.arange(self.n_fft // 2 + 1, device=self.window.device)
        return 2 * math.pi / self.n_fft * (bins[:, None] * (k * self.hop % self.n_fft) % self.n_fft)
