"""What each family of encoders takes and gives, in terms of ours: normed frames or our mel -> (B, T, P, C)."""

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from gmscavp.errors import UserError

# Mean and deviation of pixels in [0, 1]: ImageNet's, and those of CLIP's training data (Radford et al. 2021).
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP_PIXELS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Mean, and twice the deviation, of AST's filter bank over AudioSet in natural logarithms (Gong et al. 2021).
_AST_MEAN, _AST_SCALE = -4.2677393, 2 * 4.5689974


class VideoMAEAdapter(nn.Module):
    """Tubes of two frames by 16 x 16 pixels attend to each other; frames and pixels as many as it was trained for."""

    pixels = _IMAGENET

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels = encoder.config.hidden_size

    def parts(self) -> list[nn.Module]:
        """The encoder from the input to the output."""
        encoder = self.encoder
        last = [] if encoder.layernorm is None else [encoder.layernorm]
        return [encoder.embeddings, *encoder.encoder.layer[:-1], nn.ModuleList([encoder.encoder.layer[-1], *last])]

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W), pixels normed -> (B, T', P, C)."""
        config = self.encoder.config
        wanted = (config.num_frames, *self.encoder.embeddings.patch_embeddings.image_size)
        if tuple(video.shape[2:]) != wanted:
            given = ' x '.join(map(str, video.shape[2:]))
            raise UserError(
                f'VideoMAE takes {wanted[0]} frames of {wanted[1]} x {wanted[2]} pixels and the clips have {given}; '
                'set clip.duration_s, clip.fps and the size of the crop to match.'
            )
        tokens = self.encoder(pixel_values=video.transpose(1, 2)).last_hidden_state
        return rearrange(tokens, 'b (t p) c -> b t p c', t=config.num_frames // config.tubelet_size)


class ClipAdapter(nn.Module):
    """Every frame by itself; positions are interpolated for other picture sizes; the class token is left out."""

    pixels = _CLIP_PIXELS

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels = encoder.config.hidden_size
        # It norms the class token alone: without a gradient, it would stop distributed training.
        encoder.post_layernorm = nn.Identity()

    def parts(self) -> list[nn.Module]:
        """The encoder from the input to the output."""
        encoder = self.encoder
        return [nn.ModuleList([encoder.embeddings, encoder.pre_layrnorm]), *encoder.encoder.layers]

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W), pixels normed -> (B, T', P, C)."""
        config, size = self.encoder.config, tuple(video.shape[-2:])
        if min(size) < config.patch_size:
            raise UserError(
                f'CLIP: frames of {size[0]} x {size[1]} pixels hold no patch of {config.patch_size}; give larger frames.'
            )
        tokens = self.encoder(
            pixel_values=rearrange(video, 'b c t h w -> (b t) c h w'),
            interpolate_pos_encoding=size != (config.image_size, config.image_size),
        ).last_hidden_state
        return rearrange(tokens[:, 1:], '(b t) p c -> b t p c', b=len(video))


class ASTAdapter(nn.Module):
    """The spectrogram transformer of Gong et al. 2021 on our mel, brought to the scale of its own filter bank.

    frames: how long the mel is; the positions in time beyond it are cut off. The class and distillation tokens are left
    out of the features.
    """

    lower: Tensor
    fraction: Tensor
    offset: Tensor

    def __init__(self, encoder: Any, frames: int | None) -> None:
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.out_channels, self.bands, self.frames = (
            config.hidden_size,
            config.num_mel_bins,
            frames or config.max_length,
        )
        if not config.patch_size <= self.frames <= config.max_length:
            raise UserError(
                f'AST has positions for {config.patch_size} to {config.max_length} frames, not for {self.frames}; set '
                'audio_backbone.frames to the frames of your mel, or give shorter clips.'
            )
        rows, columns = encoder.embeddings.get_shape(config)
        self.columns = (self.frames - config.patch_size) // config.time_stride + 1
        extra, places = encoder.embeddings.position_embeddings.detach().split([2, rows * columns], dim=1)
        places = rearrange(places, 'one (m t) c -> one m t c', m=rows)[:, :, : self.columns].flatten(1, 2)
        encoder.embeddings.position_embeddings = nn.Parameter(torch.cat([extra, places], dim=1))
        for name, value in zip(('lower', 'fraction', 'offset'), fbank_map(self.bands), strict=True):
            self.register_buffer(name, value, persistent=False)

    def parts(self) -> list[nn.Module]:
        """The encoder from the input to the output."""
        encoder = self.encoder
        return [encoder.embeddings, *encoder.layers[:-1], nn.ModuleList([encoder.layers[-1], encoder.layernorm])]

    def filter_bank(self, mel: Tensor) -> Tensor:
        """(B, 1, F, M) in [0, 1] -> (B, F, M), normed logarithms of power as AST takes them."""
        mel = mel[:, 0]
        between = torch.lerp(mel[..., self.lower], mel[..., self.lower + 1], self.fraction)
        # The mel is (20 log10 magnitude + 80) / 100.
        return ((100 * between - 80) * (math.log(10) / 10) + self.offset - _AST_MEAN) / _AST_SCALE

    def forward(self, mel: Tensor) -> Tensor:
        """(B, 1, F, M) in [0, 1] -> (B, T, P, C)."""
        _demand_bands('AST', mel, self.bands, 'n_fft=512, hop=160, f_min=20, f_max=8000 at 16000 Hz')
        if mel.shape[2] != self.frames:
            raise UserError(
                f'AST: the mel has {mel.shape[2]} frames, the backbone is for {self.frames}; set audio_backbone.frames.'
            )
        tokens = self.encoder(input_values=self.filter_bank(mel)).last_hidden_state
        return rearrange(tokens[:, 2:], 'b (m t) c -> b t m c', t=self.columns)


class ClapAdapter(nn.Module):
    """CLAP's audio side (HTSAT, a Swin transformer) on our mel, brought to its decibels of power.

    It was trained on 10 s: a shorter mel is repeated, as CLAP does, and the steps of the first pass come out.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        inner, config = encoder.audio_encoder, encoder.config
        self.out_channels, self.bands = inner.num_features, config.num_mel_bins
        self.frames = config.spec_size * inner.freq_ratio
        if config.enable_fusion:
            # For recordings that do not fit; a clip always does.
            inner.patch_embed.fusion_model = inner.patch_embed.mel_conv2d = nn.Identity()

    def parts(self) -> list[nn.Module]:
        """The encoder from the input to the output."""
        inner = self.encoder.audio_encoder
        first, last = (
            nn.ModuleList([inner.batch_norm, inner.patch_embed]),
            nn.ModuleList([inner.layers[-1], inner.norm]),
        )
        return [first, *inner.layers[:-1], last]

    def decibels(self, mel: Tensor) -> Tensor:
        """(B, 1, F, M) in [0, 1] -> (B, 1, frames, M) or, for a fusing model, (B, 4, frames, M), repeated in time."""
        # Magnitude to power: for a flat spectrum the sum over a band's bins differs by their distance in Hz.
        power = 100 * mel - 80 + 10 * math.log10(48000 / 1024)
        times = math.ceil(self.frames / mel.shape[2])
        repeated = power.repeat(1, 4 if self.encoder.config.enable_fusion else 1, times, 1)
        return repeated[:, :, : self.frames]

    def forward(self, mel: Tensor) -> Tensor:
        """(B, 1, F, M) in [0, 1] -> (B, T, P, C)."""
        _demand_bands('CLAP', mel, self.bands, 'n_fft=1024, hop=480, f_min=50, f_max=14000 at 48000 Hz')
        if mel.shape[2] > self.frames:
            raise UserError(
                f'CLAP takes up to {self.frames} frames and the mel has {mel.shape[2]}; give shorter clips.'
            )
        longer = torch.zeros(len(mel), 1, dtype=torch.bool, device=mel.device)
        features = self.encoder(input_features=self.decibels(mel), is_longer=longer).last_hidden_state
        steps = max(1, round(features.shape[-1] * mel.shape[2] / self.frames))
        return rearrange(features, 'b c m t -> b t m c')[:, :steps]


def fbank_map(bands: int) -> tuple[Tensor, Tensor, Tensor]:
    """How AST's filter bank is read off our mel: band k lies at `fraction` between our bands `lower` and `lower` + 1.

    Both divide 20 .. 8000 Hz into `bands` triangles, ours evenly on Slaney's scale and with area one, AST's (that of
    Kaldi) evenly on the logarithmic one and with height one, after a pre-emphasis of 0.97 and on power. `offset`, natural
    logarithm: the gain of the pre-emphasis, and power over height-one triangles for magnitude over area-one ones, for a
    flat spectrum of bins 16000 / 512 Hz apart. -> lower (bands,) int64, fraction (bands,), offset (bands,).
    """
    step = (_kaldi_mel(8000.0) - _kaldi_mel(20.0)) / (bands + 1)
    hz = 700 * (torch.exp((_kaldi_mel(20.0) + step * torch.arange(1, bands + 1)) / 1127) - 1)
    first, last = _slaney_mel(torch.tensor([20.0, 8000.0])).tolist()
    place = ((_slaney_mel(hz) - first) * (bands + 1) / (last - first) - 1).clamp(0, bands - 1)
    lower = place.floor().long().clamp(max=bands - 2)
    bin_hz = 16000 / 512
    half_width_hz = step * (700 + hz) / 1127
    emphasis = 1 + 0.97**2 - 2 * 0.97 * torch.cos(2 * math.pi * hz / 16000)
    offset = torch.log(emphasis) + 2 * math.log(bin_hz) + torch.log(half_width_hz / bin_hz)
    return lower, place - lower, offset


def _kaldi_mel(hz: float) -> float:
    return 1127 * math.log1p(hz / 700)


def _slaney_mel(hz: Tensor) -> Tensor:
    """Even below 1000 Hz, logarithmic above (Slaney 1998)."""
    return torch.where(hz < 1000, hz * 3 / 200, 15 + 27 * torch.log(hz.clamp(min=1) / 1000) / math.log(6.4))


def _demand_bands(family: str, mel: Tensor, bands: int, settings: str) -> None:
    if mel.shape[-1] != bands:
        raise UserError(
            f'{family} takes a mel of {bands} bands and this one has {mel.shape[-1]}; set data_preprocessor to '
            f'bands={bands} ({settings}).'
        )
