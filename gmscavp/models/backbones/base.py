"""What every backbone offers to the model that holds it."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from gmscavp.structures import Features


class Backbone(nn.Module, ABC):
    """A video or a mel -> features of every stage, fine to coarse.

    out_channels: C_i of every stage. Places P are the image's cells row by row, or the spectrogram's bands from low to
    high. middle: where in its cell, from 0 to 1, a place of an image looks: in the middle as a patch does, at the beginning
    as convolutions with a stride and padding by half of an odd kernel do.
    """

    out_channels: list[int]
    middle: float = 0.5

    @abstractmethod
    def forward(self, x: Tensor) -> Features:
        """Video (B, 3, T, H, W) in [-1, 1] or mel (B, 1, F, M) in [0, 1] -> [(B, T_i, P_i, C_i)]."""

    @abstractmethod
    def by_depth(self) -> list[nn.Module]:
        """The parts that hold all parameters, from the input to the output: what freezing and decay count by."""
