"""Models and their interchangeable parts."""

from gmscavp.models.backbones import Backbone, TinyAudioNet, TinyVideoNet
from gmscavp.models.denoisers import Denoiser, TokenTransformer
from gmscavp.models.diffusion import MultiScaleDiffusion
from gmscavp.models.gmscavp import GMSCAVP
from gmscavp.models.heads import ContrastiveHead, MultiScaleInfoNCE
from gmscavp.models.noise_schedulers import NoiseScheduler, RectifiedFlow, ScaledLinearDDPM
from gmscavp.models.preprocessor import ClipPreprocessor
from gmscavp.models.pyramids import ConvPyramid, PoolingPyramid, ScalePyramid, SingleScale

__all__ = [
    'GMSCAVP',
    'Backbone',
    'ClipPreprocessor',
    'ContrastiveHead',
    'ConvPyramid',
    'Denoiser',
    'MultiScaleDiffusion',
    'MultiScaleInfoNCE',
    'NoiseScheduler',
    'PoolingPyramid',
    'RectifiedFlow',
    'ScalePyramid',
    'ScaledLinearDDPM',
    'SingleScale',
    'TinyAudioNet',
    'TinyVideoNet',
    'TokenTransformer',
]
