"""Sound made for pictures, and pictures made for sound, as long as what they are made for."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gmscavp import __version__
from gmscavp.datasets.muxing import PictureTrack, picture_track, sound_span
from gmscavp.errors import UserError
from gmscavp.inference.loaded import Loaded, Progress, signal
from gmscavp.inference.reading import File, read_pictures, read_sound, whole_steps
from gmscavp.models.sampling import Sampling

# A duration asked for may pass the end by so much, which is then the end: lengths are seldom round.
_BEYOND_S = 0.05
_WAYS = {'v2a': 'sound from a video', 'a2v': 'a video from sound'}


class Waveforms(NamedTuple):
    """waveforms: (N, S) float32 in [-1, 1], a row a sample. sample_rate: Hz."""

    waveforms: Tensor
    sample_rate: int


class Frames(NamedTuple):
    """frames: (N, T, H, W, 3) uint8, a row a sample. fps: frames a second."""

    frames: Tensor
    fps: float


def direction_of(run: Loaded) -> str | None:
    """'v2a' or 'a2v'; None for a model that makes nothing."""
    return getattr(run.model, 'direction', None) if hasattr(run.model, 'generate') else None


def demand(run: Loaded, direction: str) -> None:
    """UserError: the model does not make what is asked of it."""
    if direction_of(run) is None:
        raise UserError(
            f'{run.config.filename} trains {type(run.model).__name__}, which makes neither sound nor video; give the '
            f'config and checkpoint of a generator, for example configs/{direction}_impacts.py.'
        )
    if (made := direction_of(run)) != direction:
        raise UserError(
            f'{run.config.filename} makes {_WAYS[str(made)]}; to make {_WAYS[direction]}, give a model that '
            f"was trained with direction '{direction}'."
        )


def generate_sound(
    run: Loaded,
    video_file: File,
    sampling: Sampling,
    duration_s: float | None = None,
    samples: int = 1,
    progress: Progress | None = None,
    track: PictureTrack | None = None,
    batch: int = 1,
) -> Waveforms:
    """As Model.generate_sound."""
    demand(run, 'v2a')
    track = track or picture_track(video_file)
    lasts_s = cut_duration(video_file, track.duration_s, duration_s)
    count = max(run.clip.frames, whole_steps(lasts_s, run.clip.fps))
    frames = read_pictures(video_file, track.start_s, track.start_s + lasts_s, count, run.clip, run.transforms)
    shown = signal(run, frames[None])
    rate = run.model.data_preprocessor.log_mel.settings['sample_rate']
    waves = []
    for settings, count, told in _drawn(run, sampling, samples, batch, progress):
        mels = run.model.generate(shown, settings, progress=told, samples=count)
        sounds = [_sound(run, mel, settings.seed + k) for k, mel in enumerate(mels.split(1))]
        waves += [_cut(sound, round(lasts_s * rate)) for sound in sounds]
    waveforms = torch.stack(waves)
    if not waveforms.isfinite().all():
        raise UserError(f'{run.checkpoint} gives values that are not numbers; it was saved by a run that had failed.')
    return Waveforms(waveforms.clamp(-1, 1), rate)


def generate_video(
    run: Loaded,
    audio_file: File,
    sampling: Sampling,
    duration_s: float | None = None,
    samples: int = 1,
    progress: Progress | None = None,
    batch: int = 1,
) -> Frames:
    """As Model.generate_video."""
    demand(run, 'a2v')
    start_s, whole_s = sound_span(audio_file)
    lasts_s = cut_duration(audio_file, whole_s, duration_s)
    log_mel, fps = run.model.data_preprocessor.log_mel, run.clip.fps
    rate, wanted = log_mel.settings['sample_rate'], whole_steps(lasts_s, fps)
    wave = read_sound(audio_file, start_s, lasts_s, rate)
    wave = _cut(wave, max(run.clip.samples, round(wanted / fps * rate)))
    # Not inference_mode: guidance by a classifier takes gradients.
    with torch.no_grad():
        mel = log_mel(wave[None].to(run.device))
    drawn = []
    for settings, count, told in _drawn(run, sampling, samples, batch, progress):
        video = run.model.generate(mel, settings, progress=told, samples=count).float().cpu()
        frames = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
        drawn.append(frames[:, torch.arange(wanted).clamp(max=frames.shape[1] - 1)])
    return Frames(torch.cat(drawn), fps)


def provenance(run: Loaded, sampling: Sampling, number: int = 0) -> str:
    """What a listener must know about sample `number`, and what it takes to make it again: one line."""
    what = {'v2a': 'The sound of this file is', 'a2v': 'The picture of this file is'}[direction_of(run) or 'v2a']
    sampler = sampling.sampler['type'] if sampling.sampler else type(getattr(run.model, 'sampler', None)).__name__
    settings = (
        f'seed {sampling.seed + number}, steps {sampling.steps}, guidance {sampling.guidance:g}, rescale '
        f'{sampling.rescale:g}, alignment {sampling.alignment:g}, sampler {sampler}'
    )
    return (
        f'{what} synthetic: made by a model, not recorded. gmscavp {__version__}, torch {torch.__version__}, '
        f'{type(run.model).__name__}, config {Path(str(run.config.filename)).name}, checkpoint '
        f'{run.checkpoint.name}, {settings}.'
    )


def cut_duration(file: File, whole_s: float, asked_s: float | None) -> float:
    """How much of a file is wanted, seconds. UserError: none, or more than there is."""
    if whole_s <= 0:
        raise UserError(f'{file} lasts 0 s; there is nothing to make anything for.')
    if asked_s is None:
        return whole_s
    if not 0 < asked_s <= whole_s + _BEYOND_S:
        raise UserError(f'{file} lasts {whole_s:.2f} s; choose a duration above 0 and not beyond, not {asked_s:g} s.')
    return min(asked_s, whole_s)


def _sound(run: Loaded, mel: Tensor, seed: int) -> Tensor:
    """(1, 1, F, M) -> (F * hop,) on the CPU; the same for the same seed, also where a vocoder begins at random."""
    with torch.no_grad(), torch.random.fork_rng([run.device] if run.device.type == 'cuda' else []):
        torch.manual_seed(seed)
        return run.model.sound(mel)[0].float().cpu()


def _drawn(
    run: Loaded, sampling: Sampling, samples: int, batch: int, progress: Progress | None
) -> Iterator[tuple[Sampling, int, Progress | None]]:
    """Settings, number and progress of samples that are made at once, after one another."""
    if samples < 1 or batch < 1:
        raise UserError(f'the number of samples, and of those at once, must be at least 1, not {samples} and {batch}.')
    if batch > 1 and run.model.solver(sampling).stochastic:
        batch = 1

    def told(first: int, count: int) -> Progress | None:
        return progress and (lambda done, total: progress(first * total + count * done, samples * total))

    for first in range(0, samples, batch):
        count = min(batch, samples - first)
        yield replace(sampling, seed=sampling.seed + first), count, told(first, count)


def _cut(wave: Tensor, samples: int) -> Tensor:
    """(S,) -> (samples,), cut, or filled up by silence."""
    return torch.nn.functional.pad(wave[:samples], (0, max(0, samples - len(wave))))
