"""The shapes that travel between the parts: what a clip is, how one is asked for, and names for lists of tensors."""

from dataclasses import dataclass

import numpy as np
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


class Draw(int):
    """A clip's index in its data set together with what its random choices follow from: its seed, (seed of the run, epoch).

    Whoever reads the clip, in whatever process and order, then draws the same. Any data set takes it as the index it is.
    """

    seed: tuple[int, ...]

    def __new__(cls, index: int, seed: tuple[int, ...] = ()) -> 'Draw':
        """Join both."""
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __getnewargs__(self) -> tuple[int, tuple[int, ...]]:  # type: ignore[override]
        """How pickle makes it again in a worker process."""
        return int(self), self.seed

    def rng(self) -> np.random.Generator:
        """A generator of its own for the choices of this clip in this epoch."""
        return np.random.default_rng((*self.seed, int(self)))
