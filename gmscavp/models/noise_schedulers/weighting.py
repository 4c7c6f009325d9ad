"""Loss weights, on the squared error of whatever the network predicts."""

import torch
from torch import Tensor

from gmscavp.models.noise_schedulers.choices import unknown_choice
from gmscavp.models.noise_schedulers.prediction import prediction_gain

WEIGHTINGS = ('constant', 'min_snr', 'edm')


def loss_weight(
    alpha: Tensor, sigma: Tensor, weighting: str, prediction: str, gamma: float = 5.0, data_std: float = 1.0
) -> Tensor:
    """The weight by its name, of alpha's shape. constant: the simple loss, Ho et al. 2020 equation 14."""
    match weighting:
        case 'constant':
            return torch.ones_like(alpha)
        case 'min_snr':
            return min_snr_weight(alpha, sigma, prediction, gamma, data_std)
        case 'edm':
            return edm_weight(alpha, sigma, prediction, data_std)
        case _:
            raise unknown_choice('weighting', weighting, WEIGHTINGS)


def min_snr_weight(alpha: Tensor, sigma: Tensor, prediction: str, gamma: float = 5.0, data_std: float = 1.0) -> Tensor:
    """min(SNR, gamma) on the error of x0, said for the prediction. Hang et al. 2023, equation 8 and section 3.4.

    With SNR = alpha^2 / sigma^2: epsilon min(SNR, gamma) / SNR; v, on a path with alpha^2 + sigma^2 = 1,
    min(SNR, gamma) / (SNR + 1); any other by prediction_gain, where sigma^2 min(SNR, gamma) is multiplied out so that
    it is 0, not undefined, at pure noise and at the clean signal.
    """
    if prediction == 'x0':
        return (alpha / sigma).square().clamp(max=gamma)
    return torch.minimum(alpha**2, gamma * sigma**2) * prediction_gain(alpha, sigma, prediction, data_std) ** 2


def edm_weight(alpha: Tensor, sigma: Tensor, prediction: str, data_std: float = 1.0) -> Tensor:
    """SNR + 1 / data_std^2 on the error of x0, said for the prediction; 1 for 'edm'. Karras et al. 2022, table 1.

    Their lambda = (s^2 + data_std^2) / (s data_std)^2 with s = sigma / alpha.
    """
    return (alpha**2 + (sigma / data_std) ** 2) * prediction_gain(alpha, sigma, prediction, data_std) ** 2
