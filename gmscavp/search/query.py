"""What in a library belongs to a video, a sound or a picture: the nearest windows, placed by their fine scales."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from gmscavp.errors import UserError
from gmscavp.inference.windows import Side
from gmscavp.search.conditions import Filters
from gmscavp.search.embedding import Embedder
from gmscavp.search.scoring import Answer, joint, shifted_similarity
from gmscavp.search.store import Store, demand_model

# Of a long query so many windows, evenly spread, are looked up.
_QUERY_WINDOWS = 32
# Windows that are ranked again, for each answer that is wanted; several of them are neighbours.
_CANDIDATES, _LEAST_CANDIDATES = 8, 64


def find(
    store: Store,
    model: Embedder,
    file: str | Path,
    side: Side,
    target: Side | None = None,
    start_s: float = 0.0,
    end_s: float | None = None,
    filters: Filters | None = None,
    limit: int = 10,
    min_score: float = -math.inf,
    exact: bool = False,
    rerank: bool = True,
) -> list[Answer]:
    """Places of the library that belong to one side of a file (or of a part of it), best first, none overlapping another.

    side: 'video' (also of a picture) or 'audio'. target: the side that answers, the other one unless said; for the same
    side, similarity is what the fused embedding gives, which was not trained for that. exact: without the index.
    rerank: place windows between strides by their fine scales. UserError: the model or the file is not what is needed.
    """
    demand_model(store, model.identity)
    target = target or ('audio' if side == 'video' else 'video')
    if target not in store.about.sides:
        raise UserError(f'{store.uri} holds no {target} (only {" ".join(store.about.sides)}); choose another --target.')
    windows = model.windows(file, side, stride_s=model.clip.duration_s, start_s=start_s, end_s=end_s)
    chosen = np.unique(np.linspace(0, len(windows.fused) - 1, _QUERY_WINDOWS).round().astype(int))
    vectors, starts = windows.fused.numpy()[chosen], windows.start_s.numpy()[chosen] - float(windows.start_s[0])
    lasts_s = float(windows.end_s[-1] - windows.start_s[0])
    where, wanted = (filters or Filters()).condition(target), max(_LEAST_CANDIDATES, _CANDIDATES * limit)
    parts = []
    for vector, offset_s in zip(vectors, starts, strict=True):
        found = store.search(vector, wanted, where, exact or not store.index, vectors=rerank)
        scores, shifts = _placed(store, vector, found) if rerank and len(found) else _unmoved(found)
        parts.append(_hits(found, scores, shifts - float(offset_s), lasts_s))
    return [answer for answer in joint(parts) if answer.score >= min_score][:limit]


def _unmoved(found: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(found['score']), np.zeros(len(found))


def _placed(store: Store, vector: np.ndarray, found: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Scores of windows at the shift that fits best, and that shift in seconds: (N,), (N,)."""
    about = store.about
    token_s = about.window_s / about.lengths[0]
    # Half a stride reaches the neighbour's own tokens.
    most = min(math.ceil(about.stride_s / 2 / token_s - 1e-9), about.lengths[0] // 4)
    flat = found['vector'].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    gallery = flat.astype(np.float32).reshape(len(found), about.width)
    scores = shifted_similarity(vector, gallery, about.lengths, most)
    best = scores.argmax(axis=1)
    return scores[np.arange(len(scores)), best], (best - most) * token_s


def _hits(found: pa.Table, scores: np.ndarray, moved_s: np.ndarray, lasts_s: float) -> list[Answer]:
    """Windows as places of the whole query, cut at the ends of their files."""
    hits = []
    columns: Sequence[str] = ('file', 'modality', 'start_s', 'duration_s', 'label')
    for row, score, by_s in zip(found.select(columns).to_pylist(), scores, moved_s, strict=True):
        start_s = max(0.0, row['start_s'] + float(by_s))
        end_s = min(row['duration_s'], row['start_s'] + float(by_s) + lasts_s)
        if end_s > start_s:
            hits.append(Answer(row['file'], start_s, end_s, float(score), row['modality'], row['label']))
    return hits
