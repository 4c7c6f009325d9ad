"""The denoiser of the diffusion objective: one small transformer for all scales."""

import torch
from torch import Tensor, nn

from gmscavp.errors import UserError
from gmscavp.models.denoisers.base import Denoiser, token_times
from gmscavp.models.layers import Attention, run_again, sinusoid
from gmscavp.registry import DENOISERS
from gmscavp.structures import Pyramid


class _Block(nn.Module):
    """Self-attention, cross-attention, MLP; the noise level shifts, scales and gates each (AdaLN).

    Peebles & Xie 2023, but gates start at one, so that the condition teaches its encoder from the first step.
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

    def forward(self, x: Tensor, level: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """x (B, N, W), level (B, W), source (B, M, W), mask (N, N) -> (B, N, W)."""
        shift, scale, gate = self.modulation(level)[:, None].unflatten(-1, (3, 3, -1)).unbind(2)

        def modulated(i: int) -> Tensor:
            return self.norms[i](x) * (1 + scale[:, :, i]) + shift[:, :, i]

        x = x + (1 + gate[:, :, 0]) * self.self_attention(modulated(0), mask=mask)
        x = x + (1 + gate[:, :, 1]) * self.cross_attention(modulated(1), source)
        return x + (1 + gate[:, :, 2]) * self.mlp(modulated(2))


@DENOISERS.register_module()
class TokenTransformer(Denoiser):
    """A small transformer shared over scales, with a scale embedding; each scale attends to itself and to the condition.

    width, depth, heads: of the transformer. aligned: beside attending to all of the condition, every token is given the
    condition's token of its own scale and step, which covers the same moment; without it a denoiser learns only slowly
    where to look. gradient_checkpointing: less memory, one more forward pass. The other arguments are filled in by the
    diffusion objective.
    """

    mask: Tensor
    positions: Tensor
    condition_positions: Tensor

    def __init__(
        self,
        lengths: list[int],
        channels: list[int],
        condition_lengths: list[int],
        condition_dim: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        aligned: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.lengths, self.width = list(lengths), width
        self.gradient_checkpointing = gradient_checkpointing
        self.into = nn.ModuleList(nn.Linear(count, width) for count in channels)
        self.out = nn.ModuleList(nn.Linear(width, count) for count in channels)
        self.condition_in = nn.Linear(condition_dim, width)
        if aligned and list(condition_lengths) != list(lengths):
            raise UserError(
                f'TokenTransformer: aligned needs a condition of the same lengths, {lengths}; it has {condition_lengths}.'
            )
        self.aligned = nn.Linear(condition_dim, width) if aligned else None
        self.null = nn.Parameter(0.02 * torch.randn(width))
        self.scale_embedding = nn.Parameter(0.02 * torch.randn(len(lengths), width))
        self.condition_scale_embedding = nn.Parameter(0.02 * torch.randn(len(condition_lengths), width))
        self.level = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        scale_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(self.lengths))
        self.register_buffer('mask', scale_of[:, None] == scale_of[None, :], persistent=False)
        self.register_buffer('positions', sinusoid(token_times(self.lengths), width), persistent=False)
        self.register_buffer('condition_positions', sinusoid(token_times(condition_lengths), width), persistent=False)

    def forward(self, x: Pyramid, t: Tensor, condition: Pyramid, keep: Tensor | None = None) -> Pyramid:
        """See Denoiser."""
        tokens = [into(part) + at for into, part, at in zip(self.into, x, self.scale_embedding, strict=True)]
        hidden = torch.cat(tokens, dim=1) + self.positions
        source = self._source(condition, keep)
        if self.aligned is not None:
            now = self.aligned(torch.cat(condition, dim=1))
            hidden = hidden + (now if keep is None else torch.where(keep[:, None, None], now, 0.0))
        level = self.level(sinusoid(t, self.width))
        for block in self.blocks:
            given = (hidden, level, source, self.mask)
            hidden = run_again(block, *given) if self.gradient_checkpointing else block(*given)
        parts = self.norm(hidden).split(self.lengths, dim=1)
        return [out(part) for out, part in zip(self.out, parts, strict=True)]

    def _source(self, condition: Pyramid, keep: Tensor | None) -> Tensor:
        """The condition's tokens of all scales with their place in time, or the null condition: (B, M, W)."""
        parts = [
            self.condition_in(part) + at for part, at in zip(condition, self.condition_scale_embedding, strict=True)
        ]
        source = torch.cat(parts, dim=1) + self.condition_positions
        if keep is None:
            return source
        return torch.where(keep[:, None, None], source, self.null)
