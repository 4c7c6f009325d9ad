"""Codecs: from signals to the latents that diffusion works on, and back."""

from gmscavp.models.codecs.base import Codec
from gmscavp.models.codecs.log_mel import MelCodec

__all__ = ['Codec', 'MelCodec']
