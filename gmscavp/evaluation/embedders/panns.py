"""Cnn14 of PANNs as judge: FD, KL and IS as the field reports them of AudioSet's 527 classes."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from gmscavp import compat
from gmscavp.errors import UserError
from gmscavp.evaluation.embedders.base import Embedder, at_rate, released_weights
from gmscavp.registry import BACKBONES, EMBEDDERS

# Released name -> that of the backbone.
_NAMES = (
    (re.compile(r'^bn0\.'), 'norm.'),
    (re.compile(r'^conv_block(\d)\.conv'), r'blocks.\1.conv'),
    (re.compile(r'^conv_block(\d)\.bn'), r'blocks.\1.norm'),
)
_FILTERS = 'logmel_extractor.melW'
_WHAT = 'Cnn14_mAP=0.431.pth or Cnn14_16k_mAP=0.438.pth of PANNs (zenodo.org/records/3987831)'
# FFT lengths of the released nets -> their sample rates, in Hz; the hop is a hundredth of a second.
_RATES = {1024: 32000, 512: 16000, 256: 8000}
_LEAST_S = 0.4


@EMBEDDERS.register_module()
class PANNs(Embedder):
    """Cnn14 as PANNs releases it: 2048 features, the scores of 527 classes of AudioSet. Kong et al. 2020.

    weights: the released file as it is; its mel filters say at which rate the net hears (32, 16 or 8 kHz).
    """

    def __init__(self, weights: str) -> None:
        released = released_weights(weights, 'PANNs', _WHAT)
        needed = {_FILTERS, 'fc1.weight', 'fc1.bias', 'fc_audioset.weight', 'fc_audioset.bias'}
        if not needed <= released.keys():
            missing = ', '.join(sorted(needed - released.keys()))
            raise UserError(f'{weights} lacks {missing}; PANNs takes the released file as it is: {_WHAT}.')
        self.filters = released[_FILTERS].float()
        self.n_fft = 2 * (len(self.filters) - 1)
        if self.n_fft not in _RATES:
            raise UserError(
                f'{weights} has mel filters of shape {tuple(self.filters.shape)}, none of Cnn14; give {_WHAT}.'
            )
        self.sample_rate = _RATES[self.n_fft]
        self.backbone = _backbone(weights, released, self.filters.shape[1])
        self.summarise, self.classify = (_linear(released, name) for name in ('fc1', 'fc_audioset'))

    def to(self, device: str | torch.device) -> None:
        """Move the network."""
        self.filters = self.filters.to(device)
        self.backbone.to(device)
        self.summarise.to(device)
        self.classify.to(device)

    @torch.no_grad()
    def __call__(self, waveform: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
        """(B, S) -> features (B, 2048), class scores (B, 527)."""
        sound = at_rate(
            waveform.to(self.filters.device), sample_rate, self.sample_rate, round(_LEAST_S * self.sample_rate)
        )
        x = self.backbone(self._log_mel(sound))[-1].mean(dim=2)
        features = self.summarise(x.amax(dim=1) + x.mean(dim=1)).relu()
        return features.float().cpu(), self.classify(features).float().cpu()

    def _log_mel(self, waveform: Tensor) -> Tensor:
        """(B, S) -> (B, 1, F, bands) in dB, by the filters of the file."""
        window = torch.hann_window(self.n_fft, device=waveform.device)
        spectrum = torch.stft(
            waveform, self.n_fft, self.sample_rate // 100, window=window, pad_mode='reflect', return_complex=True
        )
        mel = spectrum.abs().square().transpose(1, 2) @ self.filters
        return 10 * torch.log10(mel.clamp(min=1e-10))[:, None]


def _backbone(file: str, released: dict[str, Tensor], bands: int) -> Any:
    """The convolutional part with its released weights."""
    own = {}
    for name, value in released.items():
        for pattern, replacement in _NAMES:
            if pattern.match(name):
                # Blocks are counted from 1 in the file.
                ours = re.sub(r'^blocks\.(\d)', _one_less, pattern.sub(replacement, name))
                own[ours] = value
    width, pools = len(released['fc1.bias']) // 32, [(2, 2)] * 5 + [(1, 1)]
    backbone = BACKBONES.build(dict(type='Cnn14', bands=bands, pools=pools, summary=False, width=width))
    said = compat.differences(backbone.state_dict(), own)
    if said:
        raise UserError(f'{file} is no Cnn14: {said}; give {_WHAT}.')
    backbone.load_state_dict(own)
    return backbone.requires_grad_(False).eval()


def _one_less(found: re.Match[str]) -> str:
    return f'blocks.{int(found[1]) - 1}'


def _linear(released: dict[str, Tensor], name: str) -> nn.Linear:
    weight = released[f'{name}.weight']
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({part: released[f'{name}.{part}'] for part in ('weight', 'bias')})
    return layer.requires_grad_(False)
