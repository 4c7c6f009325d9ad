"""What was made, as files that play: with the pictures or the sound that it was made for."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmscavp.datasets.decoding.audio import resample
from gmscavp.datasets.decoding.media import audio_track, open_media
from gmscavp.datasets.muxing import PictureTrack, add_pictures_to, picture_track, replace_sound, write_wave

File = str | os.PathLike[str]

# ISO 14496-3, sampling frequency index.
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)


def write_sound(
    video_file: File,
    target: File,
    waveform: Tensor,
    sample_rate: int,
    *,
    comment: str = '',
    duration_s: float | None = None,
    wave_file: File | None = None,
    track: PictureTrack | None = None,
) -> list[str]:
    """Write a video with `waveform`, (S,) float32 in [-1, 1], as its only sound: mp4, pictures copied, AAC mono.

    The sound gets the sample rate that the video's own sound had, or keeps its own where there was none, and lasts as
    long as the pictures, or `duration_s`, to the sample. comment: a tag of the files. wave_file: also the bare sound, as
    .wav. track: of picture_track, where it is known. Gives notes on what could not be kept.
    """
    track = track or picture_track(video_file)
    rate, notes = _rate_for(video_file, sample_rate)
    lasts_s = min(track.duration_s, duration_s or track.duration_s)
    wave = fitted(waveform, sample_rate, rate, round(lasts_s * rate))
    metadata = {'comment': comment} if comment else {}
    note = replace_sound(video_file, Path(target), wave, rate, duration_s=duration_s, metadata=metadata, track=track)
    if wave_file is not None:
        write_wave(Path(wave_file), wave, rate, metadata)
    return [*notes, *([note] if note else [])]


def write_video(
    audio_file: File,
    target: File,
    frames: Tensor,
    fps: float,
    *,
    comment: str = '',
    duration_s: float | None = None,
) -> list[str]:
    """Write (T, H, W, 3) uint8 frames with the sound of `audio_file`, unchanged, as an mp4. Gives notes, as write_sound."""
    height, width = frames.shape[1:3]
    pictures = (np.pad(x, ((0, height % 2), (0, width % 2), (0, 0)), 'edge') for x in frames.numpy())
    size = (height + height % 2, width + width % 2)
    metadata = {'comment': comment} if comment else {}
    note = add_pictures_to(audio_file, Path(target), pictures, size, fps, duration_s=duration_s, metadata=metadata)
    return [note] if note else []


def fitted(waveform: Tensor, sample_rate: int, wanted_rate: int, samples: int) -> np.ndarray:
    """(S,) at one sample rate -> (samples,) float32 in [-1, 1] at another; silence where it ends too early."""
    ratio = Fraction(sample_rate, wanted_rate)
    wave = resample(waveform.float(), ratio.numerator, ratio.denominator)[:samples].clamp(-1, 1)
    return torch.nn.functional.pad(wave, (0, samples - len(wave))).numpy()


def _rate_for(video_file: File, sample_rate: int) -> tuple[int, list[str]]:
    with open_media(video_file) as container:
        sound = audio_track(container)
        wanted = sound.codec_context.sample_rate if sound and sound.codec_context.sample_rate else sample_rate
    rate = min((rate for rate in AAC_RATES if rate >= wanted), default=AAC_RATES[-1])
    return rate, [] if rate == wanted else [f'{rate} samples/s: AAC does not know {wanted}']
