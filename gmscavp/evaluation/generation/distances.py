"""Distances between real and generated clips in the features and class scores of a judge network.

Shapes: N clips, D features, C classes. All sums run in float64.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SPLITS = 10
SHUFFLE_SEED = 2020


class FeatureStatistics:
    """Mean and covariance of features that come in batches, without keeping the features.

    Holds the count, the mean and the centred scatter matrix S = sum (x - mean)(x - mean)^T in float64; two halves are
    joined by Chan, Golub and LeVeque 1979. `state` is plain arrays: gather it over processes and `joined` them there.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = np.zeros(dim)
        self.scatter = np.zeros((dim, dim))

    def add(self, batch: Tensor) -> None:
        """Take in (B, D) features. Raises ValueError for another width, or for features that are not finite."""
        features = batch.detach().cpu().double().numpy()
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f'features must be (B, {len(self.mean)}), got {tuple(batch.shape)}.')
        if not np.isfinite(features).all():
            raise ValueError('features are not finite.')
        if len(features):
            mean = features.mean(axis=0)
            centred = features - mean
            self._join(len(features), mean, centred.T @ centred)

    def merge(self, other: 'FeatureStatistics') -> None:
        """Take in what another one has seen. Raises ValueError when the widths differ."""
        if other.mean.shape != self.mean.shape:
            raise ValueError(f'features of {len(other.mean)} numbers do not join those of {len(self.mean)}.')
        self._join(other.count, other.mean, other.scatter)

    @property
    def covariance(self) -> np.ndarray:
        """(D, D) with N - 1 in the denominator. Raises ValueError below two samples."""
        if self.count < 2:
            raise ValueError(f'a covariance needs two samples or more, got {self.count}.')
        return self.scatter / (self.count - 1)

    @property
    def state(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Count, mean (D,) and scatter (D, D), to be saved or gathered."""
        return self.count, self.mean, self.scatter

    @classmethod
    def joined(cls, states: Iterable[tuple[int, np.ndarray, np.ndarray]]) -> 'FeatureStatistics':
        """The statistics of all that several `state`s have seen. Raises ValueError for none, or for other widths."""
        parts = list(states)
        if not parts:
            raise ValueError('no statistics to join.')
        total = cls(len(parts[0][1]))
        for count, mean, scatter in parts:
            part = cls(len(mean))
            part._join(count, mean, scatter)
            total.merge(part)
        return total

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        if not total:
            return
        apart = mean - self.mean
        self.scatter = self.scatter + scatter + np.outer(apart, apart) * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total


def frechet_distance(real: FeatureStatistics, generated: FeatureStatistics, eps: float = 0.0) -> float:
    """`gaussian_distance` of what was seen. Raises ValueError below two samples or for other widths."""
    return gaussian_distance(real.mean, real.covariance, generated.mean, generated.covariance, eps)


def gaussian_distance(
    mean: np.ndarray,
    covariance: np.ndarray,
    other_mean: np.ndarray,
    other_covariance: np.ndarray,
    eps: float = 0.0,
) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of Gaussians (D,), (D, D). Dowson and Landau 1982; Heusel et al. 2017.

    The root is taken so that it is real and finite for any rank. eps is added to the diagonal of both covariances: the
    field adds 1e-6 where its own root of the product fails, which here it never does. Raises ValueError for other
    widths.
    """
    if mean.shape != other_mean.shape:
        raise ValueError(f'features of {len(mean)} numbers cannot be compared with those of {len(other_mean)}.')
    ridge = eps * np.eye(len(mean))
    first, second = covariance + ridge, other_covariance + ridge
    # tr (A B)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2).
    root_trace = np.linalg.svd(_symmetric_root(first) @ _symmetric_root(second), compute_uv=False).sum()
    apart = mean - other_mean
    return max(0.0, float(apart @ apart + np.trace(first) + np.trace(second) - 2 * root_trace))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """A^(1/2) of a symmetric positive semidefinite (D, D); eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def kl_softmax(real: Tensor, generated: Tensor) -> Tensor:
    """KL(real || generated) per clip of the softmax of class scores: (N, C), (N, C) -> (N,) float64, nats."""
    _demand_pairs(real, generated)
    p, q = real.double().log_softmax(dim=1), generated.double().log_softmax(dim=1)
    return (p.exp() * (p - q)).sum(dim=1)


def kl_sigmoid(real: Tensor, generated: Tensor) -> Tensor:
    """sum of p (ln p - ln q) over the classes, p and q the sigmoid of class scores: (N, C), (N, C) -> (N,) float64.

    For judges with many labels per clip; p and q do not sum to one, so that it may be negative. Iashin and Rahtu 2021.
    """
    _demand_pairs(real, generated)
    p, q = F.logsigmoid(real.double()), F.logsigmoid(generated.double())
    return (p.exp() * (p - q)).sum(dim=1)


def inception_score(scores: Tensor, splits: int = SPLITS, seed: int = SHUFFLE_SEED) -> tuple[float, float]:
    """exp of the mean KL(p(class | clip) || p(class)): mean and standard deviation over splits. Salimans et al. 2016.

    (N, C) class scores before the softmax. The clips are shuffled by numpy's RandomState(seed) and cut at
    i N // splits. Raises ValueError with fewer clips than splits, or for scores that are not finite.
    """
    count = len(scores)
    if count < splits:
        raise ValueError(f'an inception score over {splits} splits needs {splits} clips or more, got {count}.')
    if not torch.isfinite(scores).all():
        raise ValueError('class scores are not finite.')
    order = torch.from_numpy(np.random.RandomState(seed).permutation(count))
    log_p = scores.detach().cpu().double()[order].log_softmax(dim=1)
    parts = [log_p[i * count // splits : (i + 1) * count // splits] for i in range(splits)]
    each = torch.stack([_split_score(part) for part in parts])
    return each.mean().item(), each.std(correction=0).item()


def _split_score(log_p: Tensor) -> Tensor:
    log_mean = log_p.logsumexp(dim=0) - np.log(len(log_p))
    return (log_p.exp() * (log_p - log_mean)).sum(dim=1).mean().exp()


def _demand_pairs(real: Tensor, generated: Tensor) -> None:
    if real.ndim != 2 or real.shape != generated.shape:
        raise ValueError(f'class scores must be pairs (N, C), got {tuple(real.shape)} and {tuple(generated.shape)}.')
    if not (torch.isfinite(real).all() and torch.isfinite(generated).all()):
        raise ValueError('class scores are not finite.')
