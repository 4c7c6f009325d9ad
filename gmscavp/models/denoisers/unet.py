"""The U-Net of latent diffusion, for latents laid out over time and bands."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.denoisers.base import LatentDenoiser
from gmscavp.models.layers import Attention, run_again, sinusoid
from gmscavp.registry import DENOISERS
from gmscavp.structures import Pyramid


def _norm(channels: int) -> nn.GroupNorm:
    """Up to 32 groups of four channels or more: in a group of one, the norm would take the noise level out again."""
    groups = max(count for count in range(1, max(2, min(32, channels // 4) + 1)) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Weights at zero: what ends in it adds nothing at the start of training."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class _ResidualBlock(nn.Module):
    """Two convolutions, the noise level added between them, with a residual. Ho et al. 2020, appendix B."""

    def __init__(self, channels: int, out_channels: int, level: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.level = nn.Linear(level, out_channels)
        self.second = nn.Sequential(
            _norm(out_channels), nn.SiLU(), _zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        )
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, C, F, M), (B, E) -> (B, C', F, M)."""
        return self.skip(x) + self.second(self.first(x) + self.level(level)[:, :, None, None])


class _GatedMLP(nn.Module):
    """A network token by token of four times the width, gated by GELU. Shazeer 2020."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(width, 8 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.into(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))


LookedUp = tuple[Tensor, Tensor] | None


class Remembered(NamedTuple):
    """What a condition is to the network at every noise level: keys and values of every step, None where none attends."""

    looked_up: list[LookedUp]


class _Attending(nn.Module):
    """Places attend to each other and to the condition. Rombach et al. 2022, section 3.3."""

    def __init__(self, channels: int, heads: int, source_dim: int) -> None:
        super().__init__()
        self.into = nn.Sequential(_norm(channels), nn.Conv2d(channels, channels, 1))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.self_attention = Attention(channels, heads)
        self.cross_attention = Attention(channels, heads, source_dim)
        self.mlp = _GatedMLP(channels)
        self.out = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """x (B, C, F, M), key and value of the condition (B, N, H, K) -> (B, C, F, M)."""
        tokens = rearrange(self.into(x), 'b c f m -> b (f m) c')
        tokens = tokens + self.self_attention(self.norms[0](tokens))
        tokens = tokens + self.cross_attention.look_up(self.norms[1](tokens), key, value)
        tokens = tokens + self.mlp(self.norms[2](tokens))
        return x + self.out(rearrange(tokens, 'b (f m) c -> b c f m', f=x.shape[2]))


class _Step(nn.Module):
    """One step of the U: a residual block, attention where the level has it, then half or twice the size, or neither."""

    def __init__(
        self,
        block: _ResidualBlock | None = None,
        attending: _Attending | None = None,
        resize: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.block, self.attending, self.resize = block, attending, resize

    def forward(self, x: Tensor, level: Tensor, looked_up: LookedUp) -> Tensor:
        if self.block is not None:
            x = self.block(x, level)
        if self.attending is not None and looked_up is not None:
            x = self.attending(x, *looked_up)
        return x if self.resize is None else self.resize(x)


@DENOISERS.register_module()
class UNetDenoiser(LatentDenoiser):
    """Residual blocks down and up again over (time, band), with attention to the condition at chosen levels.

    Rombach et al. 2022, as Luo et al. 2023 (Diff-Foley) use it. width: channels of the first level; multipliers: of the
    width, one a level, each level half the size of the one before; blocks: residual blocks a level on the way down (one
    more on the way up); attention_levels: which levels, 0 the finest, attend to themselves and to the condition, beside
    the middle, which always does; heads: of the attention; context: width that the condition's tokens of all scales are
    mapped to, beside a learned position each. The null condition is one learned token. gradient_checkpointing: less
    memory, one more forward pass. The other arguments are filled in by the generator.

    The defaults are small enough for a CPU. The ancestor's sizes, for latents of 4 channels over 64 x 16 places:
    width=320, multipliers=[1, 2, 4, 4], blocks=2, attention_levels=[0, 1, 2], heads=8, context=768: 860.0 M parameters
    with 32 tokens of width 512 as condition.
    """

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        condition_lengths: Sequence[int],
        condition_dim: int,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int = 1,
        attention_levels: Sequence[int] = (2, 3),
        heads: int = 4,
        context: int = 128,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        widths = [width * multiplier for multiplier in multipliers]
        _demand_sizes(size, widths, blocks, attention_levels, heads)
        self.width, self.level_width = width, 4 * width
        self.attention_levels, self.heads, self.context = set(attention_levels), heads, context
        self.level = nn.Sequential(
            nn.Linear(width, self.level_width), nn.SiLU(), nn.Linear(self.level_width, self.level_width), nn.SiLU()
        )
        self.condition_in = nn.Linear(condition_dim, context)
        self.condition_positions = nn.Parameter(0.02 * torch.randn(sum(condition_lengths), context))
        self.null = nn.Parameter(0.02 * torch.randn(context))
        self.into = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down, kept = self._way_down(widths, blocks)
        last = widths[-1]
        self.middle = nn.ModuleList(
            [
                _Step(self._block(last, last), _Attending(last, heads, context)),
                _Step(self._block(last, last)),
            ]
        )
        self.up = self._way_up(widths, blocks, kept)
        self.out = nn.Sequential(_norm(widths[0]), nn.SiLU(), _zeroed(nn.Conv2d(widths[0], channels, 3, padding=1)))

    def forward(self, x: Tensor, t: Tensor, condition: Pyramid | Remembered, keep: Tensor | None = None) -> Tensor:
        """See LatentDenoiser; x (B, C, F, M)."""
        known = condition if isinstance(condition, Remembered) else self.remember(condition, keep)[0]
        level, looked_up = self.level(sinusoid(t, self.width)), iter(known.looked_up)

        def passed(step: nn.Module, hidden: Tensor) -> Tensor:
            given = (hidden, level, next(looked_up))
            return run_again(step, *given) if self.gradient_checkpointing else step(*given)

        hidden = self.into(x)
        kept = [hidden]
        for step in self.down:
            hidden = passed(step, hidden)
            kept.append(hidden)
        for step in self.middle:
            hidden = passed(step, hidden)
        for step in self.up:
            hidden = passed(step, torch.cat([hidden, kept.pop()], dim=1))
        return self.out(hidden)

    def remember(self, condition: Pyramid, keep: Tensor | None = None) -> tuple[Remembered, None]:
        """See LatentDenoiser."""
        source = self._source(condition, keep)
        steps: Any = (*self.down, *self.middle, *self.up)
        attending = [step.attending for step in steps]
        return Remembered([each and each.cross_attention.keys_values(source) for each in attending]), None

    def _source(self, condition: Pyramid, keep: Tensor | None) -> Tensor:
        """The condition's tokens of all scales with their positions, or the null condition: (B, N, context)."""
        source = self.condition_in(torch.cat(condition, dim=1)) + self.condition_positions
        return source if keep is None else torch.where(keep[:, None, None], source, self.null)

    def _block(self, channels: int, out_channels: int) -> _ResidualBlock:
        return _ResidualBlock(channels, out_channels, self.level_width)

    def _attending(self, stage: int, channels: int) -> _Attending | None:
        return _Attending(channels, self.heads, self.context) if stage in self.attention_levels else None

    def _way_down(self, widths: list[int], blocks: int) -> tuple[nn.ModuleList, list[int]]:
        """The steps, and the channels of what is kept for the way up: the input and every step's output."""
        steps, kept, channels = nn.ModuleList(), [widths[0]], widths[0]
        for stage, out_channels in enumerate(widths):
            for _ in range(blocks):
                steps.append(_Step(self._block(channels, out_channels), self._attending(stage, out_channels)))
                channels = out_channels
                kept.append(channels)
            if stage < len(widths) - 1:
                steps.append(_Step(resize=nn.Conv2d(channels, channels, 3, stride=2, padding=1)))
                kept.append(channels)
        return steps, kept

    def _way_up(self, widths: list[int], blocks: int, kept: list[int]) -> nn.ModuleList:
        steps, channels, waiting = nn.ModuleList(), widths[-1], list(kept)
        for stage, out_channels in reversed(list(enumerate(widths))):
            for number in range(blocks + 1):
                block = self._block(channels + waiting.pop(), out_channels)
                grown = _grown(out_channels) if stage and number == blocks else None
                steps.append(_Step(block, self._attending(stage, out_channels), grown))
                channels = out_channels
        return steps


