"""Parameterisations: what the network predicts at x = alpha x0 + sigma eps, and the clean signal that this stands for.

All are linear in (x0, eps) and so in each other. 'edm' is written here for any path, by way of x / alpha at the level
sigma / alpha, multiplied out so that nothing divides by alpha.
"""

from torch import Tensor

from gmscavp.models.noise_schedulers.choices import unknown_choice

PREDICTIONS = ('epsilon', 'x0', 'v', 'flow', 'edm')


def prediction_target(
    x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, prediction: str, data_std: float = 1.0
) -> Tensor:
    """What the network is to predict. Shapes broadcast.

    epsilon: Ho et al. 2020; v = alpha eps - sigma x0: Salimans & Ho 2022; flow = eps - x0: Lipman et al. 2023; edm: the
    effective target of Karras et al. 2022, equation 8, of unit variance for signals of standard deviation data_std.
    """
    match prediction:
        case 'epsilon':
            return eps
        case 'x0':
            return x0
        case 'v':
            return alpha * eps - sigma * x0
        case 'flow':
            return eps - x0
        case 'edm':
            return (sigma * x0 - data_std**2 * alpha * eps) / (data_std * _level(alpha, sigma, data_std))
        case _:
            raise unknown_choice('prediction', prediction, PREDICTIONS)


def predicted_x0(
    output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, prediction: str, data_std: float = 1.0
) -> Tensor:
    """The clean signal that a prediction at x = alpha x0 + sigma eps stands for: the inverse of prediction_target.

    epsilon has none where alpha = 0: pure noise says nothing of the signal. edm: Karras et al. 2022, equation 7.
    """
    match prediction:
        case 'epsilon':
            return (x - sigma * output) / alpha
        case 'x0':
            return output
        case 'v':
            return (alpha * x - sigma * output) / (alpha**2 + sigma**2)
        case 'flow':
            return (x - sigma * output) / (alpha + sigma)
        case 'edm':
            level = _level(alpha, sigma, data_std)
            return (data_std / level) ** 2 * alpha * x + sigma * data_std / level * output
        case _:
            raise unknown_choice('prediction', prediction, PREDICTIONS)


def prediction_gain(alpha: Tensor, sigma: Tensor, prediction: str, data_std: float = 1.0) -> Tensor:
    """g, where an error e of the prediction is an error sigma g e of the clean signal: of alpha's shape."""
    match prediction:
        case 'epsilon':
            return 1 / alpha
        case 'x0':
            return 1 / sigma
        case 'v':
            return 1 / (alpha**2 + sigma**2)
        case 'flow':
            return 1 / (alpha + sigma)
        case 'edm':
            return data_std / _level(alpha, sigma, data_std)
        case _:
            raise unknown_choice('prediction', prediction, PREDICTIONS)


def input_scale(alpha: Tensor, sigma: Tensor, data_std: float = 1.0) -> Tensor:
    """c_in, which gives x = alpha x0 + sigma eps unit variance. Karras et al. 2022, table 1, for any path."""
    return 1 / _level(alpha, sigma, data_std)


def _level(alpha: Tensor, sigma: Tensor, data_std: float) -> Tensor:
    """The standard deviation of alpha x0 + sigma eps."""
    return (sigma**2 + (alpha * data_std) ** 2).sqrt()
