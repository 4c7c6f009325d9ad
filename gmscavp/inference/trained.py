"""A trained model and the clips that it takes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor

from gmscavp import __version__
from gmscavp.datasets import ClipFormat
from gmscavp.datasets.decoding.media import TOLERANCE_S, audio_track, open_media, origin_s, video_track
from gmscavp.datasets.muxing import PictureTrack, picture_track, sound_span
from gmscavp.engine.config import load_config
from gmscavp.engine.trained import find_checkpoint, load_model
from gmscavp.errors import UserError
from gmscavp.inference.compiling import compile_denoiser
from gmscavp.inference.reading import File, read_pictures, read_sound, whole_steps
from gmscavp.models.sampling import Sampling
from gmscavp.registry import TRANSFORMS

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""

# A duration asked for may pass the end by so much, which is then the end: lengths are seldom round.
_BEYOND_S = 0.05
_WINDOWS_AT_ONCE = 8
_WAYS = {'v2a': 'sound from a video', 'a2v': 'a video from sound'}


class Embeddings(NamedTuple):
    """A row (E,) for each window, which lasts a clip's duration and begins where the one before ends; None: not asked."""

    video: Tensor | None
    audio: Tensor | None


class Waveforms(NamedTuple):
    """waveforms: (N, S) float32 in [-1, 1], a row a sample. sample_rate: Hz."""

    waveforms: Tensor
    sample_rate: int


class Frames(NamedTuple):
    """frames: (N, T, H, W, 3) uint8, a row a sample. fps: frames a second."""

    frames: Tensor
    fps: float


