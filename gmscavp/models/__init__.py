"""Models and their interchangeable parts."""

from gmscavp.models.alignment import AlignmentClassifier
from gmscavp.models.autoencoder import Autoencoder
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
from gmscavp.models.classifier import ClipClassifier
from gmscavp.models.codecs import Codec, DiffusersCodec, FrameAutoencoder, MelAutoencoder, MelCodec
from gmscavp.models.denoisers import Denoiser, LatentDenoiser, LatentTransformer, TokenTransformer, UNetDenoiser
from gmscavp.models.diffusion import MultiScaleDiffusion
from gmscavp.models.generator import CrossModalGenerator
from gmscavp.models.gmscavp import GMSCAVP
from gmscavp.models.guidance import aligned, guided, guided_within
from gmscavp.models.heads import ContrastiveHead, DenseHead, MultiScaleInfoNCE, SigLIPHead
from gmscavp.models.noise_schedulers import (
    EDM,
    CosineDDPM,
    LinearDDPM,
    NoiseScheduler,
    RectifiedFlow,
    ScaledLinearDDPM,
)
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
from gmscavp.models.samplers import DDIM, DPMSolver2M, Euler, EulerAncestral, Heun, Midpoint, Sampler
from gmscavp.models.sampling import Sampling
from gmscavp.models.spectrogram_discriminator import SpectrogramDiscriminator
from gmscavp.models.vocoder_training import SoundPreprocessor, VocoderTraining
from gmscavp.models.vocoders import GriffinLim, IstftVocoder, Vocoder

__all__ = [
    'DDIM',
    'EDM',
    'GMSCAVP',
    'AlignmentClassifier',
    'Autoencoder',
    'Backbone',
    'ClipClassifier',
    'ClipPreprocessor',
    'Cnn14',
    'Codec',
    'ContrastiveHead',
    'ConvPyramid',
    'CosineDDPM',
    'CrossModalGenerator',
    'DPMSolver2M',
    'Denoiser',
    'DenseHead',
    'DensePyramid',
    'DiffusersCodec',
    'Euler',
    'EulerAncestral',
    'FeaturePyramid',
    'FrameAutoencoder',
    'FrameViT',
    'GriffinLim',
    'Heun',
    'IstftVocoder',
    'LatentDenoiser',
    'LatentTransformer',
    'LinearDDPM',
    'MelAutoencoder',
    'MelCodec',
    'Midpoint',
    'MultiScaleDiffusion',
    'MultiScaleInfoNCE',
    'NoiseScheduler',
    'PoolingPyramid',
    'QueryPyramid',
    'RectifiedFlow',
    'Sampler',
    'Sampling',
    'ScalePyramid',
    'ScaledLinearDDPM',
    'SigLIPHead',
    'SingleScale',
    'SlowOnlyR50',
    'SoundPreprocessor',
    'SpectrogramDiscriminator',
    'SpectrogramViT',
    'TinyAudioNet',
    'TinyVideoNet',
    'TokenTransformer',
    'TransformersAudio',
    'TransformersVideo',
    'UNetDenoiser',
    'Vocoder',
    'VocoderTraining',
    'aligned',
    'guided',
    'guided_within',
]
