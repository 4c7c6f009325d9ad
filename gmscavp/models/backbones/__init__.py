"""Backbones: a video or a mel -> features [(B, T_i, P_i, C_i)], one entry per stage, fine to coarse."""

from gmscavp.models.backbones.base import Backbone
from gmscavp.models.backbones.tiny import TinyAudioNet, TinyVideoNet

__all__ = ['Backbone', 'TinyAudioNet', 'TinyVideoNet']
