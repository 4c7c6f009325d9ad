"""A pyramid over several stages of the backbone, coarse meaning added to fine time and place."""

from torch import Tensor, nn
from torch.nn import functional as F

from gmscavp.models.pyramids.base import MultiResolution, ScalePyramid, SpatialPyramidPooling, ToScales, chosen_stages
from gmscavp.registry import PYRAMIDS
from gmscavp.structures import Features, Pyramid


def resample_time(x: Tensor, steps: int) -> Tensor:
    """Linear interpolation to another number of steps, both covering the whole clip: (B, T, C) -> (B, steps, C)."""
    if x.shape[1] == steps:
        return x
    return F.interpolate(x.transpose(1, 2), steps, mode='linear', align_corners=False).transpose(1, 2)


@PYRAMIDS.register_module()
class FeaturePyramid(ScalePyramid):
    """Every stage pooled in its grids, brought to one width and length, and fused from coarse to fine; then windows.

    Lin et al. 2017 (FPN) for features over (time, place): x_i = smooth(lateral_i + x_{i+1}), the coarsest stage first.
    Time is resampled to the longest stage, for audio stages may differ. in_channels: the backbone's channels per stage
    (filled in by the model). places: 'image' or 'bands'. stages: which of the backbone's, fine to coarse, negative
    ones counted from the last (default: all). kernels: of the convolutions over time that smooth each fusion.
    """

    def __init__(
        self,
        in_channels: list[int],
        dim: int,
        lengths: list[int],
        places: str,
        grids: list[int] = [1, 2],  # noqa: B006  (never written to)
        stages: list[int] | None = None,
        kernels: list[int] = [3],  # noqa: B006  (never written to)
        width: int | None = None,
        detail: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.dim, self.lengths = list(in_channels), dim, list(lengths)
        self.stages = chosen_stages(stages, len(in_channels))
        width = width or dim
        self.laterals = nn.ModuleList(SpatialPyramidPooling(in_channels[i], width, grids, places) for i in self.stages)
        self.smooth = nn.ModuleList(MultiResolution(width, kernels) for _ in self.stages)
        self.scales = ToScales(width, dim, self.lengths, detail)

    def forward(self, features: Features) -> Pyramid:
        """[(B, T_i, P_i, C_i)] -> [(B, L_s, D)]."""
        chosen = [features[i] for i in self.stages]
        steps = max(x.shape[1] for x in chosen)
        laterals = [resample_time(pool(x), steps) for pool, x in zip(self.laterals, chosen, strict=True)]
        fused: Tensor | float = 0.0
        for lateral, smooth in zip(reversed(laterals), reversed(list(self.smooth)), strict=True):
            fused = smooth(lateral + fused)
        return self.scales(fused)
