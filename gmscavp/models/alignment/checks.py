"""What the classifier's settings must keep to."""

import math
from collections.abc import Sequence
from typing import Any

from gmscavp.errors import UserError


def demand_parts(audio_backbone: Any, scheduler: Any, codec: Any) -> None:
    """Raise UserError unless the sound is seen in one way: as a log-mel, or as noisy latents."""
    if (scheduler is None) != (codec is None) or (scheduler is None) == (audio_backbone is None):
        raise UserError(
            'alignment: give either audio_backbone, for clean sounds, or scheduler and codec, for noisy latents.'
        )


def demand_settings(
    window: float, shifted: float, other: float, step_weight: float, crops: int, levels: Sequence[float]
) -> None:
    """Raise UserError for numbers that make no sense."""
    if not 0 < window < 1:
        raise UserError(f'alignment: window is a share of the clip, above 0 and below 1, not {window:g}.')
    if min(shifted, other) < 0 or max(shifted, other) > 1 or shifted + other == 0:
        raise UserError('alignment: shifted and other are shares of the clips, from 0 to 1, and not both 0.')
    if not 0 <= step_weight < math.inf:
        raise UserError(f'alignment: step_weight must be 0 or above, not {step_weight:g}.')
    if crops < 1:
        raise UserError(f'alignment: crops must be 1 or more, not {crops}.')
    if not levels or not all(0 <= level < 1 for level in levels):
        raise UserError('alignment: levels are noise levels from 0 to below 1, at least one.')
