"""GMS-CAVP: two backbones, two scale pyramids, a contrastive head and the diffusion objective.

CAVP is this model with a single-scale pyramid and no diffusion; DiffGAP is CAVP with embedding diffusion.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.models.freezing import freeze, rest
from gmscavp.models.gradient_caching import check_chunk, demand_independent_rows, encoded_in_chunks
from gmscavp.models.translation import Rerank, Translation, demand_embedding, settings_of
from gmscavp.registry import BACKBONES, HEADS, MODELS, PYRAMIDS
from gmscavp.structures import Losses, Pyramid


@MODELS.register_module()
class GMSCAVP(BaseModel):
    """Backbones -> pyramids -> contrastive head (+ diffusion); every part is a config of its kind.

    What one part needs to know of another (channels, lengths, width) is filled in here, so that a config states it once.
    video_frozen, audio_frozen: how many of the backbone's parts by depth, from the input, are frozen; True for all.
    translation: settings (translation.Translation); predictions then carry `video_query` and `audio_query`, embeddings
    into which the other side as diffusion imagines it is mixed, to be compared with the plain embeddings of the other
    side. rerank: settings (translation.Rerank); predictions then carry the tokens that `matching_error` takes. Both need
    diffusion of the embedding. chunk: in training encode so many rows at a time and keep no activations of the others,
    with the gradient of the whole batch; None to encode it at once (docs/large_batches.md).
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
        video_frozen: bool | int = False,
        audio_frozen: bool | int = False,
        translation: Mapping[str, Any] | None = None,
        rerank: Mapping[str, Any] | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__(MODELS.build(dict(data_preprocessor)))
        check_chunk(chunk)
        self.chunk = chunk
        self.video_backbone = BACKBONES.build(dict(video_backbone))
        self.audio_backbone = BACKBONES.build(dict(audio_backbone))
        self._frozen = [*freeze(self.video_backbone, video_frozen), *freeze(self.audio_backbone, audio_frozen)]
        self.video_pyramid = _pyramid('video', video_pyramid, self.video_backbone)
        self.audio_pyramid = _pyramid('audio', audio_pyramid, self.audio_backbone)
        lengths, dim = self.video_pyramid.lengths, self.video_pyramid.dim
        if (self.audio_pyramid.lengths, self.audio_pyramid.dim) != (lengths, dim):
            raise UserError(
                f'the pyramids differ: video has lengths {lengths} of width {dim}, audio has '
                f'{self.audio_pyramid.lengths} of width {self.audio_pyramid.dim}; give both the same lengths and dim.'
            )
        self.head = HEADS.build(dict(head), default_args=dict(lengths=lengths))
        _demand_places(self.head, (self.video_pyramid, self.audio_pyramid), bool(diffusion))
        self.diffusion: Any = (
            MODELS.build(dict(diffusion), default_args=dict(lengths=lengths, dim=dim)) if diffusion else None
        )
        self.translation = settings_of(Translation, translation, self.diffusion)
        self.rerank = settings_of(Rerank, rerank, self.diffusion)

    def train(self, mode: bool = True) -> 'GMSCAVP':
        """Set the mode; frozen parts stay in evaluation."""
        super().train(mode)
        rest(self._frozen)
        return self

    def encode_video(self, video: Tensor) -> Pyramid:
        """(B, 3, T, H, W) in [-1, 1] -> [(B, L_s, D)]."""
        return self.video_pyramid(self.video_backbone(video))

    def encode_audio(self, mel: Tensor) -> Pyramid:
        """(B, 1, F, M) in [0, 1] -> [(B, L_s, D)]."""
        return self.audio_pyramid(self.audio_backbone(mel))

    def loss(self, video: Tensor, mel: Tensor, segments: int = 1) -> Losses:
        """Every term of the objective under its own name; MMEngine adds them up.

        segments: so many rows in succession are windows of one video, in increasing time.
        """
        v, a = self._encode_to_learn(video, mel)
        losses = self.head(v, a, segments)
        return losses | self.diffusion(video, mel, v, a) if self.diffusion else losses

    def embed(self, video: Tensor, mel: Tensor, segments: int = 1) -> tuple[Tensor, Tensor]:
        """Embeddings (B, E), (B, E) whose inner product is the similarity of the clips.

        Of clips in segments, (B N_T, ...) -> (B, N_T E): the mean similarity of matched segments.
        """
        embeddings = (self.head.embed(self.encode_video(video)), self.head.embed(self.encode_audio(mel)))
        v, a = (self._joined(x, segments) for x in embeddings)
        return v, a

    def predict(self, video: Tensor, mel: Tensor, segments: int = 1) -> dict[str, Any]:
        """What retrieval compares, a row for each clip, on the CPU.

        video_embedding, audio_embedding (B, E); with translation also video_query, audio_query (B, E); with rerank also
        video_tokens, audio_tokens: lists of (L_s, D).
        """
        tokens = {'video': self.encode_video(video), 'audio': self.encode_audio(mel)}
        rows = {f'{side}_embedding': self.head.embed(pyramid) for side, pyramid in tokens.items()}
        if self.translation:
            for side, direction in (('video', 'v2a'), ('audio', 'a2v')):
                translated = self._translated(direction, tokens[side], self.translation)
                weight = self.translation.weight
                rows[f'{side}_query'] = (1 - weight) * rows[f'{side}_embedding'] + weight * translated
        columns: dict[str, Any] = {name: _rows(self._joined(x, segments)) for name, x in rows.items()}
        if self.rerank:
            if segments > 1:
                raise UserError('rerank compares clips of one window; set rerank to None, or take one window a clip.')
            for side, pyramid in tokens.items():
                scales = zip(*(_rows(x) for x in pyramid), strict=True)
                columns[f'{side}_tokens'] = [list(clip) for clip in scales]
        return columns

    def matching_error(self, direction: str, query: Pyramid, candidate: Pyramid) -> Tensor:
        """How badly a candidate's tokens are denoised given the query's, lower for a better match: (B,).

        Row b of `candidate`, [(B, L_s, D)], is judged by row b of `query`: video and audio for v2a, the reverse for a2v.
        """
        demand_embedding('matching_error', self.diffusion)
        settings = self.rerank or Rerank()
        return self.diffusion.matching_error(direction, candidate, query, settings.times, settings.seed)

    def split_scales(self, embedding: Tensor) -> list[Tensor]:
        """The parts of embeddings that belong to each scale: (N, N_T E) -> [(N, N_T E_s)], weights included."""
        if self.head.takes_places:
            return self.head.split_scales(embedding)
        device, pyramid = next(self.parameters()).device, self.video_pyramid
        with torch.no_grad():
            nothing = [torch.zeros(1, length, pyramid.dim, device=device) for length in pyramid.lengths]
            width = self.head.embed(nothing).shape[1]
        parts = self.head.split_scales(embedding.reshape(-1, width))
        return [part.reshape(len(embedding), -1) for part in parts]

    def forward(
        self,
        video: Tensor,
        mel: Tensor,
        clip_id: Sequence[str] = (),
        start_s: Tensor | None = None,
        valid: Tensor | None = None,
        failures: Sequence[str] = (),
        segments: int = 1,
        mode: str = 'tensor',
    ) -> Losses | tuple[Tensor, Tensor] | list[dict[str, Any]]:
        """What MMEngine's runner calls. mode: 'loss' -> losses; 'predict' -> one dict a clip; 'tensor' -> embeddings."""
        if mode == 'loss':
            return self.loss(video, mel, segments)
        if mode == 'tensor':
            return self.embed(video, mel, segments)
        columns = self.predict(video, mel, segments)
        readable = valid.tolist() if valid is not None else [True] * len(clip_id)
        columns = {'clip_id': clip_id, 'valid': readable, **columns}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _encode_to_learn(self, video: Tensor, mel: Tensor) -> tuple[Pyramid, Pyramid]:
        if self.chunk is None:
            return self.encode_video(video), self.encode_audio(mel)
        demand_independent_rows(self.video_backbone, self.audio_backbone, self.video_pyramid, self.audio_pyramid)
        return (
            encoded_in_chunks(self.encode_video, video, self.chunk),
            encoded_in_chunks(self.encode_audio, mel, self.chunk),
        )

    def _translated(self, direction: str, tokens: Pyramid, how: Translation) -> Tensor:
        """The embedding of the other side's tokens as diffusion imagines them: (B, E)."""
        return self.head.embed(self.diffusion.translate(direction, tokens, how.steps, how.samples, how.seed))

    def _joined(self, embedding: Tensor, segments: int) -> Tensor:
        """(B N_T, E) -> (B, N_T E), so that an inner product is the mean over matched segments."""
        if segments == 1:
            return embedding
        if self.head.takes_places:
            raise UserError(
                "this head's similarity is no inner product, so that of several segments cannot be joined; take one "
                'window a clip, or another head.'
            )
        return embedding.unflatten(0, (-1, segments)).flatten(1) / math.sqrt(segments)


