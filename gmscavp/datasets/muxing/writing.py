"""The files themselves: a film with new sound, a film of new pictures, a wave."""

import heapq
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from gmscavp.datasets.decoding.errors import ClipError
from gmscavp.datasets.decoding.media import audio_track, open_container, video_track
from gmscavp.datasets.encoding import add_pictures, add_sound
from gmscavp.datasets.muxing.packets import (
    add_copy,
    coded_pictures,
    coded_wave,
    copied_pictures,
    copied_sound,
    flac_format,
    lossless_sound,
    plays_in_mp4,
)
from gmscavp.datasets.muxing.recoding import recoded_pictures
from gmscavp.datasets.muxing.spans import PictureTrack, picture_track
from gmscavp.datasets.preparing.output import write_atomically

# What a person wrote about a file; the rest is about its encoding.
_KEPT_TAGS = ('title', 'artist', 'album', 'album_artist', 'composer', 'genre', 'date', 'copyright', 'description')


def replace_sound(
    source: str | os.PathLike[str],
    target: Path,
    wave: np.ndarray,
    sample_rate: int,
    *,
    duration_s: float | None = None,
    metadata: Mapping[str, str] | None = None,
    track: PictureTrack | None = None,
) -> str | None:
    """Write the pictures of `source` with (S,) float32 in [-1, 1] as their only sound: mp4, AAC mono.

    Picture and sound begin together, at time zero. The packets of the pictures are copied: the same bytes, times between
    them, rotation and shape of pixels; where an mp4 cannot hold them they are encoded as h264, and the reason returned.
    duration_s: only the pictures shown until then, with those packets that they are made from, which may show for a few
    frames longer. track: of picture_track, where it is known. Title, artist and the like stay; metadata: further tags.
    sample_rate: one that AAC knows. The file appears under its name when it is whole. ClipError: `source` is damaged.
    """
    track = track or picture_track(source)
    noted: list[str] = []

    def write(partial: Path) -> None:
        with _open_both(source, partial, sample_rate) as (reader, writer):
            writer.metadata.update(_kept(reader) | dict(metadata or {}))
            stream = video_track(reader)
            if stream is None:
                raise ClipError(os.fspath(source), 'no video track')
            reason = track.obstacle or _foreign(writer, stream)
            if reason:
                noted.append(f'pictures encoded again as h264: {reason}')
                lasts_s = min(track.duration_s, duration_s or track.duration_s)
                pictures = recoded_pictures(reader, stream, writer, track, lasts_s)
            else:
                copy = add_copy(writer, stream)
                pictures = copied_pictures(reader, stream, copy, track, track.packets_for(duration_s))
            sound = coded_wave(add_sound(writer, sample_rate), wave, sample_rate)
            _mux(writer, pictures, sound)

    write_atomically(Path(target), write)
    return noted[0] if noted else None


def add_pictures_to(
    source: str | os.PathLike[str],
    target: Path,
    pictures: Iterable[np.ndarray],
    size: tuple[int, int],
    fps: float,
    *,
    duration_s: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> str | None:
    """Write the sound of `source`, unchanged, with `pictures`, (H, W, 3) uint8 each, as an mp4 (h264).

    size: (H, W), both even. The packets of the sound are copied where players know them in an mp4; other sound is kept
    as FLAC, which loses nothing up to 24 bits, and that is returned as a note. duration_s: only the first part of it.
    """
    noted: list[str] = []

    def write(partial: Path) -> None:
        with _open_both(source, partial) as (reader, writer):
            writer.metadata.update(_kept(reader) | dict(metadata or {}))
            stream = audio_track(reader)
            if stream is None:
                raise ClipError(os.fspath(source), 'no audio track')
            rate = Fraction(fps).limit_denominator(100_000)
            shown = coded_pictures(add_pictures(writer, size, rate), pictures, rate)
            if plays_in_mp4(stream):
                sound = copied_sound(reader, stream, add_copy(writer, stream), duration_s)
            else:
                noted.append(f'sound kept without loss as FLAC: few players know {stream.codec_context.name} in an mp4')
                coded = writer.add_stream('flac', rate=stream.codec_context.sample_rate)
                coded.codec_context.layout = stream.codec_context.layout
                coded.codec_context.format = flac_format(stream)
                sound = lossless_sound(reader, stream, coded, duration_s)
            _mux(writer, shown, sound)

    write_atomically(Path(target), write)
    return noted[0] if noted else None


def write_wave(target: Path, wave: np.ndarray, sample_rate: int, metadata: Mapping[str, str] | None = None) -> None:
    """Write (S,) float32 in [-1, 1] as a .wav file of 16 bits, mono."""
    samples = np.round(wave * 32767).astype(np.int16)[None]

    def write(partial: Path) -> None:
        with av.open(str(partial), 'w', format='wav') as writer:
            writer.metadata.update(metadata or {})
            stream = writer.add_stream('pcm_s16le', rate=sample_rate, layout='mono')
            frame = av.AudioFrame.from_ndarray(samples, format='s16', layout='mono')
            frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), 0
            writer.mux([*stream.encode(frame), *stream.encode(None)])

    write_atomically(Path(target), write)


@contextmanager
def _open_both(
    source: str | os.PathLike[str], partial: Path, sample_rate: int | None = None
) -> Iterator[tuple[InputContainer, OutputContainer]]:
    with open_container(os.fspath(source)) as reader:
        sound = audio_track(reader)
        clock = sample_rate or (sound.codec_context.sample_rate if sound else None) or 1000
        # The index goes to the front, so that players need not read a file to its end to open it. Its clock, in which
        # the length of each track is told, ticks with the samples: by itself it rounds to milliseconds.
        options = {'movflags': 'faststart', 'movie_timescale': str(clock)}
        with av.open(str(partial), 'w', format='mp4', options=options) as writer:
            yield reader, writer


def _mux(writer: OutputContainer, *tracks: Iterator[Packet]) -> None:
    """Write packets in the order in which a player needs them, one at a time."""
    for packet in heapq.merge(*tracks, key=_decoded_at):
        writer.mux(packet)


def _decoded_at(packet: Packet) -> Fraction:
    return Fraction(packet.dts or 0) * (packet.time_base or 1)


def _foreign(writer: OutputContainer, stream: VideoStream) -> str | None:
    name = stream.codec_context.name
    return None if name in writer.supported_codecs else f'an mp4 cannot hold {name}'


def _kept(reader: InputContainer) -> dict[str, str]:
    tags = {name.lower(): value for name, value in reader.metadata.items()}
    return {name: tags[name] for name in _KEPT_TAGS if name in tags}
