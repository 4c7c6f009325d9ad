"""What all heads share: the interface, unit tokens and the similarity of clips."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.structures import Losses, Pyramid


class ContrastiveHead(nn.Module, ABC):
    """Aligns the pyramids of the two modalities.

    lengths: tokens a scale of the pyramids, filled in by the model. takes_places: it wants tokens that keep their places,
    (B, L_s, P, D), as DensePyramid gives them. compares_clips: its loss is no mean over clips, since it tells each from
    the others of its batch, so that batches cannot be accumulated in place of a larger one.
    """

    takes_places: bool = False
    compares_clips: bool = True

    @abstractmethod
    def forward(self, video: Pyramid, audio: Pyramid, segments: int = 1) -> Losses:
        """[(B, L_s, D)] of both modalities -> {'loss_<term>': ()}, weighted; other keys are only logged.

        segments: so many rows in succession are windows of one video, in increasing time.
        """

    @abstractmethod
    def embed(self, pyramid: Pyramid) -> Tensor:
        """[(B, L_s, D)] -> (B, E) such that `similarity` of embeddings is that of the clips."""

    def similarity(self, video_embedding: Tensor, audio_embedding: Tensor) -> Tensor:
        """How alike every video is to every audio: (N, E), (M, E) -> (N, M). The inner product, unless a head says else."""
        return video_embedding @ audio_embedding.T

    def split_scales(self, embedding: Tensor) -> list[Tensor]:
        """The parts of embeddings that belong to each scale, weights included: (N, E) -> [(N, E_s)].

        The inner products of the parts add up to that of the whole. A head without scales has one part.
        """
        return [embedding]


def clip_similarity(video: Tensor, audio: Tensor) -> Tensor:
    """S_ij = (1/L) sum_l <v_il, a_jl>: how alike clips are, step by step.

    (B, L, D), (B', L, D) unit vectors -> (B, B') in [-1, 1].
    """
    return video.flatten(1) @ audio.flatten(1).T / video.shape[1]


def split_by_lengths(embedding: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Cut embeddings that hold L_s tokens of one width for every scale: (N, sum_s L_s D) -> [(N, L_s D)]."""
    width = embedding.shape[1] // sum(lengths)
    return list(embedding.split([length * width for length in lengths], dim=1))


def joined_scales(pyramid: Pyramid, weights: Sequence[float]) -> Tensor:
    """concat_s sqrt(w_s / L_s) unit tokens, so that inner products are sum_s w_s S^s: [(B, L_s, D)] -> (B, sum_s L_s D)."""
    parts = [
        (math.sqrt(weight / tokens.shape[1]) * tokens).flatten(1)
        for weight, tokens in zip(weights, unit_tokens(pyramid), strict=True)
    ]
    return torch.cat(parts, dim=1)


def unit_tokens(pyramid: Pyramid) -> Pyramid:
    """Every token at unit length, in float32."""
    return [F.normalize(tokens.float(), dim=-1) for tokens in pyramid]


def weights_of_scales(given: list[float] | None, lengths: list[int]) -> list[float]:
    """w_s of every scale, 1/S each where none are given. Raises UserError where there are not as many as scales."""
    weights = list(given or [1 / len(lengths)] * len(lengths))
    if len(weights) != len(lengths):
        raise UserError(f'head: scale_weights has {len(weights)} entries, the pyramids have {len(lengths)} scales.')
    return weights
