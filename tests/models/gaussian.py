"""Data from N(MEAN, SPREAD^2), for which the best denoiser and the probability flow are known in closed form."""

import torch

MEAN, SPREAD = 0.7, 0.3
START = torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.5], dtype=torch.float64)


def figures(*values):
    return torch.tensor(values, dtype=torch.float64)


def ideal(path, mean=MEAN, spread=SPREAD):
    """E[x0 | x] on a path."""

    def denoise(x, t):
        alpha, sigma = path.alpha_sigma(t)
        return (sigma**2 * mean + alpha * spread**2 * x) / (alpha**2 * spread**2 + sigma**2)

    return denoise


def exact(path, x, t, mean=MEAN, spread=SPREAD):
    """Where the probability flow takes x from time t to the clean signal."""
    alpha, sigma = path.alpha_sigma(t)
    return mean + spread * (x - alpha * mean) / (alpha**2 * spread**2 + sigma**2).sqrt()


class ByRatio:
    """The path alpha^2 + sigma^2 = 1 told by t = sigma / alpha."""

    @staticmethod
    def alpha_sigma(t):
        alpha = 1 / (1 + t**2).sqrt()
        return alpha, t * alpha
