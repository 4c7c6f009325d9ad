"""Multi-scale InfoNCE: the contrast of GMS-CAVP, and with one scale that of CAVP."""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.distributed import batch_sizes, gather_batch, share_of_rank
from gmscavp.errors import UserError
from gmscavp.models.heads.base import (
    ContrastiveHead,
    clip_similarity,
    joined_scales,
    split_by_lengths,
    unit_tokens,
    weights_of_scales,
)
from gmscavp.models.tiled_contrast import check_tiling, tiled_nce
from gmscavp.registry import HEADS
from gmscavp.structures import Losses, Pyramid

SAME_VIDEO = ('negative', 'ignore')


def semantic_nce(
    video: Tensor,
    audio: Tensor,
    all_video: Tensor,
    all_audio: Tensor,
    scale: Tensor,
    offset: int,
    ignore_within: int = 1,
) -> Tensor:
    """Match clips across the global batch, both directions, for the rows of this rank.

    (B, L, D) unit vectors of this rank, (W B, L, D) of all ranks, in which this rank's rows begin at `offset` -> ().
    ignore_within: of so many rows in succession, which are one video's, the others are left out of a row's candidates.
    Radford et al. 2021, figure 3, on the similarity averaged over steps.
    """
    target = torch.arange(len(video), device=video.device) + offset
    v2a, a2v = (scale * clip_similarity(x, every) for x, every in ((video, all_audio), (audio, all_video)))
    if ignore_within > 1:
        column = torch.arange(len(all_video), device=video.device)
        same_video = target[:, None] // ignore_within == column // ignore_within
        left_out = same_video & (target[:, None] != column)
        v2a, a2v = v2a.masked_fill(left_out, -math.inf), a2v.masked_fill(left_out, -math.inf)
    return (F.cross_entropy(v2a, target) + F.cross_entropy(a2v, target)) / 2


def temporal_nce(video: Tensor, audio: Tensor, scale: Tensor) -> Tensor:
    """Match steps within a clip: other steps of the same clip are the negatives.

    (B, L, D), (B, L, D) unit vectors -> (). Luo et al. 2023, temporal contrast.
    """
    return _match_within(scale * video @ audio.transpose(1, 2))


def segment_nce(video: Tensor, audio: Tensor, scale: Tensor, segments: int) -> Tensor:
    """Match segments within a video: its other segments are the negatives.

    (B N_T, L, D), (B N_T, L, D) unit vectors, N_T = segments rows in succession for each video -> (). Luo et al. 2023,
    temporal contrast, on the similarity averaged over steps.
    """
    v, a = (x.flatten(1).unflatten(0, (-1, segments)) for x in (video, audio))
    return _match_within(scale * v @ a.transpose(1, 2) / video.shape[1])


def _match_within(logits: Tensor) -> Tensor:
    """Cross entropy of square blocks (B, N, N), row n belonging to column n, mean of both directions: ()."""
    target = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    return (F.cross_entropy(logits.transpose(1, 2), target) + F.cross_entropy(logits, target)) / 2


def _gather_pyramids(video: Pyramid, audio: Pyramid, sizes: Sequence[int]) -> tuple[Pyramid, Pyramid, int]:
    """Both pyramids of all ranks by one collective, and where this rank's rows begin."""
    parts = (*video, *audio)
    everything, offset = gather_batch(torch.cat([x.flatten(1) for x in parts], dim=1), sizes)
    columns = everything.split([x[0].numel() for x in parts], dim=1)
    gathered = [column.unflatten(1, x.shape[1:]) for column, x in zip(columns, parts, strict=True)]
    return gathered[: len(video)], gathered[len(video) :], offset


