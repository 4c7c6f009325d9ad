"""Scale pyramids: features of a backbone -> tokens at several scales, fine to coarse."""

from gmscavp.models.pyramids.base import ScalePyramid
from gmscavp.models.pyramids.convolutional import ConvPyramid
from gmscavp.models.pyramids.dense import DensePyramid
from gmscavp.models.pyramids.feature_pyramid import FeaturePyramid
from gmscavp.models.pyramids.pooling import PoolingPyramid
from gmscavp.models.pyramids.queries import QueryPyramid
from gmscavp.models.pyramids.single_scale import SingleScale

__all__ = [
    'ConvPyramid',
    'DensePyramid',
    'FeaturePyramid',
    'PoolingPyramid',
    'QueryPyramid',
    'ScalePyramid',
    'SingleScale',
]
