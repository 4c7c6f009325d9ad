"""The diffusion objective: denoise one modality given the other's tokens, both directions, at several scales."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.registry import DENOISERS, MODELS, NOISE_SCHEDULERS, SAMPLERS
from gmscavp.structures import Losses, Pyramid

DIRECTIONS = ('v2a', 'a2v')
TARGETS = ('latent', 'embedding')


def audio_latents(mel: Tensor, lengths: Sequence[int], bands: Sequence[int]) -> Pyramid:
    """The log-mel averaged over windows and bands: (B, 1, F, M) -> [(B, L_s, bands_s)]."""
    return [F.adaptive_avg_pool2d(mel[:, 0], (length, count)) for length, count in zip(lengths, bands, strict=True)]


def video_latents(video: Tensor, lengths: Sequence[int], grids: Sequence[int]) -> Pyramid:
    """The frames averaged over windows and cells: (B, 3, T, H, W) -> [(B, L_s, 3 grid_s^2)]."""
    return [
        rearrange(F.adaptive_avg_pool3d(video, (length, grid, grid)), 'b c t h w -> b t (c h w)')
        for length, grid in zip(lengths, grids, strict=True)
    ]


def detail_of(latents: Pyramid) -> Pyramid:
    """What differs from the clip's own mean, at scales of several windows; one window stays as it is.

    [(B, L_s, C_s)] -> the same shapes. What a clip holds throughout then stands in the coarsest scale alone, as in the
    tokens of a pyramid with `detail`.
    """
    return [x - x.mean(dim=1, keepdim=True) if x.shape[1] > 1 else x for x in latents]


class RunningScale(nn.Module):
    """Brings every scale about zero mean and unit variance, by averages over the batches seen in training.

    scales: how many. momentum: share of the newest batch. Of several processes the first one's averages are saved.
    """

    mean: Tensor
    deviation: Tensor
    batches: Tensor

    def __init__(self, scales: int, momentum: float = 0.02) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer('mean', torch.zeros(scales))
        self.register_buffer('deviation', torch.ones(scales))
        self.register_buffer('batches', torch.zeros((), dtype=torch.int64))

    def forward(self, latents: Pyramid) -> Pyramid:
        """[(B, L_s, C_s)] -> the same shapes."""
        if self.training:
            new_mean = torch.stack([x.detach().float().mean() for x in latents])
            new_deviation = torch.stack([x.detach().float().std() for x in latents])
            # The first batches count fully, so that the averages do not start from nothing.
            weight = (1 / (self.batches + 1)).clamp(min=self.momentum)
            self.mean.lerp_(new_mean, weight)
            self.deviation.lerp_(new_deviation, weight)
            self.batches += 1
        return [(x - mean) / (std + 1e-4) for x, mean, std in zip(latents, self.mean, self.deviation, strict=True)]


@MODELS.register_module()
class MultiScaleDiffusion(nn.Module):
    """L_diff = sum_s u_s E[w(t) || target - F(alpha_t x0^s + sigma_t eps, t, condition) ||^2], for each direction.

    lengths, dim: of the pyramids, filled in by the model. scheduler, denoiser: configs of those kinds; each direction has
    a denoiser of its own. target: 'latent' denoises the signal itself, averaged to each scale (audio into `bands`, video
    into `grids` x `grids` cells, standardised by (mean, std) in audio_stats and video_stats); 'embedding' denoises the
    other modality's tokens with the gradient stopped on the target (DiffGAP), for without the stop the targets collapse.
    detail: latents of scales with several windows are what differs from the clip's mean, and every scale is standardised
    by running averages in place of the given ones.
    scale_weights: u_s, default 1/S. loss_weight: mu. null_prob: how often a clip gets the null condition. half_batch:
    each direction takes one half of the batch, as DiffGAP does. The condition keeps its gradient: that is how this
    objective teaches the encoders. sampler: a config of that kind, for `translate`.
    """

    def __init__(
        self,
        lengths: list[int],
        dim: int,
        scheduler: Mapping[str, Any],
        denoiser: Mapping[str, Any],
        target: str = 'latent',
        directions: Sequence[str] = DIRECTIONS,
        bands: int | Sequence[int] = 16,
        grids: int | Sequence[int] = 8,
        audio_stats: tuple[float, float] = (0.5, 0.25),
        video_stats: tuple[float, float] = (0.0, 0.5),
        scale_weights: Sequence[float] | None = None,
        loss_weight: float = 0.5,
        null_prob: float = 0.1,
        half_batch: bool = False,
        detail: bool = False,
        sampler: Mapping[str, Any] = {'type': 'DDIM'},
    ) -> None:
        super().__init__()
        if target not in TARGETS or not directions or not set(directions) <= set(DIRECTIONS):
            raise UserError(
                f'diffusion: target must be one of {", ".join(TARGETS)} and directions some of {", ".join(DIRECTIONS)}; '
                f'got {target!r} and {list(directions)}.'
            )
        scales = len(lengths)
        self.lengths, self.target, self.directions = list(lengths), target, list(directions)
        self.bands = _per_scale(bands, scales, 'bands')
        self.grids = _per_scale(grids, scales, 'grids')
        self.audio_stats, self.video_stats = audio_stats, video_stats
        self.scale_weights = list(scale_weights or [1 / scales] * scales)
        self.loss_weight, self.null_prob, self.half_batch = loss_weight, null_prob, half_batch
        self.scheduler = NOISE_SCHEDULERS.build(dict(scheduler))
        self.sampler = SAMPLERS.build(dict(sampler))
        channels = {'v2a': self.bands, 'a2v': [3 * grid * grid for grid in self.grids]}
        self.running = nn.ModuleDict({way: RunningScale(scales) for way in directions} if detail else {})
        self.denoisers = nn.ModuleDict()
        self.shapes: dict[str, list[tuple[int, int]]] = {}
        for direction in self.directions:
            sizes = channels[direction] if target == 'latent' else [dim] * scales
            self.shapes[direction] = list(zip(self.lengths, sizes, strict=True))
            given = dict(lengths=lengths, channels=sizes, condition_lengths=lengths, condition_dim=dim)
            self.denoisers[direction] = DENOISERS.build(dict(denoiser), default_args=given)

    def forward(self, video: Tensor, mel: Tensor, v: Pyramid, a: Pyramid) -> Losses:
        """video (B, 3, T, H, W), mel (B, 1, F, M), their pyramids [(B, L_s, D)] -> one loss for each direction.

        v2a denoises the audio side given the video's tokens; a2v the other way round.
        """
        v, a = _spread(v), _spread(a)
        losses: Losses = {}
        for direction in self.directions:
            rows = self._rows(len(mel), direction)
            condition = v if direction == 'v2a' else a
            x0 = self._clean(direction, video[rows], mel[rows], [x[rows] for x in (a if direction == 'v2a' else v)])
            loss = self.denoising_loss(direction, x0, [x[rows] for x in condition])
            losses[f'loss_diffusion_{direction}'] = self.loss_weight * loss
        return losses

    def denoising_loss(self, direction: str, x0: Pyramid, condition: Pyramid) -> Tensor:
        """Mean over clips of the weighted squared error, summed over scales with u_s: ()."""
        clips, device = len(x0[0]), x0[0].device
        t = self.scheduler.sample_t(clips, device)
        eps = [torch.randn_like(x) for x in x0]
        keep = torch.rand(clips, device=device) >= self.null_prob
        return self.denoising_error(direction, x0, eps, t, condition, keep).mean()

    def denoising_error(
        self, direction: str, x0: Pyramid, eps: Pyramid, t: Tensor, condition: Pyramid, keep: Tensor | None = None
    ) -> Tensor:
        """The weighted squared error of every clip, summed over scales with u_s: (B,).

        x0, eps [(B, L_s, C_s)], t (B,), condition [(B, L_s, D)]; keep (B,) as in Denoiser.
        """
        noised = [self.scheduler.add_noise(x, e, t) for x, e in zip(x0, eps, strict=True)]
        seen = [self.scheduler.scale_input(x, t) for x, _ in noised]
        predicted = self.denoisers[direction](seen, self.scheduler.unit_time(t), condition, keep)
        error = torch.stack(
            [
                u * (p.float() - target).square().flatten(1).mean(1)
                for u, p, (_, target) in zip(self.scale_weights, predicted, noised, strict=True)
            ]
        ).sum(0)
        return self.scheduler.weight(t) * error

    @torch.no_grad()
    def translate(
        self, direction: str, condition: Pyramid, steps: int = 25, samples: int = 1, seed: int = 0
    ) -> Pyramid:
        """Sample the other side given the tokens of one side: the mean of `samples` draws of `steps` steps each.

        condition [(B, L_s, D)]: video tokens for v2a, audio tokens for a2v. Gives [(B, L_s, D)] tokens of the other side
        (target 'embedding') or standardised latents [(B, L_s, C_s)]. All clips begin at the same noise, so that with a
        deterministic sampler a clip's translation does not depend on its batch.
        """
        condition = _spread(condition)
        clips, device = len(condition[0]), condition[0].device
        shapes = self.shapes[direction]
        grid = self.scheduler.grid(steps).to(device)
        alpha, sigma = self.scheduler.alpha_sigma(grid[:1])

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            noisy, times = _unflat(x, shapes), t.expand(clips)
            seen = [self.scheduler.scale_input(part, times) for part in noisy]
            raw = self.denoisers[direction](seen, self.scheduler.unit_time(times), condition)
            return _flat([self.scheduler.to_x0(p.float(), n, times) for p, n in zip(raw, noisy, strict=True)])

        # From torch's own generator, which a stochastic sampler draws from too; on the CPU, so that devices agree.
        with torch.random.fork_rng([device] if device.type == 'cuda' else []):
            torch.manual_seed(seed)
            draws = []
            for _ in range(samples):
                noise = _flat([torch.randn(1, *shape) for shape in shapes]).to(device).expand(clips, -1)
                # x0 has about unit variance.
                start = noise * torch.hypot(alpha, sigma)
                draws.append(self.sampler(denoise, start, grid, self.scheduler))
        return _unflat(torch.stack(draws).mean(0), shapes)

    @torch.no_grad()
    def matching_error(self, direction: str, x0: Pyramid, condition: Pyramid, times: int = 8, seed: int = 0) -> Tensor:
        """How badly candidates are denoised under a condition, lower for a better match: (B,).

        x0: tokens of the other side (target 'embedding') or standardised latents, [(B, L_s, C_s)]. condition: tokens
        [(B, L_s, D)]. The noise levels are the `times` noisiest of a grid of times + 1, and the noise is the same for
        every candidate, so that errors compare across calls.
        """
        condition = _spread(condition)
        x0 = _spread(x0) if self.target == 'embedding' else x0
        generator = torch.Generator().manual_seed(seed)
        error = x0[0].new_zeros(len(x0[0]))
        for t in self.scheduler.grid(times + 1)[:times].to(x0[0].device):
            eps = [torch.randn(1, *x.shape[1:], generator=generator).to(x).expand_as(x) for x in x0]
            error = error + self.denoising_error(direction, x0, eps, t.expand(len(error)), condition)
        return error / times

    def _rows(self, clips: int, direction: str) -> slice:
        """The part of the batch that a direction takes; a single clip serves both."""
        if not self.half_batch or clips < 2 or len(self.directions) == 1:
            return slice(None)
        return slice(None, clips // 2) if direction == 'v2a' else slice(clips // 2, None)

    def _clean(self, direction: str, video: Tensor, mel: Tensor, tokens: Pyramid) -> Pyramid:
        """x0 of every scale, about zero mean and unit variance."""
        if self.target == 'embedding':
            return [x.detach() for x in tokens]
        if direction == 'v2a':
            latents, (mean, std) = audio_latents(mel, self.lengths, self.bands), self.audio_stats
        else:
            latents, (mean, std) = video_latents(video, self.lengths, self.grids), self.video_stats
        if direction in self.running:
            return self.running[direction](detail_of(latents))
        return [(x - mean) / std for x in latents]


def _spread(pyramid: Pyramid) -> Pyramid:
    """Unit tokens times sqrt(D), so that their entries have about unit variance; the tokens that alignment compares."""
    return [F.normalize(x.float(), dim=-1) * x.shape[-1] ** 0.5 for x in pyramid]


def _flat(pyramid: Pyramid) -> Tensor:
    """[(B, L_s, C_s)] -> (B, sum_s L_s C_s): a sampler works on one tensor."""
    return torch.cat([x.flatten(1) for x in pyramid], dim=1)


def _unflat(x: Tensor, shapes: Sequence[tuple[int, int]]) -> Pyramid:
    """The inverse of _flat for (L_s, C_s) of every scale."""
    parts = x.split([length * channels for length, channels in shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


def _per_scale(value: int | Sequence[int], scales: int, name: str) -> list[int]:
    values = [value] * scales if isinstance(value, int) else list(value)
    if len(values) != scales:
        raise UserError(f'diffusion: {name} has {len(values)} entries, the pyramids have {scales} scales.')
    return values
