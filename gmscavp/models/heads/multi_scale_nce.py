"""Multi-scale InfoNCE: the contrast of GMS-CAVP, and with one scale that of CAVP."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.distributed import gather_batch
from gmscavp.errors import UserError
from gmscavp.models.heads.base import ContrastiveHead, clip_similarity, unit_tokens
from gmscavp.registry import HEADS
from gmscavp.structures import Losses, Pyramid


def semantic_nce(
    video: Tensor, audio: Tensor, all_video: Tensor, all_audio: Tensor, scale: Tensor, offset: int
) -> Tensor:
    """Match clips across the global batch, both directions, for the rows of this rank.

    (B, L, D) unit vectors of this rank, (W B, L, D) of all ranks, in which this rank's rows begin at `offset` -> ().
    Radford et al. 2021, figure 3, on the similarity averaged over steps.
    """
    target = torch.arange(len(video), device=video.device) + offset
    v2a = F.cross_entropy(scale * clip_similarity(video, all_audio), target)
    a2v = F.cross_entropy(scale * clip_similarity(audio, all_video), target)
    return (v2a + a2v) / 2


def temporal_nce(video: Tensor, audio: Tensor, scale: Tensor) -> Tensor:
    """Match steps within a clip: other steps of the same clip are the negatives.

    (B, L, D), (B, L, D) unit vectors -> (). Luo et al. 2023, temporal contrast.
    """
    logits = scale * video @ audio.transpose(1, 2)
    target = torch.arange(video.shape[1], device=video.device).expand(len(video), -1)
    return (F.cross_entropy(logits.transpose(1, 2), target) + F.cross_entropy(logits, target)) / 2


@HEADS.register_module()
class MultiScaleInfoNCE(ContrastiveHead):
    """L_align = sum_s w_s (L_sem^s + temporal_weight L_temp^s).

    lengths: tokens a scale (filled in by the model). scale_weights: w_s, default 1/S each. temporal_weight: lambda_t,
    for scales of more than one token. init_scale: exp(tau) at the start, 1/0.07 in CAVP; max_scale: where it is clamped.
    per_scale: learn one logit scale for every scale rather than one for all.
    """

    def __init__(
        self,
        lengths: list[int],
        scale_weights: list[float] | None = None,
        temporal_weight: float = 0.1,
        init_scale: float = 1 / 0.07,
        max_scale: float = 100.0,
        per_scale: bool = False,
    ) -> None:
        super().__init__()
        self.lengths = list(lengths)
        self.scale_weights = list(scale_weights or [1 / len(lengths)] * len(lengths))
        if len(self.scale_weights) != len(self.lengths):
            raise UserError(
                f'head: scale_weights has {len(self.scale_weights)} entries, the pyramids have {len(lengths)} scales.'
            )
        self.temporal_weight = temporal_weight
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.full((len(lengths) if per_scale else 1,), math.log(init_scale)))

    def logit_scales(self) -> Tensor:
        """k = exp(tau) <= max_scale, one for every scale: (S,)."""
        return self.log_scale.clamp(max=math.log(self.max_scale)).exp().expand(len(self.lengths))

    @torch.autocast('cuda', enabled=False)
    @torch.autocast('cpu', enabled=False)
    def forward(self, video: Pyramid, audio: Pyramid) -> Losses:
        """[(B, L_s, D)] -> loss_semantic, loss_temporal; the logit scale is logged beside them. Logits are float32."""
        v, a = unit_tokens(video), unit_tokens(audio)
        everything, offset = gather_batch(torch.cat([x.flatten(1) for x in (*v, *a)], dim=1))
        parts = everything.split([x[0].numel() for x in (*v, *a)], dim=1)
        all_v = [part.unflatten(1, x.shape[1:]) for part, x in zip(parts, v, strict=False)]
        all_a = [part.unflatten(1, x.shape[1:]) for part, x in zip(parts[len(v) :], a, strict=True)]
        semantic, temporal = video[0].new_zeros((), dtype=torch.float32), []
        for s, (weight, scale) in enumerate(zip(self.scale_weights, self.logit_scales(), strict=True)):
            semantic = semantic + weight * semantic_nce(v[s], a[s], all_v[s], all_a[s], scale, offset)
            if self.temporal_weight and self.lengths[s] > 1:
                temporal.append(weight * self.temporal_weight * temporal_nce(v[s], a[s], scale))
        losses = {'loss_semantic': semantic, 'logit_scale': self.logit_scales().mean().detach()}
        if temporal:
            losses['loss_temporal'] = torch.stack(temporal).sum()
        return losses

    def embed(self, pyramid: Pyramid) -> Tensor:
        """concat_s sqrt(w_s / L_s) unit tokens: (B, sum_s L_s D)."""
        scaled = [
            (math.sqrt(weight / length) * tokens).flatten(1)
            for weight, length, tokens in zip(self.scale_weights, self.lengths, unit_tokens(pyramid), strict=True)
        ]
        return torch.cat(scaled, dim=1)
