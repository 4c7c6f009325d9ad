"""Denoisers: the networks of diffusion."""

from gmscavp.models.denoisers.base import Denoiser, LatentDenoiser
from gmscavp.models.denoisers.latent_transformer import LatentTransformer
from gmscavp.models.denoisers.token_transformer import TokenTransformer
from gmscavp.models.denoisers.unet import UNetDenoiser

__all__ = ['Denoiser', 'LatentDenoiser', 'LatentTransformer', 'TokenTransformer', 'UNetDenoiser']
