"""One token a clip: CAVP as a pyramid."""

from torch import nn

from gmscavp.models.pyramids.base import ScalePyramid
from gmscavp.registry import PYRAMIDS
from gmscavp.structures import Features, Pyramid


@PYRAMIDS.register_module()
class SingleScale(ScalePyramid):
    """Mean over places, a linear layer, maximum over time. Luo et al. 2023 (CAVP).

    in_channels: the backbone's channels per stage (filled in by the model).
    """

    def __init__(self, in_channels: list[int], dim: int) -> None:
        super().__init__()
        self.in_channels, self.dim, self.lengths = list(in_channels), dim, [1]
        self.project = nn.Linear(in_channels[-1], dim)

    def forward(self, features: Features) -> Pyramid:
        """[(B, T_i, P_i, C_i)] -> [(B, 1, D)]."""
        return [self.project(features[-1].mean(dim=2)).amax(dim=1, keepdim=True)]
