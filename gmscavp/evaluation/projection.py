"""Embeddings on a plane, to be looked at."""

import torch
from torch import Tensor


def on_plane(embeddings: Tensor, seed: int = 0) -> Tensor:
    """The first two principal components: (N, E) -> (N, 2), the first axis the wider one.

    Mirrored so that the point farthest from the middle along each axis lies on its positive side: the same embeddings
    always give the same map. Computed by randomised projection with power iterations (Halko et al. 2011).
    """
    x = embeddings.double() - embeddings.double().mean(dim=0)
    rank = min(16, *x.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u, s, _ = torch.svd_lowrank(x, q=rank, niter=12)
    points = x.new_zeros(len(x), 2)
    points[:, : min(2, rank)] = (u * s)[:, :2]
    farthest = points.gather(0, points.abs().argmax(dim=0, keepdim=True))
    return points * torch.where(farthest < 0, -1.0, 1.0)
