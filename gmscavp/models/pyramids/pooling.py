"""Tokens by pooling alone."""

from gmscavp.models.pyramids.base import ScalePyramid, SpatialPyramidPooling, ToScales
from gmscavp.registry import PYRAMIDS
from gmscavp.structures import Features, Pyramid


@PYRAMIDS.register_module()
class PoolingPyramid(ScalePyramid):
    """Pool the places of the last stage in grids, then time in windows; no mixing over time.

    in_channels: the backbone's channels per stage (filled in by the model). places: 'image' or 'bands'.
    """

    def __init__(
        self,
        in_channels: list[int],
        dim: int,
        lengths: list[int],
        places: str,
        grids: list[int] = [1, 2],  # noqa: B006  (never written to)
        width: int | None = None,
        detail: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.dim, self.lengths = list(in_channels), dim, list(lengths)
        self.spatial = SpatialPyramidPooling(in_channels[-1], width or dim, grids, places)
        self.scales = ToScales(width or dim, dim, self.lengths, detail)

    def forward(self, features: Features) -> Pyramid:
        """[(B, T_i, P_i, C_i)] -> [(B, L_s, D)]."""
        return self.scales(self.spatial(features[-1]))
