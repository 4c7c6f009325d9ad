"""The one class to work with: a trained model, and all that can be asked of it."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from gmscavp.datasets import ClipFormat
from gmscavp.datasets.muxing import PictureTrack
from gmscavp.engine.config import load_config
from gmscavp.engine.trained import find_checkpoint, load_model
from gmscavp.errors import UserError
from gmscavp.inference import alignment, embedding, generation
from gmscavp.inference.alignment import Localisation, Synchrony
from gmscavp.inference.compiling import compile_denoiser
from gmscavp.inference.embedding import WINDOWS_AT_ONCE, Embeddings, OnError, Similarity
from gmscavp.inference.generation import Frames, Waveforms
from gmscavp.inference.identity import identity_of
from gmscavp.inference.loaded import Progress, demand_embeddings, device_named, encode
from gmscavp.inference.reading import File, Transforms
from gmscavp.inference.runs import clip_settings, load_run
from gmscavp.inference.sources import Source, as_list
from gmscavp.inference.windows import Side, Windows, joined
from gmscavp.models.heads import unit_tokens
from gmscavp.models.sampling import Sampling
from gmscavp.registry import TRANSFORMS
from gmscavp.structures import Pyramid


class Model:
    """A model with its weights, on a device. clip: what its clips look like, by the config's test set.

    Made by Model.from_run, or by `load` where config and checkpoint are given.
    """

    def __init__(self, model: Any, config: Config, checkpoint: Path, device: torch.device) -> None:
        dataset = clip_settings(config)
        self.model, self.config, self.checkpoint, self.device = model.to(device), config, checkpoint, device
        self.clip = ClipFormat.of(dataset['clip'])
        self.transforms: Transforms = [TRANSFORMS.build(dict(transform)) for transform in dataset.get('transforms', ())]

    @classmethod
    def from_run(cls, path: str | Path, device: str | None = None) -> 'Model':
        """A trained run by its work directory (its newest whole checkpoint), or by one checkpoint.

        The config is found with it and read as data: nothing in the folder is run. device: as of `load`. UserError: there
        is no run, or its config names classes of others, for which there is `load`.
        """
        chosen = device_named(device)
        model, config, checkpoint = load_run(Path(path))
        return cls(model, config, checkpoint, chosen)

    @property
    def direction(self) -> str | None:
        """'v2a' or 'a2v'; None for a model that makes nothing."""
        return generation.direction_of(self)

    @property
    def sampling(self) -> Sampling:
        """The settings that the config chose for this model."""
        return getattr(self.model, 'sampling', None) or Sampling()

    @cached_property
    def identity(self) -> str:
        """What embeddings depend on, weights and settings, as 16 hexadecimal digits: embeddings of two do not mix."""
        demand_embeddings(self)
        return identity_of(self.model, self.config.model, self.clip, self.transforms)

    def demand(self, direction: str) -> None:
        """UserError: the model does not make what is asked of it."""
        generation.demand(self, direction)

    def encode(self, side: Side, windows: Tensor) -> Pyramid:
        """Tokens of every scale, not normalised: video (B, T, 3, H, W) uint8 or audio (B, S) float32 -> [(B, L_s, D)]."""
        return encode(self, side, windows)

    def windows(
        self,
        file: Source,
        side: Side,
        stride_s: float | None = None,
        start_s: float = 0.0,
        end_s: float | None = None,
    ) -> Windows:
        """All of iter_windows at once."""
        return joined(list(self.iter_windows(file, side, stride_s, start_s, end_s)))

    def iter_windows(
        self,
        file: Source,
        side: Side,
        stride_s: float | None = None,
        start_s: float = 0.0,
        end_s: float | None = None,
        batch: int = WINDOWS_AT_ONCE,
        progress: Progress | None = None,
    ) -> Iterator[Windows]:
        """Embeddings of overlapping windows of a clip's duration, `batch` at a time, reading the file from front to back.

        stride_s: from the beginning of a window to that of the next, None for half a window. The last window ends where
        the file, or the stretch from start_s to end_s, does; what is shorter than a window is filled up, by its last
        picture or by silence, and the row's end_s tells how far it goes. A still picture is one window. progress: is
        told windows done, of how many. UserError: the file cannot be read, or the similarity is no inner product.
        """
        demand_embeddings(self)
        if self.model.head.takes_places:
            raise UserError(
                f'{type(self.model.head).__name__} compares places and has no vectors that can be searched; use '
                'localise or similarity, or a model with MultiScaleInfoNCE.'
            )
        step_s = self.clip.duration_s / 2 if stride_s is None else stride_s
        done = 0
        for piece in embedding.pieces(self, file, side, step_s, start_s, end_s, batch):
            tokens = encode(self, side, piece.windows)
            fused = self.model.head.embed(tokens).float().cpu()
            yield Windows(piece.start_s, piece.end_s, fused, [x.cpu() for x in unit_tokens(tokens)])
            done += len(piece.windows)
            if progress:
                progress(done, piece.total)

    def embed(
        self,
        files: Source | Sequence[Source],
        side: Side,
        *,
        stride_s: float | None = None,
        batch: int = WINDOWS_AT_ONCE,
        progress: Progress | bool = False,
        on_error: OnError = 'skip',
    ) -> Embeddings:
        """Embeddings of the pictures or the sounds of files, stills and arrays: a row for each window, in their order.

        stride_s: as of iter_windows, None for windows side by side, so that what lasts no longer than a clip has one row.
        batch: so many windows at once, also of different files. progress: True for a bar, or is told files done, of how
        many. on_error: 'skip' counts what cannot be read in `failures`, 'raise' stops there. UserError: that, or nothing
        could be read, or the model embeds nothing.
        """
        return embedding.embed(self, as_list(files), side, stride_s, batch, progress, on_error)

    def similarity(
        self,
        video: Source | Sequence[Source],
        audio: Source | Sequence[Source],
        *,
        batch: int = WINDOWS_AT_ONCE,
        progress: Progress | bool = False,
    ) -> Similarity:
        """How well every video goes with every audio when both begin together: fused, and scale by scale.

        Files of several windows are compared window by window, side by side, as far as both have whole ones; the mean
        counts. Nothing is skipped: UserError for the first file that cannot be read.
        """
        videos, audios = as_list(video), as_list(audio)
        v = embedding.embed(self, videos, 'video', None, batch, progress, 'raise')
        a = embedding.embed(self, audios, 'audio', None, batch, progress, 'raise')
        return embedding.similarity(self, v, a, len(videos), len(audios))

    def localise(
        self, video: Source, audio: Source | None = None, *, scale: int = 0, batch: int = WINDOWS_AT_ONCE
    ) -> Localisation:
        """When, and where in the picture, a video goes with an audio, None for its own sound: step by step.

        scale: whose tokens are compared, 0 for the finest. Over the picture only for models that keep its places
        (DenseHead). As long as both last. UserError: a file cannot be read, or there is no such scale.
        """
        return alignment.localise(self, video, video if audio is None else audio, scale, batch)

    def synchronise(
        self,
        video: Source,
        audio: Source | None = None,
        *,
        max_shift_s: float = 1.0,
        phases: int = 4,
        batch: int = WINDOWS_AT_ONCE,
    ) -> Synchrony:
        """How late the sound is against the picture, None for the video's own sound.

        max_shift_s: as far as is looked, both ways. phases: the sound is heard at so many shifts within a step of the
        finest scale, and between them a parabola is laid. UserError: a file cannot be read, or lasts too short for that.
        """
        return alignment.synchronise(self, video, video if audio is None else audio, max_shift_s, phases, batch)

    def generate(
        self,
        file: File,
        sampling: Sampling | None = None,
        duration_s: float | None = None,
        samples: int = 1,
        progress: Progress | None = None,
        batch: int = 1,
    ) -> Waveforms | Frames:
        """What the model makes of a file: generate_sound of a video, or generate_video of a sound.

        sampling: None for the settings of the config. Else as these two.
        """
        settings = sampling or self.sampling
        if self.direction == 'a2v':
            return self.generate_video(file, settings, duration_s, samples, progress, batch=batch)
        return self.generate_sound(file, settings, duration_s, samples, progress, batch=batch)

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
        return generation.generate_sound(self, video_file, sampling, duration_s, samples, progress, track, batch)

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
        return generation.generate_video(self, audio_file, sampling, duration_s, samples, progress, batch)

    def provenance(self, sampling: Sampling, number: int = 0) -> str:
        """What a listener must know about sample `number`, and what it takes to make it again: one line."""
        return generation.provenance(self, sampling, number)


def load(
    config: Config | str | Path, checkpoint: str | Path, device: str | None = None, compiled: bool = False
) -> Model:
    """The run of a config (or its file) with the weights of a checkpoint (.pth file, or work directory).

    device: 'cpu', 'cuda', 'cuda:1'; None takes a GPU where there is one. compiled: a generator's denoiser goes through
    torch.compile when it first makes something, once for each number of samples at once; what it makes is the same up to
    rounding. UserError: they do not fit, or are not there.
    """
    chosen = device_named(device)
    settings = config if isinstance(config, Config) else load_config(config)
    file = find_checkpoint(Path(checkpoint))
    trained = Model(load_model(settings, file), settings, file, chosen)
    if compiled:
        compile_denoiser(trained.model, chosen)
    return trained
