"""Layers that several plug-ins share: attention, transformer blocks and embeddings."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gmscavp.errors import UserError

try:
    from xformers.ops import memory_efficient_attention
except ImportError:  # the extra gmscavp[cuda]; SDPA serves where it is missing
    memory_efficient_attention = None


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention: xformers on CUDA where it is installed, torch's SDPA otherwise.

    query (B, N, H, K), key and value (B, M, H, K) -> (B, N, H, K). mask (N, M) bool, True where attending is allowed.
    """
    # xformers takes masks only as aligned additive biases; SDPA handles the masked case as fast.
    if memory_efficient_attention is not None and query.is_cuda and mask is None:
        return memory_efficient_attention(query, key, value)
    query, key, value = (rearrange(x, 'b n h k -> b h n k') for x in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(query, key, value, attn_mask=mask), 'b h n k -> b n h k')


def run_again(layer: nn.Module, *given: Any) -> Any:
    """layer(*given), whose activations are computed again in the backward pass instead of being kept. Chen et al. 2016."""
    return checkpoint(layer, *given, use_reentrant=False) if torch.is_grad_enabled() else layer(*given)


class Rotation(nn.Module):
    """Rotary positions of tokens on a grid: every axis turns its own share of the pairs of a head's width.

    grid: places along each axis, the first slowest; at most three axes. (B, N, H, K) -> (B, N, H, K) for N = prod(grid).
    The inner product of two turned tokens depends on their places only by the difference. Su et al. 2021, equation 34.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, grid: Sequence[int], width: int, longest: float = 100.0) -> None:
        super().__init__()
        if width % 2 or width // 2 < len(grid):
            raise UserError(
                f'rotary positions over {len(grid)} axes need heads of an even width, {2 * len(grid)} or more.'
            )
        places = torch.cartesian_prod(*(torch.arange(count).float() for count in grid)).view(-1, len(grid))
        pairs = [width // 2 // len(grid) + (axis < width // 2 % len(grid)) for axis in range(len(grid))]
        angles = [places[:, axis, None] * longest ** (-torch.arange(count) / count) for axis, count in enumerate(pairs)]
        angle = torch.cat(angles, dim=1)[:, None]
        self.register_buffer('cos', angle.cos(), persistent=False)
        self.register_buffer('sin', angle.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, H, K) -> (B, N, H, K)."""
        first, second = x.float().chunk(2, dim=-1)
        turned = torch.cat([first * self.cos - second * self.sin, first * self.sin + second * self.cos], dim=-1)
        return turned.to(x.dtype)


class Attention(nn.Module):
    """Multi-head attention from tokens to a source (to themselves when none is given).

    (B, N, dim), (B, M, source_dim) -> (B, N, dim).
    """

    def __init__(self, dim: int, heads: int, source_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(source_dim or dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """What tokens look up in a source: (B, M, source_dim) -> two of (B, M, H, K)."""
        key, value = rearrange(self.key_value(source), 'b m (two h k) -> two b m h k', two=2, h=self.heads)
        return key, value

    def look_up(
        self,
        tokens: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """As forward, in keys and values that were made before, once for many tokens."""
        query = rearrange(self.query(tokens), 'b n (h k) -> b n h k', h=self.heads)
        if rotation is not None:
            query, key = rotation(query), rotation(key)
        return self.out(rearrange(attend(query, key, value, mask), 'b n h k -> b n (h k)'))

    def forward(
        self,
        tokens: Tensor,
        source: Tensor | None = None,
        mask: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """mask (N, M) bool, True where attending is allowed. rotation: of tokens that attend to each other."""
        return self.look_up(tokens, *self.keys_values(tokens if source is None else source), mask, rotation)


class DropPath(nn.Module):
    """Stochastic depth: in training a clip loses the whole branch with probability `drop`, the others get it / (1 - drop).

    (B, ...) -> (B, ...). The expectation is the branch itself. Huang et al. 2016.
    """

    def __init__(self, drop: float) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise UserError(f'drop_path must be from 0 to below 1, not {drop}.')
        self.drop = drop

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training or self.drop == 0:
            return branch
        kept = torch.rand(len(branch), device=branch.device) >= self.drop
        return branch * (kept / (1 - self.drop)).to(branch.dtype).view(-1, *[1] * (branch.dim() - 1))


class TransformerBlock(nn.Module):
    """Self-attention, then an MLP of four times the width, each behind its LayerNorm and beside a residual.

    (B, ..., N, dim) -> the same; the N tokens attend to each other, apart for every entry of the axes before them.
    drop_path: see DropPath; it drops for a clip as a whole. Dosovitskiy et al. 2021, section 3.1.
    """

    def __init__(self, dim: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., N, dim) -> (B, ..., N, dim)."""
        attended = self.attention(self.attention_norm(x).flatten(0, -3)).view(x.shape)
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.mlp_norm(x)))


def sinusoid(position: Tensor, dim: int, longest: float = 1.0, shortest: float = 1e-3) -> Tensor:
    """Sines and cosines of real positions at wave lengths from `longest` to `shortest` (times 2 pi).

    (...) -> (..., dim). Vaswani et al. 2017, section 3.5.
    """
    waves = torch.exp(torch.linspace(math.log(longest), math.log(shortest), dim // 2, device=position.device))
    angle = position[..., None].float() / waves
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
