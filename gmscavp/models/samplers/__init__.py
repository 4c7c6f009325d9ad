"""Samplers (solvers): from noise to a clean signal along a grid of times."""

from gmscavp.models.samplers.base import Denoise, Levels, NoisePath, Sampler
from gmscavp.models.samplers.ddim import DDIM
from gmscavp.models.samplers.dpm_solver import DPMSolver2M
from gmscavp.models.samplers.euler import Euler, EulerAncestral
from gmscavp.models.samplers.runge_kutta import Heun, Midpoint

__all__ = [
    'DDIM',
    'DPMSolver2M',
    'Denoise',
    'Euler',
    'EulerAncestral',
    'Heun',
    'Levels',
    'Midpoint',
    'NoisePath',
    'Sampler',
]
