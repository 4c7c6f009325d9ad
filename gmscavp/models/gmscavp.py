"""GMS-CAVP: two backbones, two scale pyramids, a contrastive head and the diffusion objective.

CAVP is this model with a single-scale pyramid and no diffusion; DiffGAP is CAVP with embedding diffusion.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.registry import BACKBONES, HEADS, MODELS, PYRAMIDS
from gmscavp.structures import Losses, Pyramid


@MODELS.register_module()
class GMSCAVP(BaseModel):
    """Backbones -> pyramids -> contrastive head (+ diffusion); every part is a config of its kind.

    What one part needs to know of another (channels, lengths, width) is filled in here, so that a config states it once.
    """

    def __init__(
        self,
        data_preprocessor: Mapping[str, Any],
        video_backbone: Mapping[str, Any],
        audio_backbone: Mapping[str, Any],
        video_pyramid: Mapping[str, Any],
        audio_pyramid: Mapping[str, Any],
        head: Mapping[str, Any],
        diffusion: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(MODELS.build(dict(data_preprocessor)))
        self.video_backbone = BACKBONES.build(dict(video_backbone))
        self.audio_backbone = BACKBONES.build(dict(audio_backbone))
        self.video_pyramid = _pyramid('video', video_pyramid, self.video_backbone.out_channels)
        self.audio_pyramid = _pyramid('audio', audio_pyramid, self.audio_backbone.out_channels)
        lengths, dim = self.video_pyramid.lengths, self.video_pyramid.dim
        if (self.audio_pyramid.lengths, self.audio_pyramid.dim) != (lengths, dim):
            raise UserError(
                f'the pyramids differ: video has lengths {lengths} of width {dim}, audio has '
                f'{self.audio_pyramid.lengths} of width {self.audio_pyramid.dim}; give both the same lengths and dim.'
            )
        self.head = HEADS.build(dict(head), default_args=dict(lengths=lengths))
        self.diffusion = (
            MODELS.build(dict(diffusion), default_args=dict(lengths=lengths, dim=dim)) if diffusion else None
        )

    def encode_video(self, video: Tensor) -> Pyramid:
        """(B, 3, T, H, W) in [-1, 1] -> [(B, L_s, D)]."""
        return self.video_pyramid(self.video_backbone(video))

    def encode_audio(self, mel: Tensor) -> Pyramid:
        """(B, 1, F, M) in [0, 1] -> [(B, L_s, D)]."""
        return self.audio_pyramid(self.audio_backbone(mel))

    def loss(self, video: Tensor, mel: Tensor) -> Losses:
        """Every term of the objective under its own name; MMEngine adds them up."""
        v, a = self.encode_video(video), self.encode_audio(mel)
        losses = self.head(v, a)
        return losses | self.diffusion(video, mel, v, a) if self.diffusion else losses

    def embed(self, video: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, E), (B, E) whose inner product is the similarity of the clips."""
        return self.head.embed(self.encode_video(video)), self.head.embed(self.encode_audio(mel))

    def forward(
        self,
        video: Tensor,
        mel: Tensor,
        clip_id: Sequence[str] = (),
        start_s: Tensor | None = None,
        valid: Tensor | None = None,
        failures: Sequence[str] = (),
        mode: str = 'tensor',
    ) -> Losses | tuple[Tensor, Tensor] | list[dict[str, Any]]:
        """What MMEngine's runner calls. mode: 'loss' -> losses; 'predict' -> one dict a clip; 'tensor' -> embeddings."""
        if mode == 'loss':
            return self.loss(video, mel)
        v, a = self.embed(video, mel)
        if mode == 'tensor':
            return v, a
        readable = valid.tolist() if valid is not None else [True] * len(v)
        return [
            {'clip_id': name, 'valid': ok, 'video_embedding': x, 'audio_embedding': y}
            for name, ok, x, y in zip(clip_id, readable, v.float().cpu(), a.float().cpu(), strict=True)
        ]


def _pyramid(side: str, cfg: Mapping[str, Any], channels: list[int]) -> Any:
    """Build a pyramid for a backbone's channels, or say which setting contradicts them."""
    asked = cfg.get('in_channels', channels)
    if list(asked) != list(channels):
        raise UserError(
            f'{side}: backbone gives channels {list(channels)}, pyramid expects {list(asked)}; '
            f'set {side}_pyramid.in_channels, or leave it out.'
        )
    return PYRAMIDS.build(dict(cfg), default_args=dict(in_channels=channels))
