"""From what the data set gives to what the backbones take, on the device: uint8 to float, waveform to log-mel."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from gmscavp.compat import torchaudio
from gmscavp.registry import MODELS, TRANSFORMS


class LogMel(nn.Module):
    """Log-mel spectrogram in [0, 1] as CAVP computes it: magnitudes, Slaney filters, 100 dB of range.

    (B, S) waveform in [-1, 1] -> (B, 1, F, bands) with F = S // hop. Units: sample_rate, f_min, f_max in Hz; n_fft, hop
    in samples. Source: the released code of Diff-Foley (Luo et al. 2023).
    """

    def __init__(self, sample_rate: int, n_fft: int, hop: int, bands: int, f_min: float, f_max: float) -> None:
        super().__init__()
        self.hop = hop
        # What a vocoder must know to undo it.
        self.settings = dict(sample_rate=sample_rate, n_fft=n_fft, hop=hop, bands=bands, f_min=f_min, f_max=f_max)
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate,
            n_fft=n_fft,
            hop_length=hop,
            f_min=f_min,
            f_max=f_max,
            n_mels=bands,
            power=1.0,
            pad_mode='constant',
            norm='slaney',
            mel_scale='slaney',
        )

    @torch.autocast('cuda', enabled=False)
    @torch.autocast('cpu', enabled=False)
    def forward(self, audio: Tensor) -> Tensor:
        """(B, S) -> (B, 1, F, bands)."""
        mel = self.mel(audio.float())
        decibel = 20 * torch.log10(mel.clamp(min=1e-5)) - 20
        # Frames are centred, so that S samples give one frame more than S // hop.
        frames = audio.shape[-1] // self.hop
        return ((decibel + 100) / 100).clamp(0, 1)[..., :frames].transpose(1, 2)[:, None]


@MODELS.register_module()
class ClipPreprocessor(BaseDataPreprocessor):
    """uint8 video to float in [-1, 1], waveform to log-mel; batches move to the device first.

    video (B, T, 3, H, W) uint8 -> (B, 3, T, H, W); audio (B, S) -> mel (B, 1, F, bands) in [0, 1], F = S // hop. Clips of
    N_T segments, (B, N_T, T, 3, H, W) and (B, N_T, S), become B N_T rows, a clip's segments in succession, and the entry
    segments=N_T. Other entries of the batch pass through. mel_transforms work on the mel in training only, for example
    SpecMask. keep_audio: the waveform stays in the batch too. Defaults are CAVP's settings.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 1024,
        hop: int = 250,
        bands: int = 128,
        f_min: float = 125.0,
        f_max: float = 7600.0,
        mel_transforms: Sequence[Mapping[str, Any]] = (),
        keep_audio: bool = False,
    ) -> None:
        super().__init__(non_blocking=True)
        self.keep_audio = keep_audio
        self.log_mel = LogMel(sample_rate, n_fft, hop, bands, f_min, f_max)
        self.mel_transforms = nn.ModuleList(TRANSFORMS.build(dict(transform)) for transform in mel_transforms)

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """The batch of a data loader -> the arguments of the model."""
        batch = dict(self.cast_data(data))
        if batch['audio'].dim() == 3:
            batch['segments'] = batch['audio'].shape[1]
            batch['video'], batch['audio'] = (batch[key].flatten(0, 1) for key in ('video', 'audio'))
        batch['video'] = batch['video'].transpose(1, 2).float() / 127.5 - 1
        batch['mel'] = self.log_mel(batch['audio'])
        if not self.keep_audio:
            del batch['audio']
        if training:
            for transform in self.mel_transforms:
                batch['mel'] = transform(batch['mel'])
        return batch
