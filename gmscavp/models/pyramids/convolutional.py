"""The default pyramid: grids of places, convolutions of several lengths over time, windows."""

import torch
from torch import Tensor, nn

from gmscavp.models.pyramids.base import ScalePyramid, SpatialPyramidPooling, ToScales
from gmscavp.registry import PYRAMIDS
from gmscavp.structures import Features, Pyramid


class _MultiResolution(nn.Module):
    """Parallel depth-wise separable convolutions over time with a residual. (B, T, C) -> (B, T, C)."""

    def __init__(self, width: int, kernels: list[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.depthwise = nn.ModuleList(nn.Conv1d(width, width, k, padding=k // 2, groups=width) for k in kernels)
        self.pointwise = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in kernels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x).transpose(1, 2)
        branches = [
            point(nn.functional.gelu(depth(y))) for depth, point in zip(self.depthwise, self.pointwise, strict=True)
        ]
        return x + torch.stack(branches).sum(0).transpose(1, 2)


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
        self.temporal = nn.Sequential(*(_MultiResolution(width or dim, kernels) for _ in range(layers)))
        self.scales = ToScales(width or dim, dim, self.lengths, detail)

    def forward(self, features: Features) -> Pyramid:
        """[(B, T_i, P_i, C_i)] -> [(B, L_s, D)]."""
        return self.scales(self.temporal(self.spatial(features[-1])))
