"""Figures of generated sound by the features and class scores of a judge network."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.evaluation.generation.distances import (
    SPLITS,
    FeatureStatistics,
    frechet_distance,
    inception_score,
    kl_sigmoid,
    kl_softmax,
)
from gmscavp.evaluation.generation.exact import deranged

NAN = float('nan')
CLIPS_PER_SPLIT = 50
_HELD = 256


class FeatureStream:
    """Statistics of the features of clips that come one after the other, in memory that does not grow with them.

    name: of the judge. At most 256 clips and those of the batch before wait with their features (W, D): which of the last
    ones a sampler only filled up with is not known until the end.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.statistics: FeatureStatistics | None = None
        self._waiting: list[tuple[int, Tensor]] = []

    def add(self, batch: Sequence[tuple[int, Tensor]]) -> None:
        """Take in the clips of a batch, their numbers and features (W, D). UserError: features that are not finite."""
        if len(self._waiting) >= _HELD:
            # Another batch has come, so that none of these is the last.
            self.settle(lambda number: True)
        self._waiting.extend(batch)

    def settle(self, counts: Callable[[int], bool]) -> None:
        """Take the clips that wait and whose number counts into the statistics; forget the others."""
        features = [rows for number, rows in self._waiting if counts(number)]
        self._waiting.clear()
        if not features:
            return
        batch = torch.cat(features)
        if not torch.isfinite(batch).all():
            raise UserError(f'the judge {self.name} gives features that are not finite; check its weights.')
        self.statistics = self.statistics or FeatureStatistics(batch.shape[1])
        self.statistics.add(batch)


class Judged(NamedTuple):
    """One side as a judge sees it: statistics of the features of all windows; class scores (C,), or None, of every clip."""

    features: FeatureStatistics
    scores: Sequence[Tensor | None]


def judged_figures(name: str, generated: Judged, real: Judged) -> dict[str, float]:
    """FD, and of judges that give class scores KL and IS, under the judge's name; clips of both sides in the same order.

    FD_<name>: Frechet distance of the features of all windows. KL_<name>, KL_sigmoid_<name>: mean over clips of KL(real ||
    generated) of the softmax, and of every class by itself. IS_<name>: over `splits_for` clips. real_IS_<name> is that of
    the real clips, shuffled_KL_... that of generated clips with other clips' real sound. nan below two clips. UserError:
    the judge gives class scores that are not finite.
    """
    figures = {f'FD_{name}': NAN}
    if min(real.features.count, generated.features.count) > 1:
        figures[f'FD_{name}'] = frechet_distance(real.features, generated.features)
    if any(scores is None for scores in generated.scores):
        return figures
    made, true = (torch.stack([scores for scores in side.scores if scores is not None]) for side in (generated, real))
    if not (torch.isfinite(made).all() and torch.isfinite(true).all()):
        raise UserError(f'the judge {name} gives class scores that are not finite; check its weights.')
    other = true[deranged(len(true))] if len(true) > 1 else None
    for kind, divergence in (('KL', kl_softmax), ('KL_sigmoid', kl_sigmoid)):
        figures[f'{kind}_{name}'] = divergence(true, made).mean().item()
        if other is not None:
            figures[f'shuffled_{kind}_{name}'] = divergence(other, made).mean().item()
    for prefix, scores in (('', made), ('real_', true)):
        figures[f'{prefix}IS_{name}'] = inception_score(scores, splits_for(len(scores)))[0]
    return figures


def splits_for(clips: int) -> int:
    """Over how many splits an inception score of so many clips is taken: ten, fewer where a split would be small."""
    return min(SPLITS, max(1, clips // CLIPS_PER_SPLIT))
