"""What brings a trained codec's latents to zero mean and unit variance."""

import torch
from torch import Tensor, nn


class LatentStatistics(nn.Module):
    """Running mean and deviation of every channel, kept with the weights.

    memory: over about so many batches; until there have been so many, all of them count alike. Nothing is changed before
    the first batch.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int, memory: int = 100) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer('mean', torch.zeros(channels))
        self.register_buffer('variance', torch.ones(channels))
        self.register_buffer('batches', torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, latents: Tensor) -> None:
        """Follow a batch (B, C, ...): the share s of it, with the variance of the mixture of both.

        v <- (1 - s) v + s v_batch + s (1 - s) (m_batch - m)^2, which with s = 1 / n is the variance of all n batches.
        """
        flat = latents.detach().float().transpose(0, 1).flatten(1)
        self.batches += 1
        share = 1 / min(int(self.batches), self.memory)
        step = flat.mean(1) - self.mean
        self.variance += share * (flat.var(1, correction=0) - self.variance) + share * (1 - share) * step**2
        self.mean += share * step

    def standardise(self, latents: Tensor) -> Tensor:
        """(B, C, ...) -> the same with about zero mean and unit variance in every channel."""
        mean, deviation = self._as(latents)
        return (latents - mean) / deviation

    def restore(self, latents: Tensor) -> Tensor:
        """Undo `standardise`."""
        mean, deviation = self._as(latents)
        return latents * deviation + mean

    def _as(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, *[1] * (latents.dim() - 2))
        # A channel that says nothing is left nearly as it is, not blown up.
        deviation = self.variance.sqrt().clamp(min=1e-3)
        return self.mean.view(shape), deviation.view(shape)
