"""What all denoisers share: they predict, from a noisy signal and the other modality's tokens, what the noise hides."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from gmscavp.structures import Pyramid


class Denoiser(nn.Module, ABC):
    """Predicts at several scales at once; sees one noise level per clip and the condition's tokens of all scales.

    lengths, channels: tokens and values a token of every scale of the signal. condition_lengths, condition_dim: the same
    of the condition's pyramid.
    """

    @abstractmethod
    def forward(self, x: Pyramid, t: Tensor, condition: Pyramid, keep: Tensor | None = None) -> Pyramid:
        """Noisy signal [(B, L_s, C_s)], noise level (B,) in [0, 1], condition [(B, L_c, D)] -> raw prediction like x.

        keep (B,) bool: False puts the null condition in the place of that clip's condition; None keeps all.
        """


class LatentDenoiser(nn.Module, ABC):
    """Predicts one signal laid out in time and space: a log-mel, a video, or a codec's latents of them.

    channels, size: C and the places (F, M) or (T, H, W), time first. condition_lengths, condition_dim: of the condition's
    pyramid. All four are filled in by the generator.
    """

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: Any, keep: Tensor | None = None) -> Tensor:
        """Noisy signal (B, C, *size), noise level (B,) in [0, 1], condition [(B, L_c, D)] -> raw prediction like x.

        keep (B,) bool: False puts the null condition in the place of that clip's condition; None keeps all. condition
        may also be what `remember` made of the condition and of keep.
        """

    def remember(self, condition: Pyramid, keep: Tensor | None = None) -> tuple[Any, Tensor | None]:
        """Condition and keep for `forward`, with all worked out that is the same at every noise level.

        Here that is nothing. A sampler asks the same condition many times.
        """
        return condition, keep

    def compile_steps(self, backend: str = 'inductor') -> None:
        """Have torch.compile make, at the first call, what is asked at every step of a sampler; anew for other shapes.

        Weights and their names stay as they are. backend: torch.compile's; its own one needs a C++ compiler on a CPU.
        """
        self.compile(dynamic=False, backend=backend)


def token_times(lengths: list[int]) -> Tensor:
    """The moment in the middle of every token of every scale, clip = [0, 1]: (sum of lengths,)."""
    return torch.cat([(torch.arange(length) + 0.5) / length for length in lengths])
