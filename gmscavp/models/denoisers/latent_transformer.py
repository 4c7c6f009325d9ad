"""A diffusion transformer over the patches of a log-mel, of a video, or of their latents."""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.denoisers.base import LatentDenoiser, token_times
from gmscavp.models.layers import Attention, Rotation, run_again, sinusoid
from gmscavp.registry import DENOISERS
from gmscavp.structures import Pyramid


def patches(x: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, C, *size) -> (B, N, C * prod(patch)), N = prod(size / patch), time slowest."""
    if len(patch) == 2:
        return rearrange(x, 'b c (t i) (m j) -> b (t m) (c i j)', i=patch[0], j=patch[1])
    return rearrange(x, 'b c (t i) (h j) (w k) -> b (t h w) (c i j k)', i=patch[0], j=patch[1], k=patch[2])


def unpatched(tokens: Tensor, patch: Sequence[int], grid: Sequence[int]) -> Tensor:
    """The inverse of `patches`: (B, N, C * prod(patch)) -> (B, C, *size), grid = size / patch."""
    if len(patch) == 2:
        return rearrange(tokens, 'b (t m) (c i j) -> b c (t i) (m j)', t=grid[0], i=patch[0], j=patch[1])
    return rearrange(
        tokens,
        'b (t h w) (c i j k) -> b c (t i) (h j) (w k)',
        t=grid[0],
        h=grid[1],
        i=patch[0],
        j=patch[1],
        k=patch[2],
    )


class Remembered(NamedTuple):
    """What a condition is to the network at every noise level.

    now: what is added to the patches, (B, N, W), None where nothing is. looked_up: keys and values of every block.
    """

    now: Tensor | None
    looked_up: list[tuple[Tensor, Tensor]]


class _Block(nn.Module):
    """Self-attention, cross-attention, MLP; shifted, scaled and gated by the noise level, gates at zero (AdaLN-zero).

    Peebles & Xie 2023, section 3.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 9 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, level: Tensor, key: Tensor, value: Tensor, rotation: Rotation) -> Tensor:
        """x (B, N, W), level (B, W), key and value of the condition (B, M, H, K) -> (B, N, W)."""
        shift, scale, gate = self.modulation(level)[:, None].unflatten(-1, (3, 3, -1)).unbind(2)

        def modulated(i: int) -> Tensor:
            return self.norms[i](x) * (1 + scale[:, :, i]) + shift[:, :, i]

        x = x + gate[:, :, 0] * self.self_attention(modulated(0), rotation=rotation)
        x = x + gate[:, :, 1] * self.cross_attention.look_up(modulated(1), key, value)
        return x + gate[:, :, 2] * self.mlp(modulated(2))


@DENOISERS.register_module()
class LatentTransformer(LatentDenoiser):
    """Patches attend to each other and to the condition's tokens of all scales.

    Places enter by rotary positions over all axes (Su et al. 2021), the moments of the condition's tokens as sinusoids,
    the noise level by AdaLN-zero (Peebles & Xie 2023). aligned: the condition's finest scale is also added to the patches
    of the same moment; where several of its tokens fall into one patch, each has its own weights, so that a patch knows
    when within it something happens. patch: places of a patch along each axis. width, depth, heads: of the transformer.
    gradient_checkpointing: less memory, one more forward pass. The other arguments are filled in by the generator.
    """

    times: Tensor

    def __init__(
        self,
        channels: int,
        size: list[int],
        condition_lengths: list[int],
        condition_dim: int,
        patch: list[int],
        width: int = 192,
        depth: int = 6,
        heads: int = 6,
        aligned: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.patch, self.grid = list(patch), _grid(size, patch)
        self.width, self.lengths = width, list(condition_lengths)
        values = channels * prod(patch)
        self.into = nn.Linear(values, width)
        self.condition_in = nn.Linear(condition_dim, width)
        # Tokens of the finest scale in the time of a patch.
        self.within = max(1, condition_lengths[0] // self.grid[0])
        self.aligned = nn.Linear(self.within * condition_dim, width) if aligned else None
        self.null = nn.Parameter(0.02 * torch.randn(width))
        self.scale_embedding = nn.Parameter(0.02 * torch.randn(len(condition_lengths), width))
        self.level = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.rotation = Rotation(self.grid, width // heads)
        self.blocks: Any = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.last_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, values)
        for layer in (self.last_modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer('times', sinusoid(token_times(self.lengths), width), persistent=False)

    def forward(self, x: Tensor, t: Tensor, condition: Pyramid | Remembered, keep: Tensor | None = None) -> Tensor:
        """See LatentDenoiser."""
        known = condition if isinstance(condition, Remembered) else self.remember(condition, keep)[0]
        hidden = self.into(patches(x, self.patch))
        if known.now is not None:
            hidden = hidden + known.now
        level = self.level(sinusoid(t, self.width))
        for block, (key, value) in zip(self.blocks, known.looked_up, strict=True):
            given = (hidden, level, key, value, self.rotation)
            hidden = run_again(block, *given) if self.gradient_checkpointing else block(*given)
        shift, scale = self.last_modulation(level)[:, None].chunk(2, dim=-1)
        return unpatched(self.out(self.norm(hidden) * (1 + scale) + shift), self.patch, self.grid)

    def remember(self, condition: Pyramid, keep: Tensor | None = None) -> tuple[Remembered, None]:
        """See LatentDenoiser."""
        now = None
        if self.aligned is not None:
            now = self.aligned(self._in_patches(condition[0])).repeat_interleave(prod(self.grid[1:]), dim=1)
            now = now if keep is None else torch.where(keep[:, None, None], now, 0.0)
        source = self._source(condition, keep)
        return Remembered(now, [block.cross_attention.keys_values(source) for block in self.blocks]), None

    def compile_steps(self, backend: str = 'inductor') -> None:
        """See LatentDenoiser; one block is compiled, for all of them."""
        for block in self.blocks:
            block.compile(dynamic=False, backend=backend)

    def _source(self, condition: Pyramid, keep: Tensor | None) -> Tensor:
        """The condition's tokens of all scales with their place in time, or the null condition: (B, M, W)."""
        parts = [self.condition_in(part) + at for part, at in zip(condition, self.scale_embedding, strict=True)]
        source = torch.cat(parts, dim=1) + self.times
        return source if keep is None else torch.where(keep[:, None, None], source, self.null)

    def _in_patches(self, tokens: Tensor) -> Tensor:
        """Tokens of one scale by the times of the patches: (B, L, D) -> (B, steps, within * D)."""
        length, x = self.grid[0] * self.within, tokens.transpose(1, 2)
        if x.shape[2] > length:
            x = F.adaptive_avg_pool1d(x, length)
        elif x.shape[2] < length:
            x = F.interpolate(x, size=length, mode='linear')
        return rearrange(x, 'b d (t k) -> b t (k d)', k=self.within)


def _grid(size: Sequence[int], patch: Sequence[int]) -> list[int]:
    """Patches along each axis. UserError: they do not divide."""
    if len(size) not in (2, 3) or len(patch) != len(size) or any(n % p for n, p in zip(size, patch, strict=True)):
        raise UserError(
            f'LatentTransformer: patch {list(patch)} does not divide the signal of {list(size)} places; give one '
            'divisor for each axis: (time, band) or (time, height, width).'
        )
    return [n // p for n, p in zip(size, patch, strict=True)]
