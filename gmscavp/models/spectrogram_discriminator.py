"""The adversary of a vocoder: networks over spectrograms of several resolutions, and least-squares losses."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from gmscavp.errors import UserError
from gmscavp.models.stft_losses import RESOLUTIONS, magnitudes
from gmscavp.registry import MODELS

Scores = list[Tensor]
"""[(2 B, 1, K, F)] of every resolution; the first half of the rows is true sound."""

_SLOPE = 0.1


@MODELS.register_module()
class SpectrogramDiscriminator(nn.Module):
    """Tells true sound from vocoded on log magnitudes, one small convolutional network a resolution (n_fft, hop).

    The multi-resolution discriminator of Jang et al. 2021 (UnivNet), narrower: width channels, depth layers that halve the
    frequencies.
    """

    def __init__(self, resolutions: Sequence[tuple[int, int]] = RESOLUTIONS, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        if min(width, depth, len(resolutions)) < 1:
            raise UserError(
                'SpectrogramDiscriminator: width, depth and the number of resolutions must be 1 or more; got '
                f'{width}, {depth} and {len(resolutions)}.'
            )
        self.resolutions = resolutions
        self.networks = nn.ModuleList(_network(width, depth) for _ in resolutions)

    def forward(self, audio: Tensor) -> tuple[Scores, list[Tensor]]:
        """(B, S) -> scores of every resolution, and the features of every layer before them."""
        scores, features = [], []
        for network, (n_fft, hop) in zip(self.networks, self.resolutions, strict=True):
            x = magnitudes(audio, n_fft, hop).log()[:, None]
            *hidden, last = network.children()
            for layer in hidden:
                x = F.leaky_relu(layer(x), _SLOPE)
                features.append(x)
            scores.append(last(x))
        return scores, features


def _network(width: int, depth: int) -> nn.ModuleList:
    inner = [nn.Conv2d(width, width, (5, 3), stride=(2, 1), padding=(2, 1)) for _ in range(depth)]
    layers = [nn.Conv2d(1, width, (5, 3), padding=(2, 1)), *inner, nn.Conv2d(width, 1, 3, padding=1)]
    return nn.ModuleList(weight_norm(layer) for layer in layers)


def discrimination_loss(scores: Scores) -> Tensor:
    """Score 1 for true sound, 0 for vocoded: scores -> (). Mao et al. 2017 (LSGAN)."""
    terms = [(1 - true).square().mean() + vocoded.square().mean() for true, vocoded in map(_halves, scores)]
    return torch.stack(terms).mean()


def pretence_loss(scores: Scores) -> Tensor:
    """Score 1 for vocoded sound: scores -> (). Mao et al. 2017 (LSGAN)."""
    return torch.stack([(1 - vocoded).square().mean() for _, vocoded in map(_halves, scores)]).mean()


def feature_distance(features: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of the features of true and vocoded sound: [(2 B, C, K, F)] -> ().

    Kumar et al. 2019 (MelGAN), feature matching.
    """
    return torch.stack([(vocoded - true.detach()).abs().mean() for true, vocoded in map(_halves, features)]).mean()


def _halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    true, vocoded = rows.chunk(2)
    return true, vocoded
