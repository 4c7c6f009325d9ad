"""Generation: sound from video, or video from sound, by diffusion under the other side's pyramid."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import gcd
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.freezing import fix, rest
from gmscavp.models.guidance import Denoise, aligned, guided, guided_within
from gmscavp.models.sampling import Sampling, window_starts, windowed
from gmscavp.registry import BACKBONES, CODECS, DENOISERS, MODELS, NOISE_SCHEDULERS, PYRAMIDS, SAMPLERS, VOCODERS
from gmscavp.structures import Losses, Pyramid

SIDES = {'v2a': 'video', 'a2v': 'audio'}
Progress = Callable[[int, int], None]
"""Called with how many evaluations are done, and of how many."""


@MODELS.register_module()
class CrossModalGenerator(BaseModel):
    """Condition: backbone and pyramid of one side, as in GMSCAVP. Target: the other side's signal in a codec's latents.

    direction: 'v2a' makes sound from video, 'a2v' video from sound. size: places of the target's signal for one clip,
    (F, M) of the log-mel or (T, H, W) of the video. window: time steps of the condition's signal for one clip, frames of
    the video or of the log-mel. backbone, pyramid: of the condition; they stand in the model under
    the names that GMSCAVP gives them, such as video_backbone, so that `init` starts them from a pretraining run.
    frozen: the condition is not trained. denoiser, scheduler, codec, sampler, vocoder: configs of those kinds; the codec
    is never trained here, nor is the vocoder, which turns a generated log-mel into sound (none for a2v). classifier: an
    alignment classifier that knows the noise, for Sampling.alignment. null_prob: how often a clip is trained under the
    null condition. draws: noise levels that every clip of a batch is trained at, in one step; more than one pays where
    reading and coding a clip cost more than the denoiser. sampling: settings (sampling.Sampling) of predictions.
    """

    def __init__(
        self,
        data_preprocessor: Mapping[str, Any],
        direction: str,
        size: Sequence[int],
        window: int,
        backbone: Mapping[str, Any],
        pyramid: Mapping[str, Any],
        denoiser: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        codec: Mapping[str, Any],
        sampler: Mapping[str, Any] = {'type': 'Euler'},
        vocoder: Mapping[str, Any] | None = None,
        classifier: Mapping[str, Any] | None = None,
        frozen: bool = False,
        null_prob: float = 0.1,
        draws: int = 1,
        sampling: Mapping[str, Any] = {},
    ) -> None:
        super().__init__(MODELS.build(dict(data_preprocessor)))
        if direction not in SIDES:
            raise UserError(f"direction must be one of {', '.join(SIDES)}, not '{direction}'.")
        self.direction, self.side, self.size = direction, SIDES[direction], list(size)
        encoder = BACKBONES.build(dict(backbone))
        tokens = PYRAMIDS.build(dict(pyramid), default_args=dict(in_channels=encoder.out_channels))
        self.add_module(f'{self.side}_backbone', encoder)
        self.add_module(f'{self.side}_pyramid', tokens)
        self.codec: Any = CODECS.build(dict(codec))
        if self.codec.side == self.side:
            raise UserError(f'{direction} needs a codec of the other side than its {self.codec.side} codec.')
        self.window, self.places = window, self.codec.places(self.size)
        given = dict(
            channels=self.codec.channels, size=self.places, condition_lengths=tokens.lengths, condition_dim=tokens.dim
        )
        self.denoiser: Any = DENOISERS.build(dict(denoiser), default_args=given)
        self.scheduler = NOISE_SCHEDULERS.build(dict(scheduler))
        self.sampler = SAMPLERS.build(dict(sampler))
        settings = self.data_preprocessor.log_mel.settings
        self.vocoder: Any = VOCODERS.build(dict(vocoder), default_args=settings) if vocoder else None
        self.classifier: Any = MODELS.build(dict(classifier)) if classifier else None
        if draws < 1:
            raise UserError(f'draws must be 1 noise level a clip or more, not {draws}.')
        self.null_prob, self.draws, self.sampling = null_prob, draws, Sampling(**sampling)
        parts = (self.codec, self.vocoder, self.classifier, *((encoder, tokens) if frozen else ()))
        self._frozen = fix(*(part for part in parts if part is not None))

    def train(self, mode: bool = True) -> 'CrossModalGenerator':
        """Set the mode; frozen parts stay in evaluation."""
        super().train(mode)
        rest(self._frozen)
        return self

    def encode(self, signal: Tensor) -> Pyramid:
        """The condition: video (B, 3, T, H, W) or mel (B, 1, F, M) -> [(B, L_s, D)], entries of about unit variance."""
        features = self.get_submodule(f'{self.side}_backbone')(signal)
        tokens = self.get_submodule(f'{self.side}_pyramid')(features)
        return [F.normalize(x.float(), dim=-1) * x.shape[-1] ** 0.5 for x in tokens]

    def loss(self, video: Tensor, mel: Tensor) -> Losses:
        """w(t) || target - F(alpha_t x0 + sigma_t eps, t, condition) ||^2, mean over clips, draws and places."""
        given, wanted = (video, mel) if self.direction == 'v2a' else (mel, video)
        with torch.no_grad():
            x0 = self.codec.encode(self._checked(wanted)).repeat_interleave(self.draws, dim=0)
        condition = self.encode(given)
        t = self.scheduler.sample_t(len(x0), x0.device)
        noisy, target = self.scheduler.add_noise(x0, torch.randn_like(x0), t)
        keep = torch.rand(len(given), device=x0.device) >= self.null_prob
        # What a clip's condition is to the network is worked out once for all its draws.
        predicted = self._raw(noisy, t, *_repeated(self.denoiser.remember(condition, keep), self.draws))
        error = (predicted.float() - target).square().flatten(1).mean(1)
        return {'loss_diffusion': (self.scheduler.weight(t) * error).mean()}

    @torch.no_grad()
    def generate(
        self,
        signal: Tensor,
        settings: Sampling,
        noise: Tensor | None = None,
        progress: Progress | None = None,
        samples: int = 1,
    ) -> Tensor:
        """v2a: video (B, 3, T, H, W) -> mel (B, 1, F, M); a2v: mel -> video. As long as the signal it is given.

        A longer signal than one clip is taken in overlapping windows that agree at every step of the sampler; a shorter
        one is filled up by its last picture, or by silence. noise: (B, C, *places) of the whole; by default drawn from
        settings.seed, clip n apart from the others. samples: so many of every clip at once, side by side in the batch
        (B samples); number k is that of settings.seed + k, up to rounding. UserError: several by a sampler that draws.
        """
        whole, starts, total = self._laid_out(signal, settings.overlap)
        window, length = self.window, self.places[0]
        parts = [whole[:, :, start : start + window] for start in starts]
        denoisers = [self._denoise(part, settings, samples) for part in parts]
        latent_starts = [start * length // window for start in starts]
        denoise = denoisers[0] if len(parts) == 1 else windowed(denoisers, latent_starts, length, total)
        sampler = self.solver(settings)
        if samples > 1 and sampler.stochastic:
            raise UserError(f'{type(sampler).__name__} draws noise on the way; make its samples one at a time.')
        if progress is not None:
            denoise = _counted(denoise, sampler.evaluations(settings.steps), progress)
        grid = self.scheduler.grid(settings.steps).to(signal.device)
        alpha, sigma = self.scheduler.alpha_sigma(grid[:1])
        if noise is None:
            places = [total, *self.places[1:]]
            drawn = [self._noise(len(signal), places, settings.seed + k) for k in range(samples)]
            noise = torch.stack(drawn, dim=1).flatten(0, 1)
        # From torch's own generator, which a stochastic sampler draws from too.
        with torch.random.fork_rng([signal.device] if signal.is_cuda else []):
            torch.manual_seed(settings.seed)
            x0 = sampler(denoise, noise.to(signal.device) * torch.hypot(alpha, sigma), grid, self.scheduler)
        made = self.codec.decode(x0)
        return made[:, :, : round(signal.shape[2] * self.size[0] / window)]

    def solver(self, settings: Sampling) -> Any:
        """The sampler that these settings ask for, the model's own by default."""
        return SAMPLERS.build(dict(settings.sampler)) if settings.sampler else self.sampler

    def sound(self, mel: Tensor) -> Tensor:
        """(B, 1, F, M) -> (B, F * hop) waveform in [-1, 1], by the vocoder."""
        if self.vocoder is None:
            raise UserError('this model has no vocoder; give it one, for example vocoder=dict(type=GriffinLim).')
        return self.vocoder(mel)

    def predict(self, video: Tensor, mel: Tensor, clip_id: Sequence[str]) -> dict[str, Any]:
        """What evaluation compares, a row for each clip, on the CPU; see forward."""
        given, wanted = (video, mel) if self.direction == 'v2a' else (mel, video)
        noise = torch.cat([self._noise(1, self.places, _seed_of(name, self.sampling.seed)) for name in clip_id])
        made = self.generate(given, self.sampling, noise)
        if self.direction == 'v2a':
            columns = dict(waveform=self.sound(made), mel=made[:, 0], real_mel=wanted[:, 0])
        else:
            columns = dict(frames=_pictures(made), real_frames=_pictures(wanted))
        return {name: [row.clone() for row in x.cpu()] for name, x in columns.items()}

    def forward(
        self,
        video: Tensor,
        mel: Tensor,
        clip_id: Sequence[str] = (),
        start_s: Tensor | None = None,
        valid: Tensor | None = None,
        failures: Sequence[str] = (),
        audio: Tensor | None = None,
        mode: str = 'tensor',
    ) -> Losses | Pyramid | list[dict[str, Any]]:
        """What MMEngine's runner calls. mode: 'loss' -> losses; 'tensor' -> the condition's tokens; 'predict' -> a dict
        a clip: clip_id, valid, and for v2a waveform (S,), real_waveform (S,), mel and real_mel (F, M), sample_rate; for
        a2v frames and real_frames (T, H, W, 3) uint8, fps.
        """
        if mode == 'loss':
            return self.loss(video, mel)
        if mode == 'tensor':
            return self.encode(video if self.direction == 'v2a' else mel)
        columns = self.predict(video, mel, clip_id)
        if self.direction == 'v2a':
            if audio is None:
                raise UserError('evaluation compares with the real sound; set model.data_preprocessor.keep_audio=True.')
            columns['real_waveform'] = [row.clone() for row in audio.float().cpu()]
            columns['sample_rate'] = [self.data_preprocessor.log_mel.settings['sample_rate']] * len(clip_id)
        else:
            settings = self.data_preprocessor.log_mel.settings
            columns['fps'] = [self.size[0] * settings['sample_rate'] / (self.window * settings['hop'])] * len(clip_id)
        readable = valid.tolist() if valid is not None else [True] * len(clip_id)
        columns = {'clip_id': clip_id, 'valid': readable, **columns}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _raw(self, x: Tensor, t: Tensor, condition: Any, keep: Tensor | None = None) -> Tensor:
        return self.denoiser(self.scheduler.scale_input(x, t), self.scheduler.unit_time(t), condition, keep)

    def _denoise(self, signal: Tensor, settings: Sampling, samples: int) -> Denoise:
        """The clean signal that the network sees in x under one window, with the guidance that was asked for."""
        condition = [x.repeat_interleave(samples, dim=0) for x in self.encode(signal)]
        nothing = torch.zeros(len(signal) * samples, dtype=torch.bool, device=signal.device)
        known = self.denoiser.remember(condition)
        # Without guidance the null condition is never asked.
        null = known if settings.guidance == 1 else self.denoiser.remember(condition, nothing)

        def denoise(given: tuple[Any, Tensor | None], x: Tensor, t: Tensor) -> Tensor:
            times = t.expand(len(x))
            return self.scheduler.to_x0(self._raw(x, times, *given).float(), x, times)

        plain, path = partial(denoise, known), self.scheduler.alpha_sigma
        pushed = guided(plain, partial(denoise, null), settings.guidance, settings.rescale)
        if settings.low > 0 or settings.high < float('inf'):
            pushed = guided_within(pushed, plain, path, settings.low, settings.high)
        if not settings.alignment:
            return pushed
        if self.classifier is None:
            raise UserError(
                'alignment guidance needs a classifier; train one (docs/alignment.md) and name it in model.'
            )
        tokens = self.classifier.encode_video(signal.repeat_interleave(samples, dim=0))
        return aligned(pushed, lambda x, t: self.classifier.log_prob(x, t, tokens), path, settings.alignment)

    def _laid_out(self, signal: Tensor, overlap: float) -> tuple[Tensor, list[int], int]:
        """The signal filled up to whole windows, where windows begin in it, and the time steps of its latents."""
        window, length = self.window, self.places[0]
        # Windows begin where a step of the signal and one of the latents begin together.
        unit = window // gcd(window, length)
        steps = max(window, -(-signal.shape[2] // unit) * unit)
        missing = steps - signal.shape[2]
        if missing:
            last = signal[:, :, -1:] if self.side == 'video' else torch.zeros_like(signal[:, :, -1:])
            signal = torch.cat([signal, last.expand(-1, -1, missing, *signal.shape[3:])], dim=2)
        common = min(round(overlap * window / unit), window // unit - 1)
        starts = [unit * start for start in window_starts(steps // unit, window // unit, common)]
        return signal, starts, steps * length // window

    def _noise(self, clips: int, places: Sequence[int], seed: int) -> Tensor:
        """(clips, C, *places), on the CPU so that devices agree; clip n is the same however many there are."""
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([torch.randn(1, self.codec.channels, *places, generator=generator) for _ in range(clips)])

    def _checked(self, signal: Tensor) -> Tensor:
        found = list(signal.shape[2:])
        if found != self.size:
            raise UserError(
                f'model.size is {self.size}, but the clips give {found}; state the size that the data gives: (frames, '
                'bands) of the log-mel, or (frames, height, width) of the video.'
            )
        return signal


def _repeated(known: Any, times: int) -> Any:
    """What Denoiser.remember gave, every clip `times` times in a row: (B, ...) -> (B * times, ...) for each tensor."""
    if isinstance(known, Tensor):
        return known.repeat_interleave(times, dim=0) if times > 1 else known
    if isinstance(known, list | tuple):
        parts = [_repeated(part, times) for part in known]
        return type(known)(*parts) if hasattr(known, '_fields') else type(known)(parts)
    return known


def _counted(denoise: Denoise, total: int, progress: Progress) -> Denoise:
    done = 0

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal done
        done += 1
        progress(min(done, total), total)
        return denoise(x, t)

    return counted


def _seed_of(name: str, seed: int) -> int:
    """The same number for a clip's name in every run and batch."""
    return int.from_bytes(f'{seed}/{name}'.encode()) % (2**63 - 25)


def _pictures(video: Tensor) -> Tensor:
    """(B, 3, T, H, W) in [-1, 1] -> (B, T, H, W, 3) uint8."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