@HEADS.register_module()
class MultiScaleInfoNCE(ContrastiveHead):
    """L_align = sum_s w_s (L_sem^s + temporal_weight L_temp^s + segment_weight L_seg^s).

    lengths: tokens a scale (filled in by the model). scale_weights: w_s, default 1/S each. temporal_weight: lambda_t,
    for scales of more than one token. segment_weight: of the contrast between the segments of one video, where clips come
    in segments. same_video: in the semantic term other segments of a clip's video are 'negative' like any other clip
    (CAVP), or the term is to 'ignore' them. init_scale: exp(tau) at the start, 1/0.07 in CAVP; max_scale: where it is
    clamped. per_scale: learn one logit scale for every scale rather than one for all. tile: compute the semantic term in
    tiles of so many clips and hold no (B, B) matrix, None for the dense term. gather: tokens of 'all' ranks at once, or
    in a 'ring', where no rank ever holds all tokens. The loss and its gradient stay the same (docs/large_batches.md).
    """

    def __init__(
        self,
        lengths: list[int],
        scale_weights: list[float] | None = None,
        temporal_weight: float = 0.1,
        init_scale: float = 1 / 0.07,
        max_scale: float = 100.0,
        per_scale: bool = False,
        segment_weight: float = 0.0,
        same_video: str = 'negative',
        tile: int | None = None,
        gather: str = 'all',
    ) -> None:
        super().__init__()
        check_tiling(tile, gather)
        if same_video not in SAME_VIDEO:
            raise UserError(f"head: same_video must be one of {', '.join(SAME_VIDEO)}, not '{same_video}'.")
        self.lengths = list(lengths)
        self.scale_weights = weights_of_scales(scale_weights, self.lengths)
        self.temporal_weight, self.segment_weight = temporal_weight, segment_weight
        self.same_video = same_video
        self.tile, self.gather = tile, gather
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.full((len(lengths) if per_scale else 1,), math.log(init_scale)))

    def logit_scales(self) -> Tensor:
        """k = exp(tau) <= max_scale, one for every scale: (S,)."""
        return self.log_scale.clamp(max=math.log(self.max_scale)).exp().expand(len(self.lengths))

    @torch.autocast('cuda', enabled=False)
    @torch.autocast('cpu', enabled=False)
    def forward(self, video: Pyramid, audio: Pyramid, segments: int = 1) -> Losses:
        """[(B, L_s, D)] -> loss_semantic, loss_temporal, loss_segment; the logit scale is logged beside them.

        A term without weight, or without anything to contrast, is not there. Logits are float32.
        """
        v, a = unit_tokens(video), unit_tokens(audio)
        sizes = batch_sizes(len(v[0]))
        semantic = self._semantic(v, a, sizes, segments if self.same_video == 'ignore' else 1)
        share = share_of_rank(sizes)
        terms: dict[str, list[Tensor]] = defaultdict(list)
        for s, (weight, scale) in enumerate(zip(self.scale_weights, self.logit_scales(), strict=True)):
            terms['loss_semantic'].append(weight * semantic[s])
            if self.temporal_weight and self.lengths[s] > 1:
                part = weight * share * self.temporal_weight
                terms['loss_temporal'].append(part * temporal_nce(v[s], a[s], scale))
            if self.segment_weight and segments > 1:
                part = weight * share * self.segment_weight
                terms['loss_segment'].append(part * segment_nce(v[s], a[s], scale, segments))
        losses = {name: torch.stack(values).sum() for name, values in terms.items()}
        return losses | {'logit_scale': self.logit_scales().mean().detach()}

    def _semantic(self, v: Pyramid, a: Pyramid, sizes: Sequence[int], ignore_within: int) -> Sequence[Tensor]:
        """The semantic term of every scale: S of ()."""
        scales, ring = self.logit_scales(), self.gather == 'ring'
        if self.tile or ring:
            flat_v, flat_a = ([x.flatten(1) for x in tokens] for tokens in (v, a))
            factors = torch.stack([k / length for k, length in zip(scales, self.lengths, strict=True)])
            return tiled_nce(flat_v, flat_a, factors, self.tile, ring, ignore_within, sizes).unbind()
        all_v, all_a, offset = _gather_pyramids(v, a, sizes)
        each = zip(v, a, all_v, all_a, scales, strict=True)
        return [share_of_rank(sizes) * semantic_nce(*tensors, offset, ignore_within) for tensors in each]

    def embed(self, pyramid: Pyramid) -> Tensor:
        """concat_s sqrt(w_s / L_s) unit tokens: (B, sum_s L_s D)."""
        return joined_scales(pyramid, self.scale_weights)

    def split_scales(self, embedding: Tensor) -> list[Tensor]:
        """(N, sum_s L_s D) -> [(N, L_s D)]."""
        return split_by_lengths(embedding, self.lengths)
