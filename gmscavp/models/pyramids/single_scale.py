"""One token a clip: CAVP as a pyramid. Or its tokens before the maximum, as its generator takes them."""

from torch import nn

from gmscavp.models.pyramids.base import ScalePyramid, SpatialPyramidPooling, pool_time
from gmscavp.registry import PYRAMIDS
from gmscavp.structures import Features, Pyramid


@PYRAMIDS.register_module()
class SingleScale(ScalePyramid):
    """Mean over places, a linear layer, maximum over time. Luo et al. 2023 (CAVP).

    in_channels: the backbone's channels per stage (filled in by the model). grids: [1] is CAVP; others pool the places
    of the last stage in these grids. places: 'image' or 'bands', for grids other than [1]. steps: so many tokens in place
    of their maximum, each the mean of its part of the clip: what the ancestor's generator is conditioned on.
    """

    def __init__(
        self,
        in_channels: list[int],
        dim: int,
        places: str = 'image',
        grids: list[int] = [1],  # noqa: B006  (never written to)
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.dim, self.lengths, self.steps = list(in_channels), dim, [steps or 1], steps
        self.whole = list(grids) == [1]
        # One name for both, so that released weights fit the plain linear layer.
        self.project = (
            nn.Linear(in_channels[-1], dim)
            if self.whole
            else SpatialPyramidPooling(in_channels[-1], dim, grids, places)
        )

    def forward(self, features: Features) -> Pyramid:
        """[(B, T_i, P_i, C_i)] -> [(B, 1, D)], or [(B, steps, D)]."""
        x = self.project(features[-1].mean(dim=2) if self.whole else features[-1])
        return [x.amax(dim=1, keepdim=True) if self.steps is None else pool_time(x, self.steps)]
