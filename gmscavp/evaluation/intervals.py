"""Bootstrap confidence intervals of recalls."""

import numpy as np
from torch import Tensor

from gmscavp.evaluation.retrieval import RECALLS

Interval = tuple[float, float]


def recall_intervals(
    v2a: Tensor, a2v: Tensor, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile bootstrap over the clips: name -> (low, high) in percent, for v2a_R1 .. a2v_R10 and mean_R1.

    v2a, a2v: (N,) ranks; a drawn clip brings its query of both directions. Efron and Tibshirani 1993, chapter 13. Only
    which recalls a clip counts for matters, so the N clips of a draw are drawn as one multinomial over the 16 kinds of
    clips there are: the same distribution as by drawing clip by clip, without (draws, N) numbers.
    """
    kinds = len(RECALLS) + 1
    v2a_hits, a2v_hits = (np.sum([ranks.numpy() <= k for k in RECALLS], axis=0) for ranks in (v2a, a2v))
    counts = np.bincount(v2a_hits * kinds + a2v_hits, minlength=kinds**2)
    drawn = np.random.default_rng(seed).multinomial(len(v2a), counts / len(v2a), size=draws)
    kind = np.arange(kinds**2)
    # A clip of kind h counts for the last h recalls: whoever is among the first 1 is among the first 5 and 10.
    shares = {
        f'{way}_R{k}': of >= kinds - 1 - number
        for way, of in (('v2a', kind // kinds), ('a2v', kind % kinds))
        for number, k in enumerate(RECALLS)
    }
    values = {name: 100 * (drawn @ share) / len(v2a) for name, share in shares.items()}
    values['mean_R1'] = (values['v2a_R1'] + values['a2v_R1']) / 2
    ends = (100 * (1 - level) / 2, 100 * (1 + level) / 2)
    return {name: (float(low), float(high)) for name, (low, high) in _percentiles(values, ends).items()}


def _percentiles(values: dict[str, np.ndarray], ends: tuple[float, float]) -> dict[str, np.ndarray]:
    return {name: np.percentile(value, ends) for name, value in values.items()}
