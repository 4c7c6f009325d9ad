"""Samplers (solvers): from noise to a clean signal along a grid of times."""

from gmscavp.models.samplers.base import Denoise, NoisePath, Sampler
from gmscavp.models.samplers.ddim import DDIM

__all__ = ['DDIM', 'Denoise', 'NoisePath', 'Sampler']
