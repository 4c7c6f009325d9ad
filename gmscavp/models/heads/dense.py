"""Contrast through places: a sound belongs to a video if some place of the picture answers it, window by window."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.distributed import batch_sizes, gather_batch, share_of_rank
from gmscavp.errors import UserError
from gmscavp.models.heads.base import ContrastiveHead, unit_tokens
from gmscavp.registry import HEADS
from gmscavp.structures import Losses, Pyramid


def dense_similarity(video: Tensor, audio: Tensor) -> Tensor:
    """S_ij = (1/L) sum_l max_p <v_ilp, a_jl>: in every window the place that fits the sound best counts.

    (N, L, P, D), (M, L, D) unit vectors -> (N, M) in [-1, 1]. Senocak et al. 2018; Hamilton et al. 2024 (DenseAV).
    """
    # Window by window: all cells of all pairs at once take L times the memory.
    best = [torch.einsum('npd,md->nmp', video[:, step], audio[:, step]).amax(dim=2) for step in range(video.shape[1])]
    return torch.stack(best).mean(dim=0)


@HEADS.register_module()
class DenseHead(ContrastiveHead):
    """InfoNCE over the global batch on `dense_similarity`, for pyramids that keep their places (DensePyramid).

    lengths: [L] (filled in by the model). init_scale: exp(tau) at the start; max_scale: where it is clamped. Segments of
    one video are told apart like other clips.
    """

    takes_places = True

    def __init__(self, lengths: list[int], init_scale: float = 1 / 0.07, max_scale: float = 100.0) -> None:
        super().__init__()
        if len(lengths) != 1:
            raise UserError(f'DenseHead compares one scale, the pyramids have {len(lengths)}; use DensePyramid.')
        self.lengths = list(lengths)
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.tensor([math.log(init_scale)]))

    @torch.autocast('cuda', enabled=False)
    @torch.autocast('cpu', enabled=False)
    def forward(self, video: Pyramid, audio: Pyramid, segments: int = 1) -> Losses:
        """[(B, L, P, D)], [(B, L, 1, D)] -> loss_semantic; the logit scale is logged beside it. Logits are float32."""
        v, a = self._tokens(video), self._tokens(audio)
        if a.shape[2] != 1:
            raise UserError(f"the sound has {a.shape[2]} places; set audio_pyramid.places='bands' for DenseHead.")
        sizes = batch_sizes(len(v))
        all_a, offset = gather_batch(a.squeeze(2), sizes)
        # Similarities travel instead of the video's tokens, which are P times as many as the audio's.
        scale = self.log_scale.clamp(max=math.log(self.max_scale)).exp()
        rows = scale * dense_similarity(v, all_a)
        columns = gather_batch(rows, sizes)[0][:, offset : offset + len(v)].T
        target = torch.arange(len(v), device=v.device) + offset
        loss = share_of_rank(sizes) * (F.cross_entropy(rows, target) + F.cross_entropy(columns, target)) / 2
        return {'loss_semantic': loss, 'logit_scale': scale.mean().detach()}

    def embed(self, pyramid: Pyramid) -> Tensor:
        """Unit tokens: (B, L * P * D) of a video, (B, L * D) of an audio."""
        return self._tokens(pyramid).flatten(1)

    def similarity(self, video_embedding: Tensor, audio_embedding: Tensor) -> Tensor:
        """(N, L * P * D), (M, L * D) as `embed` gives them -> (N, M). A maximum over places is no inner product."""
        audio = audio_embedding.unflatten(1, (self.lengths[0], -1))
        video = video_embedding.unflatten(1, (self.lengths[0], -1, audio.shape[2]))
        # Videos one by one: a gallery's cells against all sounds do not fit into memory.
        return torch.cat([dense_similarity(one[None], audio) for one in video])

    def heat_map(self, video: Tensor, audio: Tensor) -> Tensor:
        """Where in the picture the sound of each window comes from: the cosine of every cell with the window's sound.

        Tokens (B, L, g * g, D), (B, L, 1, D) of the same clips -> (B, L, g, g) in [-1, 1].
        """
        v, a = self._tokens([video]), self._tokens([audio])
        side = math.isqrt(v.shape[2])
        return (v * a).sum(dim=3).unflatten(2, (side, side))

    def _tokens(self, pyramid: Pyramid) -> Tensor:
        if len(pyramid) != 1 or pyramid[0].dim() != 4:
            raise UserError('DenseHead needs tokens that keep their places; use DensePyramid on both sides.')
        return unit_tokens(pyramid)[0]
