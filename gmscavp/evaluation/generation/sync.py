"""How well generated sound keeps time with its video, from the scores of a synchronisation judge.

DeSync: Viertola et al. 2025 and Cheng et al. 2025, with the offset classes of Synchformer (Iashin et al. 2024).
"""

import torch
from torch import Tensor

CLASSES = 21
LIMIT_S = 2.0
ALIGNED = 0.5


def offset_grid(classes: int = CLASSES, limit_s: float = LIMIT_S) -> Tensor:
    """The offsets that the classes stand for, evenly from -limit to limit: (classes,) seconds."""
    steps = torch.arange(classes, dtype=torch.float64)
    # A whole number times the step: linspace misses 0 in the middle by rounding.
    return limit_s * (2 * steps - (classes - 1)) / (classes - 1)


def predicted_offsets(scores: Tensor, limit_s: float = LIMIT_S) -> Tensor:
    """The offset of the highest class: (..., classes) -> (...) seconds, float64. Of equal scores the farthest from 0.

    Raises ValueError for scores that are not finite.
    """
    _demand_finite(scores)
    grid = offset_grid(scores.shape[-1], limit_s).to(scores.device)
    # A judge that cannot tell must not look like perfect timing.
    highest = scores == scores.amax(dim=-1, keepdim=True)
    farthest = torch.where(highest, grid.abs(), -1.0).argmax(dim=-1)
    return grid[farthest]


def desync(scores: Tensor, limit_s: float = LIMIT_S) -> float:
    """Mean |offset| in seconds, 0 at best: class scores (N, classes), or (N, windows, classes) of several windows.

    The field scores the first and the last 4.8 s of every clip. Raises ValueError without clips.
    """
    if not scores.numel():
        raise ValueError('no clips to judge.')
    return predicted_offsets(scores, limit_s).abs().mean().item()


def alignment_accuracy(aligned: Tensor, threshold: float = ALIGNED) -> float:
    """Share of clips that a binary judge calls aligned: (N,) probabilities -> 0..1. Luo et al. 2023, Align Acc.

    Raises ValueError without clips, or for anything but probabilities.
    """
    if not aligned.numel():
        raise ValueError('no clips to judge.')
    _demand_finite(aligned)
    if aligned.min() < 0 or aligned.max() > 1:
        raise ValueError('alignment needs probabilities from 0 to 1; take the sigmoid of logits first.')
    return (aligned > threshold).double().mean().item()


def _demand_finite(scores: Tensor) -> None:
    if not torch.isfinite(scores).all():
        raise ValueError('the scores of the judge are not finite.')
