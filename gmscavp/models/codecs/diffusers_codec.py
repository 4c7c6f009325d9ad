"""An autoencoder of the library `diffusers` as a codec, of video or of the log-mel."""

import importlib
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors import SafetensorError
from torch import Tensor

# The library imports torchaudio by way of transformers, which works beside a CPU build of torch only after this.
import gmscavp.compat  # noqa: F401
from gmscavp.errors import UserError
from gmscavp.models.codecs.base import Codec, divided
from gmscavp.registry import CODECS

INSTALL = 'pip install -c requirements/constraints.txt "gmscavp[hf]"'
_KIND = 'AutoencoderKL'


@CODECS.register_module()
class DiffusersCodec(Codec):
    """A frozen AutoencoderKL from a folder with config.json and safetensors: Stable Diffusion's, for example.

    side 'video': (B, 3, T, H, W) in [-1, 1] <-> (B, C, T, H / S, W / S), frame by frame. side 'audio': (B, 1, F, M) in
    [0, 1] <-> (B, C, F / S, M / S), stretched to [-1, 1]; an autoencoder of three channels gets the mel in each of them
    and the mean of what it gives is taken. bands_first: it takes mels with bands as rows and time as columns; latents have
    time first all the same. chunk: pictures that are coded at once. Latents are shifted and scaled as the folder's
    config.json says. UserError: the library is missing, the folder holds something else, or weights are missing.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, folder: str, side: str = 'video', bands_first: bool = False, chunk: int = 16) -> None:
        super().__init__()
        if side not in ('video', 'audio'):
            raise UserError(f"DiffusersCodec: side must be 'video' or 'audio', not '{side}'.")
        if bands_first and side == 'video':
            raise UserError("DiffusersCodec: bands_first is about a mel; leave it out, or set side='audio'.")
        self.side, self.bands_first, self.chunk = side, bands_first, chunk
        self.autoencoder = _loaded(Path(folder).expanduser()).requires_grad_(False).eval()
        settings = self.autoencoder.config
        self.pictures = int(settings.in_channels)
        if settings.out_channels != self.pictures or self.pictures not in ((3,) if side == 'video' else (1, 3)):
            raise UserError(
                f'{folder} codes {self.pictures} channels to {settings.out_channels}; a codec of {side} needs '
                f'{"3" if side == "video" else "1 or 3"}.'
            )
        self.channels = int(settings.latent_channels)
        self.stride = 2 ** (len(settings.block_out_channels) - 1)
        mean, deviation = _standard(settings, self.channels)
        self.register_buffer('mean', mean.view(1, -1, 1, 1), persistent=False)
        self.register_buffer('deviation', deviation.view(1, -1, 1, 1), persistent=False)

    def places(self, signal: Sequence[int]) -> list[int]:
        """(T, H, W) -> [T, H / S, W / S]; (F, M) -> [F / S, M / S]."""
        s = self.stride
        if self.side == 'video':
            return divided(signal, [1, s, s], ('frames', 'rows', 'columns'), 'change clip.size or the crop')
        mend = 'change clip.duration_s, or hop and bands of the preprocessor'
        return divided(signal, [s, s], ('mel frames', 'mel bands'), mend)

    def encode(self, signal: Tensor) -> Tensor:
        """Signal -> the means of its latents, shifted and scaled (B, C, *places)."""
        self.places(signal.shape[2:])
        means = [self.autoencoder.encode(part).latent_dist.mode() for part in self._pictures(signal).split(self.chunk)]
        latents = (torch.cat(means) - self.mean) / self.deviation
        return self._laid_out(latents, len(signal))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, *places) -> signal within its range."""
        own = self._frames(latents) * self.deviation + self.mean
        made = torch.cat([self.autoencoder.decode(part).sample for part in own.split(self.chunk)])
        if self.side == 'audio':
            made = (made.mean(1, keepdim=True) + 1) / 2
        low = -1 if self.side == 'video' else 0
        return self._laid_out(made, len(latents)).clamp(low, 1)

    def _pictures(self, signal: Tensor) -> Tensor:
        """A signal as what the autoencoder takes: (N, 1 or 3, rows, columns) in [-1, 1]."""
        pictures = self._frames(signal)
        return pictures if self.side == 'video' else (2 * pictures - 1).expand(-1, self.pictures, -1, -1)

    def _frames(self, x: Tensor) -> Tensor:
        """Signal or latents -> pictures, a video's frames in the batch."""
        if self.side == 'video':
            return rearrange(x, 'b c t h w -> (b t) c h w')
        return x.transpose(2, 3) if self.bands_first else x

    def _laid_out(self, pictures: Tensor, clips: int) -> Tensor:
        """Undo `_frames`."""
        if self.side == 'video':
            return rearrange(pictures, '(b t) c h w -> b c t h w', b=clips)
        return pictures.transpose(2, 3) if self.bands_first else pictures


def _standard(settings: Mapping[str, Any], channels: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every channel (C,), from scaling_factor, shift_factor, latents_mean and latents_std."""
    scale = settings.get('scaling_factor') or 1.0
    mean = torch.tensor(settings.get('latents_mean') or [settings.get('shift_factor') or 0.0] * channels)
    deviation = torch.tensor(settings.get('latents_std') or [1.0] * channels) / scale
    if not math.isfinite(scale) or not len(mean) == len(deviation) == channels:
        raise UserError(
            f'config.json: scaling_factor {scale}, latents_mean and latents_std do not fit {channels} channels.'
        )
    return mean.float(), deviation.float()


def _loaded(folder: Path) -> Any:
    """The library's model with all its weights, in float32. The network is never used, and no pickle is read."""
    _demand_folder(folder)
    try:
        library = importlib.import_module('diffusers')
        model, report = getattr(library, _KIND).from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except ImportError as error:
        raise UserError(f'DiffusersCodec needs the library diffusers ({error}); install it with: {INSTALL}') from error
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f'{folder} cannot be loaded: {textwrap.shorten(str(error), 300)}') from error
    missing = sorted(map(str, [*report['missing_keys'], *report['mismatched_keys']]))
    if missing:
        raise UserError(f'{folder} lacks {len(missing)} weights of {_KIND}, for example {missing[0]}; copy it anew.')
    return model


def _demand_folder(folder: Path) -> None:
    settings = folder / 'config.json'
    if not settings.is_file():
        inner = next((folder / name for name in ('vae',) if (folder / name / 'config.json').is_file()), None)
        said = f'give {inner}' if inner else 'give the folder that save_pretrained wrote'
        raise UserError(f'{folder} has no config.json of an {_KIND}; {said}.')
    try:
        kind = json.loads(settings.read_text()).get('_class_name')
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise UserError(f'{settings} is damaged; copy the folder anew.') from error
    if kind != _KIND:
        raise UserError(f'{folder} holds a {kind}, not an {_KIND}; give another folder.')