def _rows(x: Tensor) -> list[Tensor]:
    """Rows on the CPU, each in memory of its own: a view travels between ranks with the whole batch behind it."""
    return [row.clone() for row in x.float().cpu()]


def _pyramid(side: str, cfg: Mapping[str, Any], backbone: Any) -> Any:
    """Build a pyramid for a backbone, or say which setting contradicts its channels."""
    channels = backbone.out_channels
    asked = cfg.get('in_channels', channels)
    if list(asked) != list(channels):
        raise UserError(
            f'{side}: backbone gives channels {list(channels)}, pyramid expects {list(asked)}; '
            f'set {side}_pyramid.in_channels, or leave it out.'
        )
    pyramid: Any = PYRAMIDS.build(dict(cfg), default_args=dict(in_channels=channels))
    if getattr(pyramid, 'keeps_places', False) and 'middle' not in cfg:
        pyramid.middle = getattr(backbone, 'middle', 0.5)
    return pyramid


def _demand_places(head: Any, pyramids: Sequence[Any], diffusion: bool) -> None:
    """Say what to change where one part keeps the places of the picture and another cannot take them."""
    keeping = {getattr(pyramid, 'keeps_places', False) for pyramid in pyramids}
    if keeping != {getattr(head, 'takes_places', False)}:
        raise UserError(
            'tokens that keep their places go with a head that compares places: use DensePyramid on both sides together '
            'with DenseHead, or neither.'
        )
    if diffusion and True in keeping:
        raise UserError(
            'diffusion takes tokens without places; set diffusion to None, or use another pyramid and head.'
        )
