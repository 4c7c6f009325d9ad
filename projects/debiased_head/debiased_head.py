"""A contrastive head of one's own: InfoNCE that allows for false negatives."""

import math

import torch
from torch import Tensor, nn

from gmscavp.distributed import batch_sizes, gather_batch, share_of_rank
from gmscavp.models.heads import ContrastiveHead, clip_similarity, unit_tokens
from gmscavp.registry import HEADS
from gmscavp.structures import Losses, Pyramid


def debiased_nce(similarity: Tensor, own: Tensor, scale: Tensor, prior: float) -> Tensor:
    """Contrast that takes a share `prior` of the negatives to be of the same kind as the query.

    similarity (B, N) of queries and candidates, own (B,) the column of each query's match -> (). Chuang et al. 2020,
    equation 8 with one positive.
    """
    count = similarity.shape[1] - 1
    weight = (scale * similarity).exp()
    positive = weight.gather(1, own[:, None])[:, 0]
    negative = (weight.sum(dim=1) - positive) / max(count, 1)
    # The estimate may fall below what any negative can weigh; it is held at that least value.
    corrected = ((negative - prior * positive) / (1 - prior)).clamp(min=(-scale).exp())
    return -(positive / (positive + count * corrected)).log().mean()


@HEADS.register_module()
class DebiasedHead(ContrastiveHead):
    """Mean over scales of the debiased contrast, both directions.

    lengths: tokens a scale (filled in by the model). prior: share of negatives that are taken for false ones. scale:
    the logit scale at the start.
    """

    def __init__(self, lengths: list[int], prior: float = 0.05, scale: float = 1 / 0.07) -> None:
        super().__init__()
        self.lengths, self.prior = list(lengths), prior
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, video: Pyramid, audio: Pyramid, segments: int = 1) -> Losses:
        """[(B, L_s, D)] of both modalities -> loss_debiased. Segments of one video are clips like any other."""
        scale = self.log_scale.clamp(max=math.log(100)).exp()
        sizes, terms = batch_sizes(len(video[0])), []
        for v, a in zip(unit_tokens(video), unit_tokens(audio), strict=True):
            all_v, offset = gather_batch(v, sizes)
            all_a, _ = gather_batch(a, sizes)
            own = torch.arange(len(v), device=v.device) + offset
            terms += [
                debiased_nce(clip_similarity(v, all_a), own, scale, self.prior),
                debiased_nce(clip_similarity(a, all_v), own, scale, self.prior),
            ]
        return {'loss_debiased': share_of_rank(sizes) * torch.stack(terms).mean(), 'logit_scale': scale.detach()}

    def embed(self, pyramid: Pyramid) -> Tensor:
        """Unit tokens of all scales side by side, each scale with the same weight: (B, E)."""
        scales = len(self.lengths)
        tokens = [(x / math.sqrt(x.shape[1] * scales)).flatten(1) for x in unit_tokens(pyramid)]
        return torch.cat(tokens, dim=1)