class Trained:
    """A model with its weights, on a device. clip: what its clips look like, by the config's test set."""

    def __init__(self, model: Any, config: Config, checkpoint: Path, device: torch.device) -> None:
        dataset = config.get('test_dataloader', {}).get('dataset', {})
        # A protocol wraps the data set that says it.
        while 'clip' not in dataset and 'dataset' in dataset:
            dataset = dataset['dataset']
        if 'clip' not in dataset:
            raise UserError(
                f'{config.filename}: test_dataloader.dataset.clip is missing, which says what clips look like.'
            )
        self.model, self.config, self.checkpoint, self.device = model.to(device), config, checkpoint, device
        self.clip = ClipFormat.of(dataset['clip'])
        self.transforms = [TRANSFORMS.build(dict(transform)) for transform in dataset.get('transforms', ())]

    @property
    def direction(self) -> str | None:
        """'v2a' or 'a2v'; None for a model that makes nothing."""
        return getattr(self.model, 'direction', None) if hasattr(self.model, 'generate') else None

    @property
    def sampling(self) -> Sampling:
        """The settings that the config chose for this model."""
        return getattr(self.model, 'sampling', None) or Sampling()

    def demand(self, direction: str) -> None:
        """UserError: the model does not make what is asked of it."""
        if self.direction is None:
            raise UserError(
                f'{self.config.filename} trains {type(self.model).__name__}, which makes neither sound nor video; give the '
                f'config and checkpoint of a generator, for example configs/{direction}_impacts.py.'
            )
        if self.direction != direction:
            raise UserError(
                f'{self.config.filename} makes {_WAYS[self.direction]}; to make {_WAYS[direction]}, give a model that '
                f"was trained with direction '{direction}'."
            )

    @torch.inference_mode()
    def embed(self, video: File | None = None, audio: File | None = None) -> Embeddings:
        """Embeddings of every whole window of a file's pictures, of another's (or the same one's) sound, or of both.

        Windows begin where the file does; the inner product of rows of a video and an audio is their similarity. UserError:
        the model has no embeddings, or a file is shorter than a window.
        """
        if not hasattr(self.model, 'encode_video') or not hasattr(self.model, 'head'):
            raise UserError(f'{type(self.model).__name__} has no embeddings; give a run of GMSCAVP.')
        model = self.model
        rows: dict[str, Tensor | None] = dict(video=None, audio=None)
        if video is not None:
            frames = self._video_windows(video)
            parts = [model.head.embed(model.encode_video(self._signal(x))) for x in frames.split(_WINDOWS_AT_ONCE)]
            rows['video'] = torch.cat(parts).float().cpu()
        if audio is not None:
            waves, mel = self._audio_windows(audio), model.data_preprocessor.log_mel
            parts = [
                model.head.embed(model.encode_audio(mel(x.to(self.device)))) for x in waves.split(_WINDOWS_AT_ONCE)
            ]
            rows['audio'] = torch.cat(parts).float().cpu()
        return Embeddings(**rows)

    def generate_sound(
        self,
        video_file: File,
        sampling: Sampling,
        duration_s: float | None = None,
        samples: int = 1,
        progress: Progress | None = None,
        track: PictureTrack | None = None,
        batch: int = 1,
    ) -> Waveforms:
        """Sound for the pictures of a file, or for their first `duration_s`: to the sample as long as they are shown.

        samples: so many different ones; number k is that of the seed sampling.seed + k. Pictures shorter than a clip are
        filled up by their last one, and the sound is cut back. track: of picture_track, where it is known. batch: so many
        samples at once, which on a GPU takes less time and more memory; they are then the same up to rounding (samplers
        that draw noise on the way go one at a time). UserError: the file, the duration or the model is not what is needed.
        """
        self.demand('v2a')
        track = track or picture_track(video_file)
        lasts_s = cut_duration(video_file, track.duration_s, duration_s)
        count = max(self.clip.frames, whole_steps(lasts_s, self.clip.fps))
        frames = read_pictures(video_file, track.start_s, track.start_s + lasts_s, count, self.clip, self.transforms)
        signal = self._signal(frames[None])
        rate = self.model.data_preprocessor.log_mel.settings['sample_rate']
        waves = []
        for settings, count, told in self._drawn(sampling, samples, batch, progress):
            mels = self.model.generate(signal, settings, progress=told, samples=count)
            sounds = [self._sound(mel, settings.seed + k) for k, mel in enumerate(mels.split(1))]
            waves += [_cut(sound, round(lasts_s * rate)) for sound in sounds]
        waveforms = torch.stack(waves)
        if not waveforms.isfinite().all():
            raise UserError(
                f'{self.checkpoint} gives values that are not numbers; it was saved by a run that had failed.'
            )
        return Waveforms(waveforms.clamp(-1, 1), rate)

    def generate_video(
        self,
        audio_file: File,
        sampling: Sampling,
        duration_s: float | None = None,
        samples: int = 1,
        progress: Progress | None = None,
        batch: int = 1,
    ) -> Frames:
        """Pictures for the sound of a file, or for its first `duration_s`; the last one stays until the sound has ended.

        samples, batch, UserError: as of generate_sound. Sound shorter than a clip is filled up by silence, and the frames
        are cut back.
        """
        self.demand('a2v')
        start_s, whole_s = sound_span(audio_file)
        lasts_s = cut_duration(audio_file, whole_s, duration_s)
        log_mel, fps = self.model.data_preprocessor.log_mel, self.clip.fps
        rate, wanted = log_mel.settings['sample_rate'], whole_steps(lasts_s, fps)
        wave = read_sound(audio_file, start_s, lasts_s, rate)
        wave = _cut(wave, max(self.clip.samples, round(wanted / fps * rate)))
        # Not inference_mode: guidance by a classifier takes gradients.
        with torch.no_grad():
            mel = log_mel(wave[None].to(self.device))
        drawn = []
        for settings, count, told in self._drawn(sampling, samples, batch, progress):
            video = self.model.generate(mel, settings, progress=told, samples=count).float().cpu()
            frames = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
            drawn.append(frames[:, torch.arange(wanted).clamp(max=frames.shape[1] - 1)])
        return Frames(torch.cat(drawn), fps)

    def provenance(self, sampling: Sampling, number: int = 0) -> str:
        """What a listener must know about sample `number`, and what it takes to make it again: one line."""
        what = {'v2a': 'The sound of this file is', 'a2v': 'The picture of this file is'}[self.direction or 'v2a']
        sampler = sampling.sampler['type'] if sampling.sampler else type(getattr(self.model, 'sampler', None)).__name__
        settings = (
            f'seed {sampling.seed + number}, steps {sampling.steps}, guidance {sampling.guidance:g}, rescale '
            f'{sampling.rescale:g}, alignment {sampling.alignment:g}, sampler {sampler}'
        )
        return (
            f'{what} synthetic: made by a model, not recorded. gmscavp {__version__}, torch {torch.__version__}, '
            f'{type(self.model).__name__}, config {Path(str(self.config.filename)).name}, checkpoint '
            f'{self.checkpoint.name}, {settings}.'
        )

    def _signal(self, frames: Tensor) -> Tensor:
        """(B, T, 3, H, W) uint8 -> (B, 3, T, H, W) in [-1, 1] on the device."""
        return frames.to(self.device).transpose(1, 2).float() / 127.5 - 1

    def _sound(self, mel: Tensor, seed: int) -> Tensor:
        """(1, 1, F, M) -> (F * hop,) on the CPU; the same for the same seed, also where a vocoder begins at random."""
        with torch.no_grad(), torch.random.fork_rng([self.device] if self.device.type == 'cuda' else []):
            torch.manual_seed(seed)
            return self.model.sound(mel)[0].float().cpu()

    def _drawn(
        self, sampling: Sampling, samples: int, batch: int, progress: Progress | None
    ) -> Iterator[tuple[Sampling, int, Progress | None]]:
        """Settings, number and progress of samples that are made at once, after one another."""
        if samples < 1 or batch < 1:
            raise UserError(
                f'the number of samples, and of those at once, must be at least 1, not {samples} and {batch}.'
            )
        if batch > 1 and self.model.solver(sampling).stochastic:
            batch = 1

        def told(first: int, count: int) -> Progress | None:
            return progress and (lambda done, total: progress(first * total + count * done, samples * total))

        for first in range(0, samples, batch):
            count = min(batch, samples - first)
            yield replace(sampling, seed=sampling.seed + first), count, told(first, count)

    def _video_windows(self, file: File) -> Tensor:
        track, zero_s = picture_track(file), _origin_s(file)
        end_s = track.start_s + track.duration_s
        windows = self._windows(file, end_s - zero_s)
        frames = read_pictures(file, zero_s, end_s, windows * self.clip.frames, self.clip, self.transforms)
        return frames.unflatten(0, (windows, self.clip.frames))

    def _audio_windows(self, file: File) -> Tensor:
        (start_s, lasts_s), zero_s = sound_span(file), _origin_s(file)
        windows = self._windows(file, start_s + lasts_s - zero_s)
        wave = read_sound(file, zero_s, windows * self.clip.duration_s, self.clip.sample_rate)
        return wave.unflatten(0, (windows, self.clip.samples))

    def _windows(self, file: File, lasts_s: float) -> int:
        windows = int((lasts_s + TOLERANCE_S) / self.clip.duration_s)
        if windows < 1:
            raise UserError(f'{file}: {lasts_s:.2f} s long, but the model takes windows of {self.clip.duration_s:g} s.')
        return windows


