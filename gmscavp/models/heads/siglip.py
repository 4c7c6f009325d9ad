"""The sigmoid loss: every pair of clips is a yes-or-no question of its own."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.distributed import batch_sizes, gather_batch, share_of_rank
from gmscavp.models.heads.base import (
    ContrastiveHead,
    clip_similarity,
    joined_scales,
    split_by_lengths,
    unit_tokens,
    weights_of_scales,
)
from gmscavp.models.tiled_contrast import check_tiling, tiled_sigmoid
from gmscavp.registry import HEADS
from gmscavp.structures import Losses, Pyramid


def sigmoid_loss(logits: Tensor, offset: int = 0) -> Tensor:
    """-(1/N) sum_ij log sigmoid(z_ij logit_ij), z = +1 where column j is row i + offset, -1 elsewhere.

    (..., N, M) -> (), the mean over leading axes. Zhai et al. 2023, equation 1.
    """
    rows, columns = logits.shape[-2:]
    match = torch.ones(rows, columns, device=logits.device, dtype=logits.dtype).triu(offset).tril(offset)
    return -F.logsigmoid((2 * match - 1) * logits).sum(dim=(-2, -1)).mean() / rows


@HEADS.register_module()
class SigLIPHead(ContrastiveHead):
    """L = sum_s w_s (L_sem^s + temporal_weight L_temp^s), each by the sigmoid loss. Zhai et al. 2023.

    L_sem^s: similarities of all clips of the global batch, k S^s + b, where the right pairs are the diagonal, over the
    number of this rank's rows. L_temp^s: the same over the steps of each clip, for scales of more than one token.
    lengths: tokens a scale (filled in by the model). scale_weights: w_s, default 1/S each. init_scale, init_bias: k =
    exp(tau) and b at the start; the bias begins where most pairs are told apart, since they are. per_scale: learn k and
    b for every scale rather than one for all. Segments of one video are told apart like other clips. tile: compute L_sem
    in tiles of so many clips and hold no (B, B) matrix, None for the dense term. gather: the tokens of sounds of 'all'
    ranks at once, or in a 'ring', where no rank ever holds all of them. The loss and its gradient stay the same
    (docs/large_batches.md).
    """

    def __init__(
        self,
        lengths: list[int],
        scale_weights: list[float] | None = None,
        temporal_weight: float = 0.0,
        init_scale: float = 10.0,
        init_bias: float = -10.0,
        per_scale: bool = False,
        tile: int | None = None,
        gather: str = 'all',
    ) -> None:
        super().__init__()
        check_tiling(tile, gather)
        self.tile, self.gather = tile, gather
        self.lengths = list(lengths)
        self.scale_weights = weights_of_scales(scale_weights, self.lengths)
        self.temporal_weight = temporal_weight
        count = len(lengths) if per_scale else 1
        self.log_scale = nn.Parameter(torch.full((count,), math.log(init_scale)))
        self.bias = nn.Parameter(torch.full((count,), float(init_bias)))

    @torch.autocast('cuda', enabled=False)
    @torch.autocast('cpu', enabled=False)
    def forward(self, video: Pyramid, audio: Pyramid, segments: int = 1) -> Losses:
        """[(B, L_s, D)] -> loss_semantic, loss_temporal; scale and bias are logged beside them. Logits are float32."""
        v, a = unit_tokens(video), unit_tokens(audio)
        scales, biases = (x.expand(len(self.lengths)) for x in (self.log_scale.exp(), self.bias))
        sizes = batch_sizes(len(v[0]))
        semantic = self._semantic(v, a, scales, biases, sizes)
        temporal = []
        for s, weight in enumerate(self.scale_weights):
            if self.temporal_weight and self.lengths[s] > 1:
                logits = scales[s] * v[s] @ a[s].transpose(1, 2) + biases[s]
                temporal.append(weight * share_of_rank(sizes) * self.temporal_weight * sigmoid_loss(logits))
        losses = {
            'loss_semantic': torch.stack([w * x for w, x in zip(self.scale_weights, semantic, strict=True)]).sum(),
            'logit_scale': scales.mean().detach(),
            'logit_bias': biases.mean().detach(),
        }
        if temporal:
            losses['loss_temporal'] = torch.stack(temporal).sum()
        return losses

    def _semantic(
        self, v: Pyramid, a: Pyramid, scales: Tensor, biases: Tensor, sizes: Sequence[int]
    ) -> Sequence[Tensor]:
        """The semantic term of every scale: S of ()."""
        ring = self.gather == 'ring'
        if self.tile or ring:
            flat_v, flat_a = ([x.flatten(1) for x in tokens] for tokens in (v, a))
            factors = torch.stack([k / length for k, length in zip(scales, self.lengths, strict=True)])
            return tiled_sigmoid(flat_v, flat_a, factors, biases, self.tile, ring, sizes).unbind()
        # The rows of all ranks together ask about every pair once, so only one side has to travel.
        everything, offset = gather_batch(torch.cat([x.flatten(1) for x in a], dim=1), sizes)
        all_a = [
            part.unflatten(1, x.shape[1:])
            for part, x in zip(split_by_lengths(everything, self.lengths), a, strict=True)
        ]
        each = zip(v, all_a, scales, biases, strict=True)
        return [share_of_rank(sizes) * sigmoid_loss(k * clip_similarity(x, y) + b, offset) for x, y, k, b in each]

    def embed(self, pyramid: Pyramid) -> Tensor:
        """concat_s sqrt(w_s / L_s) unit tokens: (B, sum_s L_s D)."""
        return joined_scales(pyramid, self.scale_weights)

    def split_scales(self, embedding: Tensor) -> list[Tensor]:
        """(N, sum_s L_s D) -> [(N, L_s D)]."""
        return split_by_lengths(embedding, self.lengths)
