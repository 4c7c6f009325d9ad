"""Backbones: a video or a mel -> features [(B, T_i, P_i, C_i)], one entry per stage, fine to coarse."""

from gmscavp.models.backbones.base import Backbone
from gmscavp.models.backbones.cnn14 import Cnn14
from gmscavp.models.backbones.slow_only import SlowOnlyR50
from gmscavp.models.backbones.tiny import TinyAudioNet, TinyVideoNet
from gmscavp.models.backbones.transformers_encoder import TransformersAudio, TransformersVideo
from gmscavp.models.backbones.vit import FrameViT, SpectrogramViT

__all__ = [
    'Backbone',
    'Cnn14',
    'FrameViT',
    'SlowOnlyR50',
    'SpectrogramViT',
    'TinyAudioNet',
    'TinyVideoNet',
    'TransformersAudio',
    'TransformersVideo',
]
