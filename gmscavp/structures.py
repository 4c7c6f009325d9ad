"""The shapes that travel between the parts: what a clip is, and names for lists of tensors."""

from dataclasses import dataclass

from torch import Tensor

Features = list[Tensor]
"""[(B, T_i, P_i, C_i)] fine to coarse: what a backbone gives, the same for video and audio."""

Pyramid = list[Tensor]
"""[(B, L_s, D)] fine to coarse: tokens of every scale, not normalised."""

Losses = dict[str, Tensor]
"""'loss_<term>' -> (), already weighted. Never a total: MMEngine adds up every key that contains 'loss'."""


@dataclass
class Clip:
    """One time window of one file: pictures and sound of the same moments.

    video: (T, 3, H, W) uint8. audio: (S,) float32 in [-1, 1]. start_s: where the window starts in the file, seconds.
    """

    video: Tensor
    audio: Tensor
    start_s: float = 0.0
