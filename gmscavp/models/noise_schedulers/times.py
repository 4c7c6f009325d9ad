"""How training times are drawn: (count,) float32 each, on torch's own generator."""

import torch
from torch import Tensor

TIMES = ('uniform', 'logit_normal', 'log_normal')


def uniform(count: int, device: torch.device) -> Tensor:
    """Evenly over [0, 1)."""
    return torch.rand(count, device=device)


def logit_normal(count: int, device: torch.device, mean: float, std: float) -> Tensor:
    """In (0, 1), with a logit from N(mean, std^2). Esser et al. 2024, equation 19."""
    return torch.sigmoid(mean + std * torch.randn(count, device=device))


def log_normal(count: int, device: torch.device, mean: float, std: float) -> Tensor:
    """Noise levels sigma / alpha with ln sigma from N(mean, std^2). Karras et al. 2022, table 1."""
    return torch.exp(mean + std * torch.randn(count, device=device))
