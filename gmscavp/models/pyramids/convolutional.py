"""The default pyramid: grids of places, convolutions of several lengths over time, windows."""

from torch import nn

from gmscavp.models.pyramids.base import MultiResolution, ScalePyramid, SpatialPyramidPooling, ToScales
from gmscavp.registry import PYRAMIDS
from gmscavp.structures import Features, Pyramid


@PYRAMIDS.register_module()
class ConvPyramid(ScalePyramid):
    """Spatial pyramid pooling, multi-resolution temporal convolution, then window pooling per scale.

    METHOD section "scale pyramids": grids g over the places of the last stage, parallel kernels over time with a
    residual, one linear layer per scale. in_channels: the backbone's channels per stage (filled in by the model).
    places: 'image' or 'bands'. layers: how many times the temporal convolution is applied.
    """

    def __init__(
        self,
        in_channels: list[int],
        dim: int,
        lengths: list[int],
        places: str,
        grids: list[int] = [1, 2, 4],  # noqa: B006  (never written to)
        kernels: list[int] = [1, 3, 5],  # noqa: B006  (never written to)
        width: int | None = None,
        detail: bool = True,
        layers: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels, self.dim, self.lengths = list(in_channels), dim, list(lengths)
        self.spatial = SpatialPyramidPooling(in_channels[-1], width or dim, grids, places)
        self.temporal = nn.Sequential(*(MultiResolution(width or dim, kernels) for _ in range(layers)))
        self.scales = ToScales(width or dim, dim, self.lengths, detail)

    def forward(self, features: Features) -> Pyramid:
        """[(B, T_i, P_i, C_i)] -> [(B, L_s, D)]."""
        return self.scales(self.temporal(self.spatial(features[-1])))
