"""Encoders of the library `transformers` as backbones: VideoMAE and CLIP over frames; AST and CLAP over the mel."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmscavp.errors import UserError
from gmscavp.models.backbones.base import Backbone
from gmscavp.models.backbones.transformers_encoder.adapters import (
    ASTAdapter,
    ClapAdapter,
    ClipAdapter,
    VideoMAEAdapter,
)
from gmscavp.models.backbones.transformers_encoder.loading import Kind, load_encoder
from gmscavp.registry import BACKBONES
from gmscavp.structures import Features

_CLIP = Kind(ClipAdapter, 'CLIPVisionModel')
_CLAP = Kind(ClapAdapter, 'ClapAudioModel', {'ClapModel': 'audio_model', 'ClapAudioModelWithProjection': 'audio_model'})
VIDEO_KINDS = {'videomae': Kind(VideoMAEAdapter, 'VideoMAEModel'), 'clip_vision_model': _CLIP, 'clip': _CLIP}
AUDIO_KINDS = {
    'audio-spectrogram-transformer': Kind(ASTAdapter, 'ASTModel'), 'clap_audio_model': _CLAP, 'clap': _CLAP
}  # fmt: skip


@BACKBONES.register_module()
class TransformersVideo(Backbone):
    """VideoMAE, or CLIP's vision side over every frame, from the library `transformers` (the extra gmscavp[hf]).

    (B, 3, T, H, W) in [-1, 1] -> [(B, T', P, C)]: the last layer, without class tokens. VideoMAE (Tong et al. 2022) takes
    exactly the frames and pixels of its config (16 of 224 x 224) and gives T' = T / 2; CLIP (Radford et al. 2021) takes
    any, T' = T. Pixels are normed by `mean` and `std` (of values in [0, 1]), by default those of the family.

    source: a folder that `save_pretrained` wrote, an id of the hub ('MCG-NJU/videomae-base'), or with pretrained=False
    also a dictionary of the library's config with its model_type. pretrained=False leaves the weights random.
    gradient_checkpointing: less memory, one more forward pass; not for CLAP.
    """

    adapter: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        source: str | Mapping[str, Any],
        pretrained: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        kind, encoder = load_encoder(VIDEO_KINDS, source, pretrained, gradient_checkpointing)
        adapter: Any = kind.adapter(encoder)
        self.adapter = adapter
        self.out_channels = [adapter.out_channels]
        for name, given, usual in zip(('mean', 'std'), (mean, std), adapter.pixels, strict=True):
            value = torch.tensor([*(given or usual)]).view(1, 3, 1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def by_depth(self) -> list[nn.Module]:
        """The embeddings, then the layers; a norm after the last is part of it."""
        return self.adapter.parts()

    def forward(self, video: Tensor) -> Features:
        """(B, 3, T, H, W) -> [(B, T', P, C)]."""
        return [self.adapter(((video + 1) / 2 - self.mean) / self.std)]


@BACKBONES.register_module()
class TransformersAudio(Backbone):
    """AST, or CLAP's audio side, from the library `transformers` (the extra gmscavp[hf]).

    (B, 1, F, M) in [0, 1] -> [(B, T, P, C)]: the last layer, bands low to high, without class tokens. The mel has to be
    computed as near to the family's own as ours can be, or weights of the hub make no sense; these settings of
    data_preprocessor, the sample rate also in clip.sample_rate:

    - AST (Gong et al. 2021): sample_rate=16000, n_fft=512, hop=160, bands=128, f_min=20, f_max=8000. Bands, pre-emphasis
      and norm of its own filter bank are put in here: correlation 0.965 with it on nine real clips (scatter 0.12 where its
      own deviation is 0.44). A step is 10 frames (0.1 s), P = 12. `frames` must be the F of the clips (400 for 4 s), at
      most 1024.
    - CLAP (Wu et al. 2023): sample_rate=48000, n_fft=1024, hop=480, bands=64, f_min=50, f_max=14000; correlation 0.998,
      0.9 dB below its own, scatter 1.1 dB. A step is 32 frames (0.32 s), P = 2, at most 1024 frames.

    source, pretrained, gradient_checkpointing: see TransformersVideo.
    """

    adapter: Any

    def __init__(
        self,
        source: str | Mapping[str, Any],
        pretrained: bool = True,
        frames: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        kind, encoder = load_encoder(AUDIO_KINDS, source, pretrained, gradient_checkpointing)
        if kind is _CLAP and frames is not None:
            raise UserError('CLAP takes a mel of any length up to its own; leave audio_backbone.frames out.')
        adapter: Any = kind.adapter(encoder) if kind is _CLAP else kind.adapter(encoder, frames)
        self.adapter = adapter
        self.out_channels = [adapter.out_channels]

    def by_depth(self) -> list[nn.Module]:
        """The embeddings, then the layers (stages in CLAP); a norm after the last is part of it."""
        return self.adapter.parts()

    def forward(self, mel: Tensor) -> Features:
        """(B, 1, F, M) -> [(B, T, P, C)]."""
        return [self.adapter(mel)]
