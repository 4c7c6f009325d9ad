"""Training a vocoder: from the log-mel of a sound back to that sound."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models import stft_losses
from gmscavp.models.preprocessor import LogMel
from gmscavp.models.spectrogram_discriminator import discrimination_loss, feature_distance, pretence_loss
from gmscavp.registry import MODELS, VOCODERS
from gmscavp.structures import Losses

GENERATING, DISCRIMINATING = 'vocoder', 'discriminator'


@MODELS.register_module()
class SoundPreprocessor(BaseDataPreprocessor):
    """Sound alone: audio (B, S) and its mel (B, 1, F, bands) in [0, 1], F = S // hop. The video stays behind.

    The settings are ClipPreprocessor's and must be those of the model that the vocoder is for.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 1024,
        hop: int = 250,
        bands: int = 128,
        f_min: float = 125.0,
        f_max: float = 7600.0,
    ) -> None:
        super().__init__(non_blocking=True)
        self.log_mel = LogMel(sample_rate, n_fft, hop, bands, f_min, f_max)

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """The batch of a data loader -> the arguments of the model. Segments of a clip become rows."""
        batch = dict(self.cast_data({key: value for key, value in data.items() if key != 'video'}))
        audio = batch['audio'].float()
        batch['audio'] = audio.flatten(0, 1) if audio.dim() == 3 else audio
        batch['mel'] = self.log_mel(batch['audio'])
        return batch


