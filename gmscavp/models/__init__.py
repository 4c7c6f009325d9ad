"""Models and their interchangeable parts."""

from gmscavp.models.backbones import (
    Backbone,
    Cnn14,
    FrameViT,
    SlowOnlyR50,
    SpectrogramViT,
    TinyAudioNet,
    TinyVideoNet,
    TransformersAudio,
    TransformersVideo,
)
from gmscavp.models.denoisers import Denoiser, TokenTransformer
from gmscavp.models.diffusion import MultiScaleDiffusion
from gmscavp.models.gmscavp import GMSCAVP
from gmscavp.models.heads import ContrastiveHead, DenseHead, MultiScaleInfoNCE, SigLIPHead
from gmscavp.models.noise_schedulers import NoiseScheduler, RectifiedFlow, ScaledLinearDDPM
from gmscavp.models.preprocessor import ClipPreprocessor
from gmscavp.models.pyramids import (
    ConvPyramid,
    DensePyramid,
    FeaturePyramid,
    PoolingPyramid,
    QueryPyramid,
    ScalePyramid,
    SingleScale,
)
from gmscavp.models.samplers import DDIM, Sampler

__all__ = [
    'DDIM',
    'GMSCAVP',
    'Backbone',
    'ClipPreprocessor',
    'Cnn14',
    'ContrastiveHead',
    'ConvPyramid',
    'Denoiser',
    'DenseHead',
    'DensePyramid',
    'FeaturePyramid',
    'FrameViT',
    'MultiScaleDiffusion',
    'MultiScaleInfoNCE',
    'NoiseScheduler',
    'PoolingPyramid',
    'QueryPyramid',
    'RectifiedFlow',
    'Sampler',
    'ScalePyramid',
    'ScaledLinearDDPM',
    'SigLIPHead',
    'SingleScale',
    'SlowOnlyR50',
    'SpectrogramViT',
    'TinyAudioNet',
    'TinyVideoNet',
    'TokenTransformer',
    'TransformersAudio',
    'TransformersVideo',
]
