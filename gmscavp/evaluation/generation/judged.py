"""Figures of generated sound by the features and class scores of a judge network."""

from collections.abc import Iterator, Sequence

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
_CHUNK = 256


def judged_figures(
    name: str,
    generated: Sequence[tuple[Tensor, Tensor | None]],
    real: Sequence[tuple[Tensor, Tensor | None]],
) -> dict[str, float]:
    """Of clips' features (W, D) and class scores (C,), or None: FD, and with scores KL and IS, under the judge's name.

    FD_<name>: Frechet distance of the features of all windows. KL_<name>, KL_sigmoid_<name>: mean over clips of KL(real ||
    generated) of the softmax, and of every class by itself. IS_<name>: over `splits_for` clips. real_IS_<name> is that of
    the real clips, shuffled_KL_... that of generated clips with other clips' real sound. nan below two clips. UserError:
    the judge gives features that are not finite.
    """
    figures = {f'FD_{name}': NAN}
    of_real, of_made = (_statistics(name, [features for features, _ in side]) for side in (real, generated))
    if min(of_real.count, of_made.count) > 1:
        figures[f'FD_{name}'] = frechet_distance(of_real, of_made)
    if any(scores is None for _, scores in generated):
        return figures
    made, true = (torch.stack([scores for _, scores in side if scores is not None]) for side in (generated, real))
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


def _statistics(name: str, features: Sequence[Tensor]) -> FeatureStatistics:
    statistics = FeatureStatistics(features[0].shape[1])
    for batch in _batches(features):
        if not torch.isfinite(batch).all():
            raise UserError(f'the judge {name} gives features that are not finite; check its weights.')
        statistics.add(batch)
    return statistics


def _batches(features: Sequence[Tensor]) -> Iterator[Tensor]:
    for start in range(0, len(features), _CHUNK):
        yield torch.cat(list(features[start : start + _CHUNK]))
