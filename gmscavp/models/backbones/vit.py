"""Vision transformers: over the frames of a video, with attention over time where asked, and over the log-mel."""

from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gmscavp.errors import UserError
from gmscavp.models.backbones.base import Backbone
from gmscavp.models.layers import Attention, DropPath, TransformerBlock, sinusoid
from gmscavp.registry import BACKBONES
from gmscavp.structures import Features

# (width, depth, heads): base and large of Dosovitskiy et al. 2021, tiny and small of Touvron et al. 2021 (DeiT).
SIZES = {'tiny': (192, 12, 3), 'small': (384, 12, 6), 'base': (768, 12, 12), 'large': (1024, 24, 16)}


class _Patches(nn.Module):
    """Cut a picture into patches, project them and add where they were.

    (B, channels, H, W) -> (B, h, w, width) with h = (H - patch) // stride + 1, w alike; what is left over at the far
    edges is dropped. grid: (h, w) for which positions are learned; for others they are interpolated.
    """

    def __init__(
        self, channels: int, width: int, patch: tuple[int, int], stride: tuple[int, int], grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, patch, stride)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, width, *grid), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, h, w, width)."""
        patches = self.project(x)
        positions: Tensor = self.positions
        if patches.shape[2:] != positions.shape[2:]:
            positions = F.interpolate(positions, patches.shape[2:], mode='bicubic', align_corners=False)
        return (patches + positions).permute(0, 2, 3, 1)


class _TimeAttention(nn.Module):
    """Tokens of the same place attend over time. (B, T, P, C) -> the same, unchanged at the start of training.

    Bertasius et al. 2021 (divided space-time attention); the moment is told as sinusoids, so that any T will do.
    """

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, P, C) -> (B, T, P, C)."""
        clips, frames, _, width = x.shape
        moments = (torch.arange(frames, device=x.device) + 0.5) / frames
        tokens = self.norm(x) + sinusoid(moments, width).to(x.dtype)[:, None]
        attended = self.attention(rearrange(tokens, 'b t p c -> (b p) t c'))
        return x + self.drop_path(rearrange(attended, '(b p) t c -> b t p c', b=clips))


class _Layer(nn.Module):
    """A transformer block, attention over time after it where asked, and a norm where the layer is an output."""

    def __init__(self, width: int, heads: int, drop_path: float, over_time: bool, is_output: bool) -> None:
        super().__init__()
        self.block = TransformerBlock(width, heads, drop_path)
        self.time = _TimeAttention(width, heads, drop_path) if over_time else None
        self.out_norm = nn.LayerNorm(width, eps=1e-6) if is_output else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return x if self.time is None else self.time(x)