def load(
    config: Config | str | Path, checkpoint: str | Path, device: str | None = None, compiled: bool = False
) -> Trained:
    """The run of a config (or its file) with the weights of a checkpoint (.pth file, or work directory).

    device: 'cpu', 'cuda', 'cuda:1'; None takes a GPU where there is one. compiled: a generator's denoiser goes through
    torch.compile when it first makes something, once for each number of samples at once; what it makes is the same up to
    rounding. UserError: they do not fit, or are not there.
    """
    chosen = device_named(device)
    settings = config if isinstance(config, Config) else load_config(config)
    file = find_checkpoint(Path(checkpoint))
    trained = Trained(load_model(settings, file), settings, file, chosen)
    if compiled:
        compile_denoiser(trained.model, chosen)
    return trained


def device_named(name: str | None) -> torch.device:
    """A device that is there. UserError: it is not."""
    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.zeros(1, device=name)
    # torch raises different ones for a name that it does not know, a build without it, and a number that is not there.
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise UserError(f"device '{name}' cannot be used here; take cpu, or cuda where there is a GPU.") from error
    return torch.device(name)


def cut_duration(file: File, whole_s: float, asked_s: float | None) -> float:
    """How much of a file is wanted, seconds. UserError: none, or more than there is."""
    if whole_s <= 0:
        raise UserError(f'{file} lasts 0 s; there is nothing to make anything for.')
    if asked_s is None:
        return whole_s
    if not 0 < asked_s <= whole_s + _BEYOND_S:
        raise UserError(f'{file} lasts {whole_s:.2f} s; choose a duration above 0 and not beyond, not {asked_s:g} s.')
    return min(asked_s, whole_s)


def _cut(wave: Tensor, samples: int) -> Tensor:
    """(S,) -> (samples,), cut, or filled up by silence."""
    return torch.nn.functional.pad(wave[:samples], (0, max(0, samples - len(wave))))


def _origin_s(file: File) -> float:
    with open_media(file) as container:
        tracks = [track for track in (video_track(container), audio_track(container)) if track is not None]
        return origin_s(tracks)
