"""A scale pyramid of one's own: each scale holds what the next coarser one does not say."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from gmscavp.errors import UserError
from gmscavp.models.pyramids import ScalePyramid
from gmscavp.models.pyramids.base import MultiResolution, SpatialPyramidPooling, pool_time
from gmscavp.registry import PYRAMIDS
from gmscavp.structures import Features, Pyramid


def laplacian(x: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """(B, T, C) -> [(B, L_s, C)]: means over the windows of a scale, less the mean of the coarser window they lie in.

    lengths: fine to coarse, each a multiple of the next. The coarsest keeps its means, so that all repeated to the finest
    length and summed are the finest means again. Burt & Adelson 1983, with windows of time in place of blurred pictures.
    """
    means = [pool_time(x, length) for length in lengths]
    coarser = [mean.repeat_interleave(fine.shape[1] // mean.shape[1], 1) for fine, mean in pairwise(means)]
    return [fine - coarse for fine, coarse in zip(means[:-1], coarser, strict=True)] + means[-1:]


@PYRAMIDS.register_module()
class LaplacianPyramid(ScalePyramid):
    """ConvPyramid's pooling over places and convolution over time, then `laplacian` and a linear map for each scale.

    in_channels: the backbone's channels per stage (filled in by the model). places: 'image' or 'bands'. grids: of the
    places. kernels: of the convolutions over time.
    """

    def __init__(
        self,
        in_channels: list[int],
        dim: int,
        lengths: list[int],
        places: str,
        grids: list[int] = [1, 2, 4],  # noqa: B006  (never written to)
        kernels: list[int] = [1, 3, 5],  # noqa: B006  (never written to)
    ) -> None:
        super().__init__()
        if any(fine % coarse for fine, coarse in pairwise(lengths)):
            raise UserError(f'LaplacianPyramid: every length must be a multiple of the next, unlike in {lengths}.')
        self.dim, self.lengths = dim, list(lengths)
        self.spatial = SpatialPyramidPooling(in_channels[-1], dim, grids, places)
        self.temporal = MultiResolution(dim, kernels)
        self.maps = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim)) for _ in lengths)

    def forward(self, features: Features) -> Pyramid:
        """[(B, T_i, P_i, C_i)] -> [(B, L_s, D)]."""
        parts = laplacian(self.temporal(self.spatial(features[-1])), self.lengths)
        return [project(part) for project, part in zip(self.maps, parts, strict=True)]