class _Layers(nn.ModuleList):
    """The transformer itself: layers in turn, the outputs of some of them normed and collected."""

    def __init__(
        self,
        size: tuple[int, int, int],
        drop_path: float,
        out_layers: Sequence[int] | None,
        temporal_layers: Iterable[int] = (),
        gradient_checkpointing: bool = False,
    ) -> None:
        width, depth, heads = size
        outputs = _layer_numbers('out_layers', [depth] if out_layers is None else out_layers, depth)
        if not outputs:
            raise UserError('out_layers names no layer; leave it out for the last one alone.')
        over_time = _layer_numbers('temporal_layers', temporal_layers, depth)
        # Early layers serve all later ones and are dropped less: the rate rises evenly from 0 (Huang et al. 2016).
        rates = [drop_path * index / max(depth - 1, 1) for index in range(depth)]
        super().__init__(
            _Layer(width, heads, rate, number in over_time, number in outputs) for number, rate in enumerate(rates, 1)
        )
        self.gradient_checkpointing = gradient_checkpointing
        self.out_channels = [width] * len(outputs)
        self.apply(_initialise)
        for module in self.modules():
            if isinstance(module, _TimeAttention):
                nn.init.zeros_(module.attention.out.weight)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, ..., N, C) -> the normed tokens of every output layer, in the order of depth."""
        outputs = []
        for layer in self:
            x = self._run(layer, x)
            if isinstance(layer.out_norm, nn.LayerNorm):
                outputs.append(layer.out_norm(x))
        return outputs

    def _run(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(layer, x, use_reentrant=False)
        return layer(x)


@BACKBONES.register_module()
class FrameViT(Backbone):
    """A vision transformer over every frame, with attention over time after some layers.

    (B, 3, T, H, W) in [-1, 1] -> (B, T, P, C) per output, P = (H // patch) (W // patch) places; for 224 x 224 and patch 16
    that is 196. Any T; positions are learned for image_size and interpolated for other picture sizes.

    size: 'tiny' (C = 192, 5.5 M parameters), 'small' (384, 21.7 M), 'base' (768, 85.8 M) or 'large' (1024, 303 M); width,
    depth and heads replace its figures one by one. temporal_layers: numbers of the layers (from 1) after which tokens of
    the same place attend over time, or a number k for every k-th; none by default. Their output starts at zero, so that
    the network starts as one of single frames; each adds 4 C^2 + 6 C parameters. out_layers: numbers of the layers whose
    normed tokens come out, default the last one alone. drop_path: see DropPath, of the last layer; it rises from 0.
    gradient_checkpointing: less memory, one more forward pass.
    """

    def __init__(
        self,
        size: str = 'small',
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        patch: int = 16,
        image_size: int = 224,
        temporal_layers: int | Sequence[int] = (),
        out_layers: Sequence[int] | None = None,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        sizes = _sizes(size, width, depth, heads)
        over_time = _every(temporal_layers, sizes[1])
        grid = _grid('image_size', (image_size, image_size), (patch, patch), (patch, patch))
        self.patch = patch
        self.patches = _Patches(3, sizes[0], (patch, patch), (patch, patch), grid)
        _initialise(self.patches.project)
        self.layers = _Layers(sizes, drop_path, out_layers, over_time, gradient_checkpointing)
        self.out_channels = self.layers.out_channels

    def by_depth(self) -> list[nn.Module]:
        """The patches, then the layers: part i is layer i."""
        return [self.patches, *self.layers]

    def forward(self, video: Tensor) -> Features:
        """(B, 3, T, H, W) -> [(B, T, P, C)]."""
        clips, (height, width) = len(video), video.shape[-2:]
        if min(height, width) < self.patch:
            raise UserError(
                f'FrameViT: frames of {height} x {width} pixels hold no patch of {self.patch} x {self.patch}; '
                'give larger frames (clip.size, the crop) or a smaller video_backbone.patch.'
            )
        tokens = self.patches(rearrange(video, 'b c t h w -> (b t) c h w'))
        return self.layers(rearrange(tokens, '(b t) h w c -> b t (h w) c', b=clips))


@BACKBONES.register_module()
class SpectrogramViT(Backbone):
    """A vision transformer over patches of the log-mel; all patches of a clip attend to each other. As AST (Gong 2021).

    (B, 1, F, M) in [0, 1] -> (B, T, P, C) per output with T = (F - p) // s + 1 for patches of p frames every s, and
    P bands alike, low to high. patch, stride: (frames, bands); a stride smaller than the patch makes patches overlap, no
    stride is the patch. What is left over at the end is dropped. bands: M; frames: F for which positions are learned;
    for other F they are interpolated. The defaults give (B, 16, 8, C) for F = 256, M = 128.

    size: 'tiny' (C = 192, 5.4 M parameters), 'small' (384, 21.4 M), 'base' (768, 85.4 M) or 'large' (1024, 303 M); the
    other settings are those of FrameViT.
    """

    def __init__(
        self,
        size: str = 'small',
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        bands: int = 128,
        frames: int = 256,
        patch: tuple[int, int] = (16, 16),
        stride: tuple[int, int] | None = None,
        out_layers: Sequence[int] | None = None,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        sizes = _sizes(size, width, depth, heads)
        patch, stride = _pair(patch), _pair(stride or patch)
        grid = _grid('frames and bands', (frames, bands), patch, stride)
        self.bands, self.patch = bands, patch
        self.patches = _Patches(1, sizes[0], patch, stride, grid)
        _initialise(self.patches.project)
        self.layers = _Layers(sizes, drop_path, out_layers, gradient_checkpointing=gradient_checkpointing)
        self.out_channels = self.layers.out_channels

    def by_depth(self) -> list[nn.Module]:
        """The patches, then the layers: part i is layer i."""
        return [self.patches, *self.layers]

    def forward(self, mel: Tensor) -> Features:
        """(B, 1, F, M) -> [(B, T, P, C)]."""
        frames, bands = mel.shape[-2:]
        if bands != self.bands:
            raise UserError(
                f'SpectrogramViT: the mel has {bands} bands, the backbone is for {self.bands}; '
                'give audio_backbone.bands and data_preprocessor.bands the same number.'
            )
        if frames < self.patch[0]:
            raise UserError(
                f'SpectrogramViT: a mel of {frames} frames holds no patch of {self.patch[0]}; '
                'give longer clips (clip.duration_s) or fewer frames in audio_backbone.patch.'
            )
        # The range of the video, about zero mean: a constant offset would drown the patches' differences.
        tokens = self.patches(2 * mel - 1)
        outputs = self.layers(tokens.flatten(1, 2))
        return [output.unflatten(1, tokens.shape[1:3]) for output in outputs]


def _initialise(module: nn.Module) -> None:
    """Weights from a normal of 0.02 cut at 2, biases zero (Dosovitskiy et al. 2021)."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _sizes(size: str, width: int | None, depth: int | None, heads: int | None) -> tuple[int, int, int]:
    """(width, depth, heads) of a named size, with what is given in their place."""
    if size not in SIZES:
        raise UserError(f"size must be one of {', '.join(SIZES)}, not '{size}'.")
    named = SIZES[size]
    width, depth, heads = width or named[0], depth or named[1], heads or named[2]
    if width % heads or width % 2:
        raise UserError(
            f'a width of {width} cannot be shared out to {heads} heads; give a multiple of both 2 and heads.'
        )
    return width, depth, heads


def _grid(name: str, size: tuple[int, int], patch: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """How many patches fit along both axes; an error when none does."""
    if min(*patch, *stride) < 1:
        raise UserError(f'patch and stride must be at least 1, not {patch} and {stride}.')
    rows, columns = ((n - p) // s + 1 for n, p, s in zip(size, patch, stride, strict=True))
    if rows < 1 or columns < 1:
        raise UserError(
            f'{name} = {size[0]} x {size[1]} hold no patch of {patch[0]} x {patch[1]}; make the patch smaller.'
        )
    return rows, columns


def _pair(value: Sequence[int]) -> tuple[int, int]:
    """A config's list of two as a tuple."""
    if isinstance(value, int) or len(value) != 2:
        raise UserError(f'patch and stride are pairs (frames, bands), got {value}.')
    return value[0], value[1]


def _every(layers: int | Sequence[int], depth: int) -> Sequence[int]:
    """Layer numbers, k standing for every k-th."""
    if not isinstance(layers, int):
        return layers
    if 0 < layers <= depth:
        return range(layers, depth + 1, layers)
    return [layers] if layers else ()


def _layer_numbers(setting: str, numbers: Iterable[int], depth: int) -> set[int]:
    wrong = [number for number in numbers if not 1 <= number <= depth]
    if wrong:
        raise UserError(f'{setting}: there are layers 1 to {depth}, no layer {wrong[0]}.')
    return set(numbers)