def _grown(channels: int) -> nn.Sequential:
    """Twice the size by repetition, then smoothed."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode='nearest'), nn.Conv2d(channels, channels, 3, padding=1))


def _demand_sizes(
    size: Sequence[int], widths: Sequence[int], blocks: int, attention_levels: Sequence[int], heads: int
) -> None:
    """Raise UserError for sizes that a U of these levels cannot take."""
    if len(size) != 2:
        raise UserError(
            f'UNetDenoiser takes latents over (time, band), not over {len(size)} axes; use LatentTransformer for video.'
        )
    if not widths or blocks < 1 or not all(0 <= stage < len(widths) for stage in attention_levels):
        raise UserError(
            f'UNetDenoiser: blocks must be 1 or more and attention_levels among its {len(widths)} levels, 0 to '
            f'{len(widths) - 1}; got {blocks} and {list(attention_levels)}.'
        )
    divisor = 2 ** (len(widths) - 1)
    if any(places % divisor for places in size):
        raise UserError(
            f'UNetDenoiser: {len(widths)} levels need places that divide by {divisor}, not {list(size)}; give fewer '
            'multipliers.'
        )
    attending = {widths[stage] for stage in (*attention_levels, len(widths) - 1)}
    if any(channels % heads for channels in attending):
        raise UserError(f'UNetDenoiser: {sorted(attending)} channels do not divide into {heads} heads; change either.')
