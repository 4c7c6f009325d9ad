"""Codecs: from signals to the latents that diffusion works on, and back."""

from gmscavp.models.codecs.base import Codec
from gmscavp.models.codecs.diffusers_codec import DiffusersCodec
from gmscavp.models.codecs.frame_autoencoder import FrameAutoencoder
from gmscavp.models.codecs.log_mel import MelCodec
from gmscavp.models.codecs.mel_autoencoder import MelAutoencoder

__all__ = ['Codec', 'DiffusersCodec', 'FrameAutoencoder', 'MelAutoencoder', 'MelCodec']
