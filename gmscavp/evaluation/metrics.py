"""MMEngine's side of the evaluation: collects what the model gives over batches and ranks."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor, nn

from gmscavp.distributed import gather_objects
from gmscavp.errors import UserError
from gmscavp.evaluation.classes import class_figures
from gmscavp.evaluation.intervals import recall_intervals
from gmscavp.evaluation.one_pass import TIE, inner_product
from gmscavp.evaluation.reranking import FirstPlaces, candidate_errors
from gmscavp.evaluation.retrieval import DIRECTIONS, Gallery, rank_figures
from gmscavp.registry import METRICS
from gmscavp.structures import Pyramid

Clips = Sequence[Mapping[str, Any]]

TIE_RULE = f'a tie (within {TIE:g}) counts against the query'
LEVEL = 0.95


@METRICS.register_module()
class RetrievalMetric(BaseMetric):
    """R@1/5/10, median and mean rank, video to audio (v2a) and back (a2v), beside N and chance; by class mAP and nDCG@10.

    Clips that could not be read are left out and counted as `skipped`. A tie counts against the query. labels: give mAP
    and nDCG@10 where the data set has labels. draws: of the bootstrap, 0 for no intervals; seed: its own. per_scale: give
    the figures of every scale alone. Intervals, scales and what is known of the gallery stand in `details`, ready for JSON.

    With a `model` (LendModelHook lends it) embeddings are compared as the model says, queries that it translated are used,
    and the best candidates are ranked anew where it is set to; without one by inner product.
    """

    default_prefix = 'retrieval'

    def __init__(self, labels: bool = True, draws: int = 1000, seed: int = 0, per_scale: bool = True) -> None:
        # 'gpu' names MMEngine's collection by collectives, which gloo does on a CPU too; its 'cpu' way leaves folders of
        # pickles in the current directory.
        super().__init__(collect_device='gpu')
        if draws < 0:
            raise UserError(f'RetrievalMetric: draws must be 0 or more, not {draws}.')
        self.labels, self.draws, self.seed, self.per_scale = labels, draws, seed, per_scale
        self.model: nn.Module | None = None
        self.gallery: Gallery | None = None
        self.details: dict[str, Any] = {}

    def process(self, data_batch: Any, data_samples: Clips) -> None:
        """Keep one batch of embeddings."""
        self.results.extend(data_samples)

    def evaluate(self, size: int) -> dict[str, float]:
        """As MMEngine's, but every process gets all clips and works out its share of the similarities.

        size: clips of the data set; what a sampler filled up beyond them is left out.
        """
        # In the order of the data set: process r has clips r, r + ranks, ...
        clips = [clip for turn in zip(*gather_objects(self.results), strict=False) for clip in turn][:size]
        self.results.clear()
        found = self.compute_metrics(clips)
        # What is not shared may round differently on another machine; all must decide by the same figures.
        found = gather_objects(found)[0]
        return {f'{self.prefix}/{name}' if self.prefix else name: value for name, value in found.items()}

    @torch.no_grad()
    def compute_metrics(self, results: list[Mapping[str, Any]]) -> dict[str, float]:
        """Figures over all clips that could be read; every process of a group calls it with the same clips."""
        read = [sample for sample in results if sample['valid']]
        if not read:
            raise UserError(f'none of the {len(results)} clips of the evaluation could be read; see the causes above.')
        self.gallery = gallery = self._gallery(read)
        v2a, a2v = gallery.ranks(spread=True)
        known = self.dataset_meta or {}
        by_class = class_figures(gallery, known.get('labels', {}), spread=True) if self.labels else {}
        skipped = len(results) - len(read)
        self.details = {
            'gallery': known.get('gallery', {}) | {'compared': len(read), 'skipped': skipped},
            'tie_rule': TIE_RULE,
            'reranked': gallery.first_places['v2a'].error.shape[1] if gallery.first_places else 0,
            'translated': gallery.video_query is not None,
            'bootstrap': {'draws': self.draws, 'seed': self.seed, 'level': LEVEL},
            'intervals': self._intervals(v2a, a2v),
            'scales': list(self._scales(gallery)),
        }
        return rank_figures(v2a, a2v) | by_class | {'skipped': skipped}

    def _gallery(self, read: Clips) -> Gallery:
        """The embeddings of all clips, compared as the model does."""
        columns = {
            name: torch.stack([clip[name] for clip in read])
            for name in ('video_embedding', 'audio_embedding', 'video_query', 'audio_query')
            if name in read[0]
        }
        if not all(torch.isfinite(column).all() for column in columns.values()):
            raise UserError(
                'the model gives embeddings that are not finite: training has diverged; lower the learning rate.'
            )
        gallery = Gallery(
            [clip['clip_id'] for clip in read],
            columns['video_embedding'],
            columns['audio_embedding'],
            self._score,
            columns.get('video_query'),
            columns.get('audio_query'),
        )
        settings = getattr(self.model, 'rerank', None)
        return gallery if settings is None else self._ranked_anew(gallery, read, settings.top)

    def _score(self, video: Tensor, audio: Tensor) -> Tensor:
        """(N, E), (M, E) on the CPU -> (N, M), by the head's own similarity where there is a model."""
        similarity = getattr(getattr(self.model, 'head', None), 'similarity', None)
        if similarity is None or self.model is None:
            return inner_product(video, audio)
        device = next(self.model.parameters()).device
        return similarity(video.to(device), audio.to(device)).float().cpu()

    def _ranked_anew(self, gallery: Gallery, read: Clips, top: int) -> Gallery:
        tokens: dict[str, Pyramid] = {
            side: [torch.stack(scale) for scale in zip(*(clip[f'{side}_tokens'] for clip in read), strict=True)]
            for side in ('video', 'audio')
        }
        first_places, best = {}, gallery.candidates(top, spread=True)
        for direction, query, items in (('v2a', 'video', 'audio'), ('a2v', 'audio', 'video')):
            error = functools.partial(self._matching_error, direction)
            candidates = best[direction]
            errors = candidate_errors(error, tokens[query], tokens[items], candidates)
            first_places[direction] = FirstPlaces(candidates, errors)
        return replace(gallery, first_places=first_places)

    def _matching_error(self, direction: str, query: Pyramid, candidate: Pyramid) -> Tensor:
        model: Any = self.model
        device = next(model.parameters()).device
        return model.matching_error(direction, [x.to(device) for x in query], [x.to(device) for x in candidate])

    def _intervals(self, v2a: Tensor, a2v: Tensor) -> dict[str, list[float]]:
        if not self.draws:
            return {}
        found = recall_intervals(v2a, a2v, self.draws, self.seed, LEVEL)
        return {name: list(interval) for name, interval in found.items()}

    def _scales(self, gallery: Gallery) -> Iterator[dict[str, Any]]:
        """Figures of every scale by itself, fine to coarse; none for a model of one scale."""
        split = getattr(self.model, 'split_scales', None)
        if not self.per_scale or split is None:
            return
        parts = list(zip(split(gallery.video), split(gallery.audio), strict=True))
        lengths = getattr(getattr(self.model, 'head', None), 'lengths', None) or [None] * len(parts)
        if len(parts) < 2:
            return
        for scale, (video, audio) in enumerate(parts):
            v2a, a2v = Gallery(gallery.clip_ids, video, audio).ranks(spread=True)
            figures = {
                name: value for name, value in rank_figures(v2a, a2v).items() if name[:3] in (*DIRECTIONS, 'mea')
            }
            yield {
                'scale': scale,
                'steps': lengths[scale],
                'metrics': figures,
                'intervals': self._intervals(v2a, a2v),
            }
