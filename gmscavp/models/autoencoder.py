"""Training of a codec: reconstruct the signal from latents that stay close to a unit normal."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.registry import CODECS, MODELS
from gmscavp.structures import Losses

# Beyond these a variance is 0 or infinite in half precision for all purposes.
_LOG_VARIANCE = (-30.0, 20.0)
_RANGES = {'audio': 1.0, 'video': 2.0}


def normal_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), mean over all values: (...), (...) -> (). Kingma and Welling 2014, appendix B."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()


def edge_error(signal: Tensor, made: Tensor, poolings: Sequence[int]) -> Tensor:
    """Mean absolute error of the differences between neighbours along both axes, mean over poolings.

    (N, C, H, W), (N, C, H, W) -> (). Pooled by p, an edge counts although it lies a few places off; at p = 1 it must be
    sharp. A mean error alone is smallest where an uncertain edge is blurred.
    """
    error = made - signal
    terms = []
    for pooling in poolings:
        pooled = F.avg_pool2d(error, pooling) if pooling > 1 else error
        terms += [pooled.diff(dim=axis).abs().mean() for axis in (-2, -1)]
    return torch.stack(terms).mean()


@MODELS.register_module()
class Autoencoder(BaseModel):
    """Trains a codec of video or of the log-mel by itself, before a generator takes it: init=dict(codec=CHECKPOINT).

    codec: config of a codec that has a posterior. l1_weight, l2_weight: of the reconstruction's mean absolute and mean
    square error; the square finds what is rare and far off, such as an object before a wall, while the absolute error
    still rests at the background. edge_weight: of `edge_error` at the given poolings: over frames and bands of a mel
    (onsets, partials), over rows and columns of a picture (outlines). kl_weight: of the divergence from a unit normal, a
    mean over values: enough of it keeps the latents smooth, more of it costs detail. A weight of 0 leaves the term out.
    frames: train on so many frames in succession of every clip, None for all; video only.
    """

    def __init__(
        self,
        data_preprocessor: Mapping[str, Any],
        codec: Mapping[str, Any],
        l1_weight: float = 1.0,
        l2_weight: float = 5.0,
        edge_weight: float = 1.0,
        kl_weight: float = 1e-3,
        poolings: Sequence[int] = (1, 2, 4),
        frames: int | None = None,
    ) -> None:
        super().__init__(MODELS.build(dict(data_preprocessor)))
        self.codec = CODECS.build(dict(codec))
        lacking = [name for name in ('posterior', 'reconstruct', 'observe') if not hasattr(self.codec, name)]
        if lacking:
            raise UserError(
                f'{type(self.codec).__name__} has nothing to train (no {lacking[0]}); '
                'train a MelAutoencoder or a FrameAutoencoder.'
            )
        if not (l1_weight or l2_weight):
            raise UserError('Autoencoder: l1_weight or l2_weight must be above 0, or nothing is reconstructed.')
        if frames is not None and (frames < 1 or self.codec.side != 'video'):
            raise UserError(f'Autoencoder: frames is for a codec of video, a number from 1 on or None, not {frames}.')
        self.weights = dict(l1=l1_weight, l2=l2_weight, edges=edge_weight, kl=kl_weight)
        self.poolings, self.frames = list(poolings), frames

    def signal(self, video: Tensor, mel: Tensor) -> Tensor:
        """The side of a clip that the codec is for."""
        return video if self.codec.side == 'video' else mel

    def loss(self, video: Tensor, mel: Tensor) -> Losses:
        """Every term of the objective under its own name; MMEngine adds them up."""
        signal = self._excerpt(self.signal(video, mel))
        mean, log_variance = self.codec.posterior(signal)
        log_variance = log_variance.float().clamp(*_LOG_VARIANCE)
        self.codec.observe(mean)
        latents = mean + torch.randn_like(mean) * (log_variance / 2).exp().to(mean.dtype)
        made = self.codec.reconstruct(latents).float()
        terms = {
            'l1': lambda: F.l1_loss(made, signal),
            'l2': lambda: F.mse_loss(made, signal),
            'edges': lambda: edge_error(_pictures(signal), _pictures(made), self.poolings),
            'kl': lambda: normal_divergence(mean.float(), log_variance),
        }
        return {f'loss_{name}': self.weights[name] * term() for name, term in terms.items() if self.weights[name]}

    def predict(self, video: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """The signal and what the codec makes of it, both like the signal."""
        signal = self.signal(video, mel)
        return signal, self.codec.decode(self.codec.encode(signal))

    def forward(
        self,
        video: Tensor,
        mel: Tensor,
        clip_id: Sequence[str] = (),
        start_s: Tensor | None = None,
        valid: Tensor | None = None,
        failures: Sequence[str] = (),
        segments: int = 1,
        mode: str = 'tensor',
    ) -> Losses | Tensor | list[dict[str, Any]]:
        """What MMEngine's runner calls.

        mode: 'loss' -> losses; 'tensor' -> latents; 'predict' -> one dict a clip with signal and reconstruction, each
        (segments, ...), and the width of the signal's range.
        """
        if mode == 'loss':
            return self.loss(video, mel)
        if mode == 'tensor':
            return self.codec.encode(self.signal(video, mel))
        signal, made = (rows.float().unflatten(0, (-1, segments)) for rows in self.predict(video, mel))
        readable = valid.tolist() if valid is not None else [True] * len(clip_id)
        columns = zip(clip_id, readable, signal, made, strict=True)
        width = _RANGES[self.codec.side]
        return [
            dict(clip_id=name, valid=read, signal=x, reconstruction=y, signal_range=width)
            for name, read, x, y in columns
        ]

    def _excerpt(self, signal: Tensor) -> Tensor:
        """A run of frames from a random place, the same for all clips of the batch."""
        if self.frames is None or signal.shape[2] <= self.frames:
            return signal
        start = int(torch.randint(signal.shape[2] - self.frames + 1, ()))
        return signal[:, :, start : start + self.frames]


def _pictures(signal: Tensor) -> Tensor:
    """Frames of a video, or the mel as it is: (N, C, H, W)."""
    return signal.transpose(1, 2).flatten(0, 1) if signal.dim() == 5 else signal
