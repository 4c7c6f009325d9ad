"""MMEngine's side of the evaluation of generation: judges every clip as it comes, and keeps what is small of it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.evaluator import BaseMetric
from torch import Tensor
from torch.nn import functional as F

from gmscavp.distributed import gather_objects, world
from gmscavp.errors import UserError
from gmscavp.evaluation.generation.distances import FeatureStatistics, kl_softmax
from gmscavp.evaluation.generation.exact import deranged, picture_figures, prefixed, sound_figures
from gmscavp.evaluation.generation.judged import FeatureStream, Judged, judged_figures, splits_for
from gmscavp.evaluation.generation.motion import find_bouncers
from gmscavp.evaluation.generation.onsets import hear_onsets
from gmscavp.evaluation.generation.sync import alignment_accuracy
from gmscavp.evaluation.generation.truth import ClipTruth, SceneFacts, read_truth, within
from gmscavp.evaluation.trained import AlignmentJudge
from gmscavp.registry import EMBEDDERS, METRICS

Row = dict[str, Any]
# RMS in dB of full scale below which nothing is heard, as in the preparation of data.
SILENT_DB = -60.0
SIDES = ('generated', 'real')


@dataclass(frozen=True)
class Example:
    """A clip for the page of samples, as the generator gave it: for v2a both waveforms and mels, for a2v both frames.

    rate: samples or frames a second. truth: what is known of it, None where nothing is.
    """

    clip_id: str
    generated: np.ndarray
    real: np.ndarray
    rate: float
    mel: np.ndarray | None = None
    real_mel: np.ndarray | None = None
    truth: ClipTruth | None = None


@METRICS.register_module()
class GenerationMetric(BaseMetric):
    """How good generated sound (v2a) or video (a2v) is beside the real one, with figures of chance beside it.

    embedders: name -> config of an embedder, judges of sound: FD, KL, IS under their names. truth: events.jsonl of a
    rendered data set: exact figures of impacts. alignment: config and checkpoint of an alignment classifier: the share of
    clips that it calls aligned, in percent. examples: so many clips are kept whole, for the page of samples. device: of the
    judges, None for a GPU where there is one.

    Figures of real clips have the prefix real_, those of generated clips with another clip's truth shuffled_. Sound that is
    not finite counts as silence; `silent`, `not_finite` and, of videos, `blank` (one colour) say how many there are.
    Clips that could not be read are left out and counted as `skipped`.
    """

    default_prefix = 'generation'

    def __init__(
        self,
        embedders: Mapping[str, Mapping[str, Any]] = {},
        truth: str | None = None,
        alignment: Mapping[str, str] | None = None,
        examples: int = 8,
        device: str | None = None,
    ) -> None:
        # As in RetrievalMetric: collectives, no folders of pickles.
        super().__init__(collect_device='gpu')
        device = device or get_device()
        self.truth_file, self.truths = truth, read_truth(truth) if truth else None
        self.scene = SceneFacts()
        self.embedders = {name: EMBEDDERS.build(dict(settings)) for name, settings in embedders.items()}
        for embedder in self.embedders.values():
            embedder.to(device)
        self.alignment = AlignmentJudge(**alignment, device=device) if alignment else None
        self.most_examples = examples
        self.examples: list[Example] = []
        self._streams: dict[str, list[FeatureStream]] = {}
        self._statistics: dict[str, list[FeatureStatistics]] = {}
        self.details: dict[str, Any] = {}

    @torch.no_grad()
    def process(self, data_batch: Mapping[str, Any], data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Judge one batch. UserError: a clip of which the truth says nothing, or rows that no generator gives."""
        if not self.results:
            self.examples.clear()
            self._streams = {name: [FeatureStream(name) for _ in SIDES] for name in self.embedders}
        starts = data_batch.get('start_s')
        rows: list[Row] = [{'clip_id': clip['clip_id'], 'valid': bool(clip['valid'])} for clip in data_samples]
        read = [number for number, row in enumerate(rows) if row['valid']]
        clips = [data_samples[number] for number in read]
        for number, clip in zip(read, clips, strict=True):
            rows[number] |= self._sound_row(clip) if 'waveform' in clip else self._picture_row(clip)
            self._add_truth(rows[number], 0.0 if starts is None else float(starts[number]))
        if clips and 'waveform' in clips[0]:
            self._embed(clips, read, rows)
        if clips and self.alignment:
            self._align(data_batch, clips, read, rows)
        for number, clip in zip(read, clips, strict=True):
            if len(self.examples) < self.most_examples:
                self.examples.append(_example(clip, rows[number].get('truth')))
            rows[number].pop('sounds', None)
        self.results.extend(rows)

    def evaluate(self, size: int) -> dict[str, float]:
        """As MMEngine's, with the statistics of features of all processes joined.

        size: clips of the data set; what a sampler filled up beyond them is left out.
        """
        rank, ranks = world()
        self._statistics = {name: [] for name in self.embedders}
        for name, sides in self._streams.items():
            for stream in sides:
                # Process r has clips r, r + ranks, ...
                stream.settle(lambda number: number * ranks + rank < size)
                states = gather_objects(stream.statistics and stream.statistics.state)
                seen = [state for state in states if state is not None]
                self._statistics[name] += [FeatureStatistics.joined(seen)] if seen else []
        return super().evaluate(size)

    def compute_metrics(self, results: list[Row]) -> dict[str, float]:
        """Figures over all clips that could be read; those of a judge need `evaluate`, which joins what it saw."""
        read = [row for row in results if row['valid']]
        if not read:
            raise UserError(f'none of the {len(results)} clips of the evaluation could be read; see the causes above.')
        direction = read[0]['direction']
        figures: dict[str, float] = {'N': len(read), 'skipped': len(results) - len(read)}
        for fault in ('silent', 'not_finite') if direction == 'v2a' else ('blank',):
            figures[fault] = sum(row[fault] for row in read)
        figures |= self._judged(read) | self._exact(read) | self._aligned(read)
        shown = {example.clip_id for example in self.examples}
        self.details = {
            'direction': direction,
            'gallery': (self.dataset_meta or {}).get('gallery', {}),
            'truth': self.truth_file,
            'embedders': {name: type(embedder).__name__ for name, embedder in self.embedders.items()},
            'inception_splits': splits_for(len(read)),
            'clips': {row['clip_id']: self._of_one(row) for row in read if row['clip_id'] in shown},
        }
        return figures

    def _sound_row(self, clip: Mapping[str, Any]) -> Row:
        rate, made = clip['sample_rate'], clip['waveform'].float()
        finite = bool(torch.isfinite(made).all())
        real = clip['real_waveform'].float().nan_to_num(0.0, 0.0, 0.0)
        # The same moments of both: what is missing is silence.
        made = _of_length(made if finite else torch.zeros_like(real), len(real)).clamp(-1, 1)
        row: Row = {
            'direction': 'v2a',
            'not_finite': not finite,
            'silent': _loudness_db(made) < SILENT_DB,
            'duration_s': len(real) / rate,
            'sounds': (made, real),
        }
        if self.truths is not None:
            hear = functools.partial(hear_onsets, sample_rate=rate, pitches_hz=self.scene.pitches_hz)
            row['found'] = [hear(sound.numpy()) for sound in (made, real)]
        return row

    def _picture_row(self, clip: Mapping[str, Any]) -> Row:
        missing = [name for name in ('frames', 'real_frames', 'fps') if name not in clip]
        if missing:
            raise UserError(
                f'GenerationMetric: the model gives no {", ".join(missing)}; it takes those of a generator.'
            )
        made, real, fps = clip['frames'], clip['real_frames'], float(clip['fps'])
        row: Row = {
            'direction': 'a2v',
            'blank': bool(made.amax() == made.amin()) if made.numel() else True,
            'duration_s': len(real) / fps,
            'fps': fps,
            'frames': len(real),
        }
        if self.truths is not None:
            row['found'] = [
                find_bouncers(_square(frames, self.scene.side), fps, self.scene.palette, self.scene.floor_y)
                for frames in (made, real)
            ]
        return row

    def _add_truth(self, row: Row, start_s: float) -> None:
        if self.truths is None:
            return
        if row['clip_id'] not in self.truths:
            raise UserError(
                f'{self.truth_file} knows nothing of clip {row["clip_id"]}; give the events of the data set that is '
                'tested, or truth=None.'
            )
        row['truth'] = within(self.truths[row['clip_id']], start_s, row['duration_s'])

    def _embed(self, clips: Sequence[Mapping[str, Any]], read: Sequence[int], batch: Sequence[Row]) -> None:
        rates = {clip['sample_rate'] for clip in clips}
        if len(rates) > 1:
            raise UserError(f'the clips of a batch have several sample rates: {sorted(rates)}.')
        rows, first = [batch[number] for number in read], len(self.results)
        for row in rows:
            row['judged'] = {}
        for name, embedder in self.embedders.items():
            scores = []
            for side, stream in enumerate(self._streams[name]):
                found = _embedded(embedder, [row['sounds'][side] for row in rows], *rates)
                stream.add([(first + number, of) for number, (of, _) in zip(read, found, strict=True)])
                scores.append([of for _, of in found])
            for row, *both in zip(rows, *scores, strict=True):
                row['judged'][name] = both

    def _align(
        self, batch: Mapping[str, Any], clips: Sequence[Mapping[str, Any]], read: Sequence[int], rows: Sequence[Row]
    ) -> None:
        """How probably generated sound, or video, belongs to the video, or sound, that it was made for."""
        assert self.alignment
        video, audio = batch['video'][read], batch['audio'][read]
        if 'waveform' in clips[0]:
            made = torch.stack([rows[number]['sounds'][0] for number in read])
            pairs = [(video, made), (video, audio)]
        else:
            frames = torch.stack([clip['frames'] for clip in clips]).permute(0, 1, 4, 2, 3)
            pairs = [(frames, audio), (video, audio)]
        for number, *probabilities in zip(read, *(self.alignment(*pair).tolist() for pair in pairs), strict=True):
            rows[number]['aligned'] = probabilities

    def _judged(self, read: Sequence[Row]) -> dict[str, float]:
        figures: dict[str, float] = {}
        for name in self.embedders if 'judged' in read[0] else ():
            scores = zip(*(row['judged'][name] for row in read), strict=True)
            figures |= judged_figures(name, *map(Judged, self._statistics[name], scores))
        return figures

    def _exact(self, read: Sequence[Row]) -> dict[str, float]:
        if self.truths is None:
            return {}
        truths = [row['truth'] for row in read]
        made, real = zip(*(row['found'] for row in read), strict=True)
        compare: Callable[[Sequence[Any], Sequence[ClipTruth]], dict[str, float]] = sound_figures
        if read[0]['direction'] == 'a2v':
            compare = functools.partial(picture_figures, frames=[row['frames'] for row in read], fps=read[0]['fps'])
        figures = compare(made, truths) | prefixed('real', compare(real, truths))
        if len(read) > 1:
            figures |= prefixed('shuffled', compare(made, [truths[number] for number in deranged(len(read))]))
        return figures

    def _aligned(self, read: Sequence[Row]) -> dict[str, float]:
        if not self.alignment:
            return {}
        made, real = torch.tensor([row['aligned'] for row in read], dtype=torch.float64).unbind(dim=1)
        return {
            'alignment_accuracy': 100 * alignment_accuracy(made),
            'real_alignment_accuracy': 100 * alignment_accuracy(real),
        }

    def _of_one(self, row: Row) -> dict[str, float]:
        """What the page says of a clip by itself."""
        figures: dict[str, float] = {}
        if self.truths is not None:
            both = self._exact([row])
            figures |= {name: value for name, value in both.items() if not name.startswith('real_')}
        for name, (made, real) in row.get('judged', {}).items():
            if made is not None:
                figures[f'KL_{name}'] = kl_softmax(real[None], made[None]).item()
        if 'aligned' in row:
            figures['aligned'] = row['aligned'][0]
        return figures | {fault: 1.0 for fault in ('silent', 'not_finite', 'blank') if row.get(fault)}


