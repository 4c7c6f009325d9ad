"""Embeddings of many files, and how well pictures and sounds go together."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gmscavp.errors import UserError
from gmscavp.inference.loaded import Loaded, Progress, demand_embeddings, encode, telling
from gmscavp.inference.sources import Source, Track, name_of, open_audio, open_video
from gmscavp.inference.windows import SIDES, Side, audio_batches, stretch, video_batches, window_starts
from gmscavp.models.heads import clip_similarity, dense_similarity, unit_tokens

WINDOWS_AT_ONCE = 8

OnError = Literal['skip', 'raise']


class Failure(NamedTuple):
    """A source that could not be embedded: its place in what was given, its name, and why."""

    source: int
    name: str
    reason: str


class Embeddings(NamedTuple):
    """Windows of several sources, a row each, in the order given.

    fused: (N, E) float32 on the CPU. scales: fine to coarse, (N, L_s, D) unit tokens; of a model that keeps places,
    (N, L, P, D). source: (N,) which one of what was given. start_s, end_s: (N,) seconds from its beginning. failures: what
    could not be read, and has no rows.
    """

    fused: Tensor
    scales: list[Tensor]
    source: Tensor
    start_s: Tensor
    end_s: Tensor
    failures: list[Failure]


class Similarity(NamedTuple):
    """How well every video goes with every audio: fused (V, A), what retrieval ranks by, and scales, fine to coarse.

    scales: (V, A) each, the mean cosine of tokens of the same time; of a model that keeps places, of the best place.
    """

    fused: Tensor
    scales: list[Tensor]


class Piece(NamedTuple):
    """Windows of one source as a model takes them, and their times."""

    start_s: Tensor
    end_s: Tensor
    windows: Tensor
    total: int


def pieces(
    run: Loaded,
    source: Source,
    side: Side,
    stride_s: float,
    start_s: float = 0.0,
    end_s: float | None = None,
    batch: int = WINDOWS_AT_ONCE,
) -> Iterator[Piece]:
    """Windows of a source, at most `batch` at a time. UserError: it cannot be read, or what is asked makes no sense."""
    demand_sense(side, stride_s, batch)
    lasts_s = run.clip.duration_s
    track, batches = open_side(run, source, side)
    begin_s, until_s = stretch(track, start_s, end_s, lasts_s)
    starts = window_starts(begin_s, until_s, lasts_s, stride_s)
    done = 0
    for part in batches(track, starts, until_s, run.clip, batch):
        begins = torch.from_numpy(starts[done : done + len(part)])
        done += len(part)
        yield Piece(begins, (begins + lasts_s).clamp(max=until_s), part, len(starts))


def open_side(run: Loaded, source: Source, side: Side) -> tuple[Track, Callable[..., Iterator[Tensor]]]:
    """The pictures or the sound of a source, and what cuts them into windows."""
    if side == 'video':
        return open_video(source, run.clip, run.transforms), video_batches
    return open_audio(source, run.clip.sample_rate), audio_batches


def embed(
    run: Loaded,
    sources: Sequence[Source],
    side: Side,
    stride_s: float | None,
    batch: int,
    progress: Progress | bool,
    on_error: OnError,
) -> Embeddings:
    """As Model.embed. Windows of several sources share a batch."""
    demand_embeddings(run)
    if on_error not in ('skip', 'raise'):
        raise UserError(f"on_error must be 'skip' or 'raise', not {on_error!r}.")
    step_s = run.clip.duration_s if stride_s is None else stride_s
    demand_sense(side, step_s, batch)
    failures: list[Failure] = []
    waiting: list[tuple[int, Piece]] = []
    parts = []
    with telling(progress, f'embedding {side}') as told:
        for index, piece in _read(run, sources, side, step_s, batch, on_error, failures):
            if piece is None:
                told(index + 1, len(sources))
                continue
            waiting.append((index, piece))
            if sum(len(held.windows) for _, held in waiting) >= batch:
                parts.append(_encoded(run, side, waiting))
                waiting = []
    if waiting:
        parts.append(_encoded(run, side, waiting))
    if len(failures) == len(sources):
        raise UserError(f'none of {len(sources)} files could be embedded; the first: {failures[0].reason}')
    columns = list(zip(*parts, strict=True))
    fused, source, start_s, end_s = (torch.cat(column) for column in columns[:4])
    scales = [torch.cat(scale) for scale in zip(*columns[4], strict=True)]
    # A source that failed half-way has left rows.
    kept = ~torch.isin(source, torch.tensor([failure.source for failure in failures], dtype=torch.long))
    scales = [scale[kept] for scale in scales]
    return Embeddings(fused[kept], scales, source[kept], start_s[kept], end_s[kept], failures)


def similarity(run: Loaded, video: Embeddings, audio: Embeddings, videos: int, audios: int) -> Similarity:
    """As Model.similarity, of windows side by side of so many videos and audios."""
    head = run.model.head
    compare = dense_similarity if head.takes_places else clip_similarity
    totals = [torch.zeros(videos, audios) for _ in range(1 + len(video.scales))]
    count = torch.zeros(videos, audios)
    for start_s in sorted(set(video.start_s.tolist()) & set(audio.start_s.tolist())):
        # The last window may begin anywhere, as it ends with its file.
        if not (start_s / run.clip.duration_s).is_integer():
            continue
        v, a = video.start_s == start_s, audio.start_s == start_s
        place = video.source[v][:, None], audio.source[a]
        count[place] += 1
        totals[0][place] += head.similarity(video.fused[v], audio.fused[a])
        for total, x, y in zip(totals[1:], video.scales, audio.scales, strict=True):
            total[place] += compare(x[v], y[a].squeeze(2) if head.takes_places else y[a])
    return Similarity(totals[0] / count, [total / count for total in totals[1:]])


def demand_sense(side: str, stride_s: float, batch: int) -> None:
    """UserError: settings that no file could meet."""
    if side not in SIDES:
        raise UserError(f"side must be 'video' or 'audio', not {side!r}.")
    if batch < 1 or not 0 < stride_s < math.inf:
        raise UserError(f'batch must be at least 1 and stride_s above 0, not {batch} and {stride_s}.')


def _read(
    run: Loaded,
    sources: Sequence[Source],
    side: Side,
    stride_s: float,
    batch: int,
    on_error: OnError,
    failures: list[Failure],
) -> Iterator[tuple[int, Piece | None]]:
    """Windows of every source with its index, then (index, None); failures are added to those given."""
    for index, source in enumerate(sources):
        try:
            for piece in pieces(run, source, side, stride_s, batch=batch):
                yield index, piece
        except UserError as error:
            if on_error == 'raise':
                raise
            failures.append(Failure(index, name_of(source), str(error)))
        yield index, None


def _encoded(
    run: Loaded, side: Side, waiting: Sequence[tuple[int, Piece]]
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """fused, source, start_s, end_s and scales of Embeddings, of windows that are read."""
    tokens = encode(run, side, torch.cat([piece.windows for _, piece in waiting]))
    source = torch.cat([torch.full((len(piece.windows),), place) for place, piece in waiting])
    start_s = torch.cat([piece.start_s for _, piece in waiting])
    end_s = torch.cat([piece.end_s for _, piece in waiting])
    fused = run.model.head.embed(tokens).float().cpu()
    return fused, source, start_s, end_s, [x.cpu() for x in unit_tokens(tokens)]
