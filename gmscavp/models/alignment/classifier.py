"""The alignment classifier: judges sounds against videos, clean ones for measuring, noisy latents for guidance."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.alignment.checks import demand_parts, demand_settings
from gmscavp.models.alignment.fusion import LatentNet, TimeFusion
from gmscavp.models.alignment.pairs import (
    drawn,
    least_shift,
    other_clips,
    shifted_starts,
    window_length,
    windows,
)
from gmscavp.models.freezing import fix, freeze, rest
from gmscavp.models.sampling import window_starts
from gmscavp.registry import BACKBONES, CODECS, MODELS, NOISE_SCHEDULERS, PYRAMIDS

KINDS = ('aligned', 'shifted', 'other')


@MODELS.register_module()
class AlignmentClassifier(BaseModel):
    """Says whether a video and a sound belong together and are in time. Luo et al. 2023 (Diff-Foley).

    Both sides go through a backbone and a pyramid of the same lengths, and a network over time (fusion: settings of
    TimeFusion) gives one logit. Without `scheduler` the sound is a log-mel, seen through audio_backbone. With `scheduler`
    and `codec` (as the generator has them) it is that codec's noisy latents, seen through `latents` (settings of
    LatentNet), told the noise level: p(aligned | x_t, t, video), differentiable in x_t, for guidance.

    What is judged at once is a window, a share `window` of the clip. Pairs in training and evaluation: a window of the
    picture with the sound of the same moment (aligned), with the sound of the same clip at least least_shift_s earlier or
    later (shifted), and with another clip's sound (other). Every window is cut from what was recorded, never rolled:
    where a rolled sound is joined again, the sound alone would give the answer away. shifted, other: for what share of
    the clips such a pair is made; aligned and wrong pairs weigh the same in the loss, so that 0.5 is 'cannot tell'.
    step_weight: of loss_steps (TimeFusion.step_loss), which finds the moments that the windows of a shifted pair share.
    crops: windows a clip in a training step, for where reading costs more than computing.

    levels: noise levels (unit times) that evaluation of noisy latents looks at. seed: of the windows, shifts and noise in
    evaluation, where those of a clip are the same in every run, batch and rank. video_frozen, audio_frozen: as in
    GMSCAVP.
    """

    def __init__(
        self,
        data_preprocessor: Mapping[str, Any],
        video_backbone: Mapping[str, Any],
        video_pyramid: Mapping[str, Any],
        audio_pyramid: Mapping[str, Any],
        audio_backbone: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        codec: Mapping[str, Any] | None = None,
        latents: Mapping[str, Any] = {},
        fusion: Mapping[str, Any] = {},
        window: float = 0.5,
        least_shift_s: float = 0.3,
        shifted: float = 1.0,
        other: float = 1.0,
        step_weight: float = 0.5,
        crops: int = 1,
        levels: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        seed: int = 0,
        video_frozen: bool | int = False,
        audio_frozen: bool | int = False,
    ) -> None:
        super().__init__(MODELS.build(dict(data_preprocessor)))
        demand_parts(audio_backbone, scheduler, codec)
        demand_settings(window, shifted, other, step_weight, crops, levels)
        self.window, self.least_shift_s, self.crops, self.seed = window, least_shift_s, crops, seed
        self.step_weight = step_weight
        self.shares = {'shifted': shifted, 'other': other}
        self.noisy, self.levels = scheduler is not None, [float(level) for level in levels]
        self.video_backbone: Any = BACKBONES.build(dict(video_backbone))
        self._frozen = freeze(self.video_backbone, video_frozen)
        if self.noisy:
            self.scheduler = NOISE_SCHEDULERS.build(dict(scheduler or {}))
            self.codec: Any = CODECS.build(dict(codec or {}))
            if self.codec.side != 'audio':
                raise UserError('alignment: the codec must be one of sound; guidance judges the sound that is made.')
            self._frozen += fix(self.codec)
            self.audio_backbone: Any = LatentNet(self.codec.channels, **latents)
        else:
            self.audio_backbone = BACKBONES.build(dict(audio_backbone or {}))
            self._frozen += freeze(self.audio_backbone, audio_frozen)
        self.video_pyramid, self.audio_pyramid = (
            PYRAMIDS.build(dict(cfg), default_args=dict(in_channels=backbone.out_channels))
            for cfg, backbone in ((video_pyramid, self.video_backbone), (audio_pyramid, self.audio_backbone))
        )
        self.fusion = _fusion(self.video_pyramid, self.audio_pyramid, fusion)

    def train(self, mode: bool = True) -> 'AlignmentClassifier':
        """Set the mode; frozen parts and the codec stay in evaluation."""
        super().train(mode)
        rest(self._frozen)
        return self

    def encode_video(self, video: Tensor) -> Tensor:
        """Features of the windows that cover the clip, for log_prob: (B, 3, T, H, W) in [-1, 1] -> (B, K, L, W)."""
        length = window_length(video.shape[2], self.window)
        starts = window_starts(video.shape[2], length, 0)
        parts = [self._seen(video[:, :, start : start + length]) for start in starts]
        return torch.stack(parts, dim=1)

    def log_prob(self, x: Tensor, t: Tensor, video_tokens: Tensor) -> Tensor:
        """log p(aligned | x_t, t, video), differentiable in x: (B, C, F, M), () or (B,), encode_video's -> (B,).

        t: in the scheduler's own unit. The logit of a clip is the mean of its windows'.
        """
        if not self.noisy:
            raise UserError(
                'alignment guidance needs a classifier that knows the noise; give it scheduler and codec, as in '
                'configs/align_classifier_noisy_impacts.py, and train it so.'
            )
        # Features made in inference mode cannot take part in a gradient, a copy of them can.
        return F.logsigmoid(self._logits(x, video_tokens.clone(), t.expand(len(x))))

    def aligned_probability(self, video: Tensor, mel: Tensor) -> Tensor:
        """p(aligned): (B, 3, T, H, W) in [-1, 1], (B, 1, F, M) in [0, 1] -> (B,). Noisy latents are taken without noise."""
        tokens = self.encode_video(video)
        if not self.noisy:
            return torch.sigmoid(self._logits(mel, tokens, None))
        t = self.scheduler.time_at_unit(torch.zeros(len(mel), device=mel.device))
        return torch.sigmoid(self._logits(self.codec.encode(mel), tokens, t))

    def loss(self, video: Tensor, mel: Tensor) -> dict[str, Tensor]:
        """loss_alignment, binary cross-entropy with aligned and wrong pairs weighing the same; loss_steps; accuracies."""
        found, steps = zip(*(self._pairs(video, mel) for _ in range(self.crops)), strict=True)
        logits = {kind: torch.cat([each[kind] for each in found]) for kind in found[0]}
        wrong = torch.cat([logits[kind] for kind in logits if kind != 'aligned'])
        loss = (F.softplus(-logits['aligned']).mean() + F.softplus(wrong).mean()) / 2
        right = {kind: (x > 0) == (kind == 'aligned') for kind, x in logits.items()}
        losses = {'loss_alignment': loss}
        if self.step_weight:
            losses['loss_steps'] = self.step_weight * torch.stack(steps).mean()
        return losses | {f'accuracy_{kind}': x.float().mean() for kind, x in right.items()}

    def predict(self, video: Tensor, mel: Tensor, clip_id: Sequence[str], valid: Tensor | None) -> dict[str, Any]:
        """Columns with a row for each clip: probabilities (levels,) under `KINDS`, and the levels.

        nan stands for a pair that could not be made: of a batch of one, or with the sound of a clip that was not read.
        """
        clips, frames = len(video), video.shape[2]
        length, least = self._lengths(video, mel)
        rows = shifted_starts(frames - length, least)
        generators = [torch.Generator().manual_seed(zlib.crc32(f'{self.seed}/{name}'.encode())) for name in clip_id]
        starts = torch.cat([drawn(1, rows, generator) for generator in generators])
        seen = self._seen(windows(video, starts[:, 0], length))
        mels = [self._sound(mel, starts[:, side], frames, length) for side in (0, 1)]
        noises = [torch.stack([_noise_like(x[0], each) for each in generators]).to(mel) for x in mels]
        partner = (torch.arange(clips) + max(1, clips // 2)) % clips
        readable = torch.ones(clips, dtype=torch.bool) if valid is None else valid.cpu()
        columns: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
        for level in self.levels if self.noisy else [0.0]:
            own, shifted = (self._heard_at(x, noise, level) for x, noise in zip(mels, noises, strict=True))
            other = torch.sigmoid(self.fusion(seen, own[partner.to(own.device)])).cpu()
            columns['aligned'].append(torch.sigmoid(self.fusion(seen, own)).cpu())
            columns['shifted'].append(torch.sigmoid(self.fusion(seen, shifted)).cpu())
            columns['other'].append(torch.where(readable[partner] & (partner != torch.arange(clips)), other, torch.nan))
        found = {kind: list(torch.stack(x, dim=1).float()) for kind, x in columns.items()}
        return found | {'levels': [self.levels if self.noisy else []] * clips}

    def forward(
        self,
        video: Tensor,
        mel: Tensor,
        clip_id: Sequence[str] = (),
        start_s: Tensor | None = None,
        valid: Tensor | None = None,
        failures: Sequence[str] = (),
        segments: int = 1,
        mode: str = 'tensor',
    ) -> dict[str, Tensor] | Tensor | list[dict[str, Any]]:
        """What MMEngine's runner calls. mode: 'loss' -> losses; 'predict' -> one dict a clip; 'tensor' -> p(aligned)."""
        if segments > 1:
            raise UserError('alignment takes one window a clip from the data set; use CentreWindow or RandomWindow.')
        if mode == 'loss':
            return self.loss(video, mel)
        if mode == 'tensor':
            return self.aligned_probability(video, mel)
        readable = valid.tolist() if valid is not None else [True] * len(clip_id)
        columns = {'clip_id': clip_id, 'valid': readable, **self.predict(video, mel, clip_id, valid)}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _pairs(self, video: Tensor, mel: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Pairs of one window a clip: their logits, aligned (B,), shifted and other of as many clips as their shares ask;
        and the loss of the shifted ones' steps, ().
        """
        clips, frames = len(video), video.shape[2]
        length, least = self._lengths(video, mel)
        starts = drawn(clips, shifted_starts(frames - length, least))
        counts = {kind: round(share * clips) for kind, share in self.shares.items()}
        if clips == 1:
            counts['other'] = 0
        if not any(counts.values()):
            raise UserError(
                f'alignment: a batch of {clips} leaves no wrong pair; raise batch_size, or the share of shifted pairs.'
            )
        late, strange = (torch.randperm(clips)[:count] for count in counts.values())
        seen = self._seen(windows(video, starts[:, 0], length))
        own = self._sound(mel, starts[:, 0], frames, length)
        away = self._sound(mel[late.to(mel.device)], starts[late, 1], frames, length)
        heard = self._heard_in_training(torch.cat([own, away]))
        logits = {'aligned': self.fusion(seen, heard[:clips])}
        if len(late):
            logits['shifted'] = self.fusion(seen[late], heard[clips:])
        if len(strange):
            logits['other'] = self.fusion(seen[strange], heard[other_clips(clips)[strange]])
        if not self.step_weight or not len(late):
            return logits, seen.new_zeros(())
        # Starts are frames of the video, tokens steps of the pyramid.
        apart = (starts[late, 1] - starts[late, 0]) * seen.shape[1] / length
        return logits, self.fusion.step_loss(seen[late], heard[clips:], apart)

    def _lengths(self, video: Tensor, mel: Tensor) -> tuple[int, int]:
        """Frames of a window, and of the least shift."""
        settings, frames = self.data_preprocessor.log_mel.settings, video.shape[2]
        duration_s = mel.shape[2] * settings['hop'] / settings['sample_rate']
        return window_length(frames, self.window), least_shift(self.least_shift_s, duration_s, frames)

    def _seen(self, video: Tensor) -> Tensor:
        """Windows of video -> (B, L, W)."""
        return self.fusion.video_steps(self.video_pyramid(self.video_backbone(video)))

    def _sound(self, mel: Tensor, starts: Tensor, frames: int, length: int) -> Tensor:
        """What the sound's side sees of windows, starts and length in frames of the video: log-mels or clean latents."""
        steps = _steps_a_frame(mel.shape[2], frames)
        cut = windows(mel, starts * steps, length * steps)
        if not self.noisy:
            return cut
        with torch.no_grad():
            return self.codec.encode(cut)

    def _heard_in_training(self, sound: Tensor) -> Tensor:
        """Log-mels or clean latents, noised at random levels -> (B, L, W)."""
        if not self.noisy:
            return self._heard(sound, None)
        t = self.scheduler.sample_t(len(sound), sound.device)
        return self._heard(self.scheduler.add_noise(sound, torch.randn_like(sound), t)[0], t)

    def _heard_at(self, sound: Tensor, noise: Tensor, level: float) -> Tensor:
        if not self.noisy:
            return self._heard(sound, None)
        t = self.scheduler.time_at_unit(torch.full((len(sound),), level, device=sound.device))
        return self._heard(self.scheduler.add_noise(sound, noise, t)[0], t)

    def _heard(self, sound: Tensor, t: Tensor | None) -> Tensor:
        """Windows of log-mel, or of latents at noise level t (B,) -> (B, L, W)."""
        if t is None:
            return self.fusion.audio_steps(self.audio_pyramid(self.audio_backbone(sound)))
        x = self.scheduler.scale_input(sound, t)
        return self.fusion.audio_steps(self.audio_pyramid(self.audio_backbone(x, self.scheduler.unit_time(t))))

    def _logits(self, sound: Tensor, video_tokens: Tensor, t: Tensor | None) -> Tensor:
        """The mean logit of the windows that cover a sound: (B, C, F, M), (B, K, L, W), (B,) -> (B,)."""
        steps = sound.shape[2]
        length = window_length(steps, self.window)
        starts = window_starts(steps, length, 0)
        if len(starts) != video_tokens.shape[1]:
            raise UserError(
                f'alignment: the sound of {steps} steps falls into {len(starts)} windows, the video into '
                f'{video_tokens.shape[1]}; both must cover the same clip.'
            )
        parts = [
            self.fusion(video_tokens[:, k], self._heard(sound[:, :, start : start + length], t))
            for k, start in enumerate(starts)
        ]
        return torch.stack(parts).mean(0)


def _noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """On the CPU, so that devices agree."""
    return torch.randn(x.shape, generator=generator)


def _steps_a_frame(steps: int, frames: int) -> int:
    if steps % frames:
        raise UserError(
            f"alignment: the log-mel's {steps} steps do not divide into the video's {frames} frames; choose clip.fps so "
            'that they do (4, 8 or 16 frames/s at hop 250 and 16 kHz).'
        )
    return steps // frames


def _fusion(video_pyramid: Any, audio_pyramid: Any, settings: Mapping[str, Any]) -> TimeFusion:
    lengths = video_pyramid.lengths
    if audio_pyramid.lengths != lengths or video_pyramid.keeps_places or audio_pyramid.keeps_places:
        raise UserError(
            f'alignment: the video pyramid has lengths {lengths}, the audio pyramid {audio_pyramid.lengths}; give both '
            'the same, and pyramids without places.'
        )
    return TimeFusion(lengths, video_pyramid.dim, audio_pyramid.dim, **settings)