@MODELS.register_module()
class VocoderTraining(BaseModel):
    """Trains a vocoder on random windows of the clips; its weights are those of the part `vocoder`.

    window_frames: frames of mel in a window. windows_per_clip: of a clip that was read, in one batch. convergence_weight,
    log_magnitude_weight: of the multi-resolution STFT loss, log_spectral_weight: of the log-spectral distance (all three in
    stft_losses), over `resolutions` (n_fft, hop). mel_weight: of the mean absolute difference of log-mels in [0, 1]. A
    weight of 0 leaves a term out. discriminator: a part that tells true sound from vocoded
    (SpectrogramDiscriminator); with it, adversarial_weight and feature_weight count, and every part has an optimiser of
    its own (engine.optim_parts).
    """

    def __init__(
        self,
        data_preprocessor: Mapping[str, Any],
        vocoder: Mapping[str, Any],
        window_frames: int = 32,
        windows_per_clip: int = 1,
        convergence_weight: float = 0.5,
        log_magnitude_weight: float = 0.0,
        log_spectral_weight: float = 4.0,
        mel_weight: float = 20.0,
        resolutions: Sequence[tuple[int, int]] = stft_losses.RESOLUTIONS,
        discriminator: Mapping[str, Any] | None = None,
        adversarial_weight: float = 1.0,
        feature_weight: float = 2.0,
    ) -> None:
        super().__init__(MODELS.build(dict(data_preprocessor)))
        self.vocoder = VOCODERS.build(dict(vocoder), default_args=dict(self.log_mel.settings))
        if not any(parameter.requires_grad for parameter in self.vocoder.parameters()):
            raise UserError(f'{type(self.vocoder).__name__} has nothing to train; use it as it is.')
        self.discriminator = MODELS.build(dict(discriminator)) if discriminator else None
        _demand_windows(window_frames, self.log_mel.settings, resolutions)
        if windows_per_clip < 1:
            raise UserError(f'VocoderTraining: windows_per_clip must be 1 or more, not {windows_per_clip}.')
        self.window_frames, self.windows_per_clip, self.resolutions = window_frames, windows_per_clip, resolutions
        self.convergence_weight, self.log_magnitude_weight = convergence_weight, log_magnitude_weight
        self.log_spectral_weight, self.mel_weight = log_spectral_weight, mel_weight
        self.adversarial_weight, self.feature_weight = adversarial_weight, feature_weight

    @property
    def log_mel(self) -> LogMel:
        """The preprocessor's, so that its filters stand in the checkpoint once."""
        return self.data_preprocessor.log_mel

    def windows(self, audio: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Random windows of every clip: (B, S), (B, 1, F, M) -> (N, W * hop), (N, 1, W, M). Short clips are filled up.

        The mel is cut out of the clip's own, so that its first and last frames hold what lies beyond the window too.
        """
        hop, length, frames = self.log_mel.hop, self.window_frames, mel.shape[2]
        lacking = max(0, length - frames)
        mel = F.pad(mel[:, 0], (0, 0, 0, lacking))
        audio = F.pad(audio[:, : frames * hop], (0, lacking * hop))
        rows = torch.arange(len(mel), device=mel.device).repeat_interleave(self.windows_per_clip)[:, None]
        starts = torch.randint(frames + lacking - length + 1, (len(rows), 1), device=mel.device)
        samples = starts * hop + torch.arange(length * hop, device=mel.device)
        return audio[rows, samples], mel[rows, starts + torch.arange(length, device=mel.device)][:, None]

    def losses(self, vocoded: Tensor, audio: Tensor, mel: Tensor) -> Losses:
        """The terms that compare with the true sound: (B, S), (B, S), (B, 1, F, M) -> losses."""
        convergence, magnitude, spectral = stft_losses.multi_resolution(vocoded, audio, self.resolutions)
        terms = {
            'loss_convergence': (self.convergence_weight, convergence),
            'loss_log_magnitude': (self.log_magnitude_weight, magnitude),
            'loss_log_spectral': (self.log_spectral_weight, spectral),
            'loss_mel': (self.mel_weight, (self.log_mel(vocoded) - mel).abs().mean()),
        }
        return {name: weight * term for name, (weight, term) in terms.items() if weight}

    def train_step(self, data: Mapping[str, Any], optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One step of the vocoder; with a discriminator one of each, first of the discriminator."""
        if self.discriminator is None:
            return super().train_step(data, optim_wrapper)
        if not isinstance(optim_wrapper, OptimWrapperDict):
            raise UserError(
                'a discriminator needs an optimiser of its own: set optim_wrapper.constructor to PartsConstructor and '
                f'give it {GENERATING} and {DISCRIMINATING}.'
            )
        wrappers = optim_wrapper.optim_wrappers
        with wrappers[GENERATING].optim_context(self.vocoder):
            batch = self.data_preprocessor(data, True)
            audio, mel = self.windows(batch['audio'], batch['mel'])
            vocoded = self.vocoder(mel)
        with wrappers[DISCRIMINATING].optim_context(self.discriminator):
            total, said = self.parse_losses(self._discrimination(vocoded.detach(), audio))
        wrappers[DISCRIMINATING].update_params(total)
        # Its weights are as they should be; gradients to them would be thrown away.
        self.discriminator.requires_grad_(False)
        with wrappers[GENERATING].optim_context(self.vocoder):
            terms = self.losses(vocoded, audio, mel) | self._pretence(vocoded, audio)
            total, log = self.parse_losses(terms)
        wrappers[GENERATING].update_params(total)
        self.discriminator.requires_grad_(True)
        return log | {name: value for name, value in said.items() if name != 'loss'}

    def predict(self, audio: Tensor, mel: Tensor) -> dict[str, Tensor]:
        """What the evaluation compares, on the CPU: audio, true_audio (B, F * hop); mel, true_mel (B, 1, F, M)."""
        vocoded = self.vocoder(mel)
        rows = dict(audio=vocoded, true_audio=audio[:, : vocoded.shape[1]], mel=self.log_mel(vocoded), true_mel=mel)
        return {name: value.float().cpu() for name, value in rows.items()}

    def forward(
        self,
        audio: Tensor,
        mel: Tensor,
        clip_id: Sequence[str] = (),
        start_s: Tensor | None = None,
        valid: Tensor | None = None,
        failures: Sequence[str] = (),
        mode: str = 'tensor',
    ) -> Losses | Tensor | list[dict[str, Any]]:
        """What MMEngine's runner calls. mode: 'loss' -> losses; 'predict' -> one dict a clip; 'tensor' -> waveforms."""
        if mode == 'tensor':
            return self.vocoder(mel)
        if mode == 'loss':
            audio, mel = self.windows(audio, mel)
            return self.losses(self.vocoder(mel), audio, mel)
        columns: dict[str, Any] = self.predict(audio, mel)
        columns |= dict(clip_id=clip_id, valid=valid.tolist() if valid is not None else [True] * len(clip_id))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _discrimination(self, vocoded: Tensor, audio: Tensor) -> Losses:
        """What the discriminator learns from."""
        assert self.discriminator is not None
        # Together, so that a wrapper that distributes it sees one pass for one step.
        scores, _ = self.discriminator(torch.cat([audio, vocoded]))
        return {'loss_discriminator': discrimination_loss(scores)}

    def _pretence(self, vocoded: Tensor, audio: Tensor) -> Losses:
        """What the vocoder learns from the discriminator."""
        assert self.discriminator is not None
        scores, features = self.discriminator(torch.cat([audio, vocoded]))
        return {
            'loss_adversarial': self.adversarial_weight * pretence_loss(scores),
            'loss_features': self.feature_weight * feature_distance(features),
        }


def _demand_windows(frames: int, settings: Mapping[str, Any], resolutions: Sequence[tuple[int, int]]) -> None:
    """UserError unless windows are long enough for the losses to see anything."""
    samples = frames * settings['hop']
    longest = max((n_fft for n_fft, _ in resolutions), default=0)
    if not longest:
        raise UserError('VocoderTraining: resolutions must hold one pair (n_fft, hop) or more.')
    if samples < longest:
        raise UserError(
            f'VocoderTraining: a window of {frames} frames is {samples} samples, shorter than the longest of '
            f'resolutions, {longest}; raise window_frames to {-(-longest // settings["hop"])} or more.'
        )