def _embedded(embedder: Any, sounds: Sequence[Tensor], sample_rate: int) -> list[tuple[Tensor, Tensor | None]]:
    """Features (W, D) and class scores (C,), or None, of every sound, each in memory of its own."""
    alike = len({len(sound) for sound in sounds}) == 1
    found: list[tuple[Tensor, Tensor | None]] = []
    for batch in [torch.stack(list(sounds))] if alike else [sound[None] for sound in sounds]:
        features, scores = embedder(batch, sample_rate)
        features = features if features.dim() == 3 else features[:, None]
        for number, row in enumerate(features):
            found.append((row.clone(), None if scores is None else scores[number].clone()))
    return found


def _example(clip: Mapping[str, Any], truth: ClipTruth | None) -> Example:
    if 'waveform' not in clip:
        return Example(
            clip['clip_id'], clip['frames'].numpy(), clip['real_frames'].numpy(), float(clip['fps']), truth=truth
        )
    made, real, mel, real_mel = (
        clip[name].float().numpy() for name in ('waveform', 'real_waveform', 'mel', 'real_mel')
    )
    return Example(clip['clip_id'], made, real, clip['sample_rate'], mel, real_mel, truth)


def _loudness_db(waveform: Tensor) -> float:
    """RMS in dB of full scale; of nothing at all the lowest."""
    power = waveform.double().square().mean().item() if waveform.numel() else 0.0
    return 10 * float(np.log10(max(power, 1e-20)))


def _of_length(waveform: Tensor, samples: int) -> Tensor:
    """(S,) -> (samples,), cut or filled up with silence."""
    return F.pad(waveform, (0, max(0, samples - len(waveform))))[:samples]


def _square(frames: Tensor, side: int) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (T, side, side, 3) uint8."""
    if frames.shape[1:3] != (side, side):
        small = frames.permute(0, 3, 1, 2).float()
        small = F.interpolate(small, size=(side, side), mode='bilinear', antialias=True)
        frames = small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return frames.numpy()
