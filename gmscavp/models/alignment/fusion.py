"""The two networks of the classifier's own: latents that know their noise, and both sides brought together over time."""

import math
from collections.abc import Sequence
from itertools import pairwise
from math import gcd

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.layers import sinusoid
from gmscavp.structures import Features, Pyramid


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(8, channels), channels)


class _LevelStage(nn.Module):
    """Divide time and bands by `stride`, then one residual block that the noise level shifts and scales."""

    def __init__(self, channels: int, out_channels: int, stride: tuple[int, int], level: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1)
        self.norms = nn.ModuleList(_norm(out_channels) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in range(2))
        self.level = nn.Linear(level, 2 * out_channels)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, C, F, M), (B, E) -> (B, C', F / s, M / s)."""
        x = self.down(x)
        shift, scale = self.level(level)[:, :, None, None].chunk(2, dim=1)
        y = self.convolutions[0](F.silu(self.norms[0](x)))
        return x + self.convolutions[1](F.silu(self.norms[1](y) * (1 + scale) + shift))


class LatentNet(nn.Module):
    """Noisy latents of a sound -> features, told how noisy they are.

    channels: of the latents. width: of the first stage, doubled by every stage. strides: (time, band) divisors of each
    stage. out_channels: C_i of every stage.
    """

    def __init__(
        self, channels: int, width: int = 16, strides: Sequence[tuple[int, int]] = ((2, 2), (2, 2), (1, 2))
    ) -> None:
        super().__init__()
        level = 4 * width
        self.width = width
        self.level = nn.Sequential(nn.Linear(width, level), nn.SiLU(), nn.Linear(level, level), nn.SiLU())
        self.out_channels = [width * 2**i for i in range(len(strides))]
        sizes = pairwise([channels, *self.out_channels])
        self.stages = nn.ModuleList(
            _LevelStage(a, b, (stride[0], stride[1]), level) for (a, b), stride in zip(sizes, strides, strict=True)
        )

    def forward(self, x: Tensor, t: Tensor) -> Features:
        """(B, C, F, M), noise level (B,) in [0, 1] -> [(B, F_i, M_i, C_i)]."""
        level = self.level(sinusoid(t, self.width))
        features: Features = []
        for stage in self.stages:
            x = stage(x, level)
            features.append(rearrange(x, 'b c t m -> b t m c'))
        return features


class _OverTime(nn.Module):
    """Depth-wise convolution over time, then a network step by step, with a residual. Liu et al. 2022 (ConvNeXt)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, W)."""
        return x + self.mlp(self.depthwise(x.transpose(1, 2)).transpose(1, 2))


class TimeFusion(nn.Module):
    """Frame-aligned features of both sides -> one logit a window.

    lengths, video_dim, audio_dim: of the pyramids. The scales of a side are summed at the finest one's steps. Beside the
    features themselves the network over time sees how alike they are at lags of up to `lags` steps either way, by `heads`
    learned likenesses: a shifted sound has its likeness at another lag than 0. width, depth, kernel: of that network.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        video_dim: int,
        audio_dim: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        lags: int = 8,
        kernel: int = 7,
    ) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f'alignment: fusion.width {width} does not divide into {heads} heads; change either.')
        self.lengths, self.heads, self.lags = list(lengths), heads, min(lags, lengths[0] - 1)
        self.video, self.audio = (
            nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width)) for _ in lengths)
            for dim in (video_dim, audio_dim)
        )
        self.likeness = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        found = heads * (2 * self.lags + 1)
        self.into = nn.Linear(2 * width + found, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(5.0)))
        self.gain = nn.Parameter(torch.ones(()))
        self.blocks = nn.ModuleList(_OverTime(width, kernel) for _ in range(depth))
        self.out = nn.Sequential(
            nn.LayerNorm(width + found), nn.Linear(width + found, width), nn.GELU(), nn.Linear(width, 1)
        )

    def video_steps(self, pyramid: Pyramid) -> Tensor:
        """[(B, L_s, D)] -> (B, L_0, W)."""
        return _summed(pyramid, self.video)

    def audio_steps(self, pyramid: Pyramid) -> Tensor:
        """[(B, L_s, D)] -> (B, L_0, W)."""
        return _summed(pyramid, self.audio)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """(B, L_0, W), (B, L_0, W) -> (B,)."""
        likeness = self._likeness(video, audio)
        x = self.into(torch.cat([video, audio, likeness], dim=-1))
        for block in self.blocks:
            x = block(x)
        found = self.out(torch.cat([x.mean(dim=1), likeness.mean(dim=1)], dim=-1))[:, 0].float()
        return found + self.gain * self._step_evidence(video, audio)

    def _step_evidence(self, video: Tensor, audio: Tensor) -> Tensor:
        """How much likelier than by chance steps find each other at the same moment, mean over both ways: (B,), nats."""
        likeness = self._all_likenesses(video, audio)
        both = likeness.log_softmax(1) + likeness.log_softmax(2)
        return both.diagonal(dim1=1, dim2=2).mean(1) / 2 + math.log(video.shape[1])

    def step_loss(self, video: Tensor, audio: Tensor, late: Tensor) -> Tensor:
        """Which sound of the window belongs to a step of the picture, and which picture to a step of the sound: ().

        video, audio (B, L_0, W): windows of the same clip, the sound's begins `late` (B,) steps after the picture's, so
        that step l of the picture belongs to step l - late, if there is one. Cross-entropy over all steps of the window,
        by the learned likenesses: it tells every step what the logit of the whole window would teach slowly. It wants
        windows that begin apart: in aligned ones networks that pad with zeros match steps by how far the edges are, and
        neither see nor hear.
        """
        likeness = self._all_likenesses(video, audio)
        steps = torch.arange(video.shape[1], device=video.device)
        belongs = (steps[:, None] - steps)[None] == late.to(video.device)[:, None, None]
        if not belongs.any():
            return likeness.sum() * 0
        return -torch.cat([likeness.log_softmax(dim)[belongs] for dim in (1, 2)]).mean()

    def _all_likenesses(self, video: Tensor, audio: Tensor) -> Tensor:
        """Of every step of the picture and every step of the sound: (B, L, L)."""
        seen, heard = self._compared(video, audio)
        return self.log_scale.exp().clamp(1, 100) * torch.einsum('blhk,bmhk->blm', seen, heard).float() / self.heads

    def _compared(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """What likeness is the inner product of, unit vectors: (B, L, heads, W / heads) of both sides.

        Of what differs from the window's mean, for else networks that know nothing yet find it best to make all steps
        alike, by vectors of no length or of one direction, from where nothing leads back.
        """
        maps = zip(self.likeness, (video, audio), strict=True)
        seen, heard = (rearrange(linear(x), 'b l (h k) -> b l h k', h=self.heads) for linear, x in maps)
        seen, heard = (F.normalize(x - x.mean(dim=1, keepdim=True), dim=-1) for x in (seen, heard))
        return seen, heard

    def _likeness(self, video: Tensor, audio: Tensor) -> Tensor:
        """Cosines of the picture at step l and the sound at steps l - lags .. l + lags: (B, L, heads * lags')."""
        seen, heard = self._compared(video, audio)
        near = F.pad(heard, (0, 0, 0, 0, self.lags, self.lags)).unfold(1, 2 * self.lags + 1, 1)
        return torch.einsum('blhk,blhkr->blhr', seen, near).flatten(2)


def _summed(pyramid: Pyramid, maps: nn.ModuleList) -> Tensor:
    """Every scale mapped, repeated over the steps that its tokens cover, and summed: [(B, L_s, D)] -> (B, L_0, W)."""
    steps = pyramid[0].shape[1]
    at = torch.arange(steps, device=pyramid[0].device)
    parts = [project(x)[:, at * x.shape[1] // steps] for project, x in zip(maps, pyramid, strict=True)]
    return torch.stack(parts).sum(0)
