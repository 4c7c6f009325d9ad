"""Encoders of the library `transformers`; see encoder.py for the settings."""

from gmscavp.models.backbones.transformers_encoder.encoder import TransformersAudio, TransformersVideo

__all__ = ['TransformersAudio', 'TransformersVideo']
