"""Scale pyramids: features of a backbone -> tokens at several scales, fine to coarse."""

from gmscavp.models.pyramids.base import ScalePyramid
from gmscavp.models.pyramids.convolutional import ConvPyramid
from gmscavp.models.pyramids.pooling import PoolingPyramid
from gmscavp.models.pyramids.single_scale import SingleScale

__all__ = ['ConvPyramid', 'PoolingPyramid', 'ScalePyramid', 'SingleScale']
