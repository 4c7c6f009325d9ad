"""Noise schedulers: the path x_t = alpha(t) x0 + sigma(t) eps, how t is drawn in training, and the grid of inference.

What the network predicts (the parameterisation), the loss weight, the training times and the grid's spacing are names.
"""

from gmscavp.models.noise_schedulers.base import NoiseScheduler
from gmscavp.models.noise_schedulers.ddpm import (
    CosineDDPM,
    DiscretePath,
    LinearDDPM,
    ScaledLinearDDPM,
    to_zero_terminal_snr,
)
from gmscavp.models.noise_schedulers.edm import EDM
from gmscavp.models.noise_schedulers.flow import RectifiedFlow
from gmscavp.models.noise_schedulers.grids import karras_levels, shifted
from gmscavp.models.noise_schedulers.prediction import PREDICTIONS, predicted_x0, prediction_target
from gmscavp.models.noise_schedulers.times import TIMES
from gmscavp.models.noise_schedulers.weighting import WEIGHTINGS, loss_weight

__all__ = [
    'EDM',
    'PREDICTIONS',
    'TIMES',
    'WEIGHTINGS',
    'CosineDDPM',
    'DiscretePath',
    'LinearDDPM',
    'NoiseScheduler',
    'RectifiedFlow',
    'ScaledLinearDDPM',
    'karras_levels',
    'loss_weight',
    'predicted_x0',
    'prediction_target',
    'shifted',
    'to_zero_terminal_snr',
]
