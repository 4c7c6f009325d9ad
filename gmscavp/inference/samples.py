"""Clips for a page of samples: what a generator made of test clips, as small films beside the real ones."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from gmscavp.datasets.encoding import write_clip
from gmscavp.engine.config import load_config
from gmscavp.engine.trained import load_model
from gmscavp.errors import UserError
from gmscavp.evaluation.generation_metric import Example, GenerationMetric
from gmscavp.evaluation.samples_page import SampleCard, SampleSide
from gmscavp.registry import DATASETS

# At fewer frames a second a movie stutters; pixels to which small pictures are enlarged.
MOVIE_FPS, MOVIE_SIDE = 16, 256
GENERATED = 3


def generated_cards(config: str | Path, checkpoint: str | Path, clips: int = GENERATED) -> list[SampleCard]:
    """Let a trained generator make `clips` of its test clips, evenly chosen. UserError: it is no generator."""
    settings = load_config(config)
    model: Any = load_model(settings, Path(checkpoint))
    if not hasattr(model, 'generate'):
        raise UserError(f'{config} is no generator; give one such as configs/v2a_frozen_impacts.py.')
    dataset = DATASETS.build(settings.test_dataloader.dataset)
    chosen = np.linspace(0, len(dataset) - 1, min(clips, len(dataset))).round().astype(int)
    metric = GenerationMetric(examples=clips, truth=settings.test_evaluator.get('truth'), device='cpu')
    batch = default_collate([dataset[int(index)] for index in chosen])
    with torch.no_grad():
        metric.process(batch, model.test_step(batch))
    metric.compute_metrics(metric.results)
    return sample_cards(metric.examples, dataset, model.data_preprocessor, metric.details['clips'])


def sample_cards(
    examples: Sequence[Example], dataset: Any, preprocessor: Any, figures: Mapping[str, Mapping[str, float]]
) -> list[SampleCard]:
    """Examples as a metric kept them -> what the page shows of each; figures: clip_id -> those of this clip alone."""
    shown = for_movies(dataset)
    place = {clip_id: index for index, clip_id in enumerate(shown.manifest.column('clip_id'))}
    log_mel = preprocessor.log_mel
    cards = []
    for example in examples:
        sample = shown[place[example.clip_id]]
        own = figures.get(example.clip_id, {})
        if not sample['valid']:
            cards.append(SampleCard(example.clip_id, figures=own, why_not=f'{sample["failures"]}'))
            continue
        frames, audio = sample['video'].permute(0, 2, 3, 1).numpy(), sample['audio']
        mel = log_mel(audio[None].to(preprocessor.device))[0, 0].cpu().numpy()
        duration_s = len(audio) / log_mel.settings['sample_rate']
        sides = sides_of(example, frames, audio.numpy(), mel, duration_s)
        cards.append(SampleCard(example.clip_id, sides, duration_s, example.truth, own))
    return cards


def sides_of(
    example: Example, frames: np.ndarray, audio: np.ndarray, mel: np.ndarray, duration_s: float
) -> dict[str, SampleSide]:
    """Both sides of an example; frames (T, H, W, 3), audio (S,) and mel (F, M) of the clip as it was read again."""
    sides = {}
    for name, made, made_mel in (
        ('generated', example.generated, example.mel),
        ('real', example.real, example.real_mel),
    ):
        if made_mel is not None:
            sides[name] = SampleSide(movie(frames, duration_s, made, int(example.rate)), frames, made_mel)
        else:
            sample_rate = round(len(audio) / duration_s)
            sides[name] = SampleSide(movie(made, len(made) / example.rate, audio, sample_rate), made, mel)
    return sides


def for_movies(dataset: Any) -> Any:
    """A copy of a test set that reads enough frames a second to look at."""
    shown = copy.copy(dataset)
    if hasattr(dataset, 'dataset'):
        shown.dataset = for_movies(dataset.dataset)
    elif hasattr(dataset, 'clip'):
        shown.clip = replace(dataset.clip, fps=max(dataset.clip.fps, MOVIE_FPS))
    return shown


def movie(frames: np.ndarray, duration_s: float, audio: np.ndarray, sample_rate: int) -> bytes:
    """An mp4 file of (T, H, W, 3) uint8 that last duration_s and (S,) sound, whatever a generator gave."""
    side = max(frames.shape[1:3])
    times = max(1, MOVIE_SIDE // side)
    frames = frames.repeat(times, axis=1).repeat(times, axis=2)
    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    sound = np.clip(np.nan_to_num(audio.astype(np.float32), posinf=0.0, neginf=0.0), -1, 1)
    sound = sound if len(sound) else np.zeros(max(1, round(duration_s * sample_rate)), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'sample.mp4'
        write_clip(file, frames, len(frames) / duration_s, sound, sample_rate, crf=23)
        return file.read_bytes()
