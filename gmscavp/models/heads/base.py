"""What all heads share: the interface, unit tokens and the similarity of clips."""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.structures import Losses, Pyramid


class ContrastiveHead(nn.Module, ABC):
    """Aligns the pyramids of the two modalities.

    lengths: tokens a scale of the pyramids, filled in by the model.
    """

    @abstractmethod
    def forward(self, video: Pyramid, audio: Pyramid) -> Losses:
        """[(B, L_s, D)] of both modalities -> {'loss_<term>': ()}, weighted; other keys are only logged."""

    @abstractmethod
    def embed(self, pyramid: Pyramid) -> Tensor:
        """[(B, L_s, D)] -> (B, E) such that an inner product of embeddings is the clips' similarity."""


def clip_similarity(video: Tensor, audio: Tensor) -> Tensor:
    """S_ij = (1/L) sum_l <v_il, a_jl>: how alike clips are, step by step.

    (B, L, D), (B', L, D) unit vectors -> (B, B') in [-1, 1].
    """
    return video.flatten(1) @ audio.flatten(1).T / video.shape[1]


def unit_tokens(pyramid: Pyramid) -> Pyramid:
    """Every token at unit length, in float32."""
    return [F.normalize(tokens.float(), dim=-1) for tokens in pyramid]
