"""Media files: opening them, what their headers say, finding packets in them."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from gmscavp.datasets.decoding.errors import ClipError
from gmscavp.errors import UserError

Track = VideoStream | AudioStream

TOLERANCE_S = 0.1
"""How much of a window may be missing: tracks of one file seldom end together."""

MAX_ASPECT = 8
MAX_SIDE = 16_384

MAX_PIXELS = 1 << 26
"""Of one picture, twice those of 8K: what a header, or the picture itself, may ask memory for. A decoder holds up to 17."""

_MAX_SAMPLE_RATE = 768_000

# Bytes in which the chunks before the samples are looked for, and sizes that stand for an unknown one.
_WAV_HEAD = 65_536
_WAV_UNKNOWN = 0x7FFF0000

# How the common containers begin, as (offset, bytes): tells a broken media file from a file that never was one.
_SIGNATURES = (
    (4, b'ftyp'),
    (4, b'moov'),
    (4, b'mdat'),
    (4, b'free'),
    (0, b'\x1a\x45\xdf\xa3'),
    (0, b'RIFF'),
    (0, b'OggS'),
    (0, b'FLV'),
    (0, b'ID3'),
    (0, b'fLaC'),
    (0, b'\x47\x40'),
    (0, b'\x00\x00\x01\xba'),
    (0, b'\x30\x26\xb2\x75'),
)

# In other formats (MPEG-TS) a seek may land after the wanted time.
_INDEXED_FORMATS = {'mov,mp4,m4a,3gp,3g2,mj2', 'matroska,webm'}

# Containers that hold media themselves: FFmpeg's playlist formats would open other files, or the network.
_OPEN_OPTIONS = {
    'format_whitelist': 'mov,matroska,avi,mpegts,mpeg,flv,ogg,asf,mxf,nut,rm,dv,gif,wav,w64,aiff,mp3,flac,aac,ac3,amr',
    'protocol_whitelist': 'file',
    # Also for the decoders with which a file is probed.
    'max_pixels': str(MAX_PIXELS),
}


@dataclass(frozen=True)
class MediaInfo:
    """What the header of a file says.

    duration_s: seconds from the file's start for which every track it has lasts. fps: average frames per second.
    width, height: pixels as shown, after rotation. rotation: degrees counter-clockwise that make the stored picture
    upright. sample_rate: Hz. A track that is not there has zeros.
    """

    duration_s: float
    fps: float
    width: int
    height: int
    rotation: int
    sample_rate: int
    channels: int
    has_video: bool
    has_audio: bool


def probe(file: str | os.PathLike[str]) -> MediaInfo:
    """Read the header of a file, and the first picture for its rotation. ClipError when it cannot be opened."""
    with open_media(file) as container:
        video, audio = video_track(container), audio_track(container)
        tracks = [track for track in (video, audio) if track is not None]
        if not tracks:
            raise ClipError(os.fspath(file), 'not a media file', 'neither pictures nor sound in it')
        rotation = 0 if video is None else first_rotation(container, video)
        width, height = (0, 0) if video is None else shown_size(video, rotation)
        return MediaInfo(
            duration_s=length_s(container, tracks),
            fps=0.0 if video is None else float(video.average_rate or video.guessed_rate or 0),
            width=width,
            height=height,
            rotation=rotation,
            sample_rate=0 if audio is None else audio.codec_context.sample_rate,
            channels=0 if audio is None else audio.codec_context.channels,
            has_video=video is not None,
            has_audio=audio is not None,
        )


@contextmanager
def open_media(file: str | os.PathLike[str]) -> Iterator[InputContainer]:
    """Open a file for reading; whatever goes wrong with it, also inside the block, is a ClipError."""
    with opened(file) as container, clip_errors(container.name):
        yield container


def opened(file: str | os.PathLike[str]) -> InputContainer:
    """A file opened for reading, to be closed; what goes wrong with opening it is a ClipError."""
    name = os.fspath(file)
    if not os.path.isfile(name):
        detail = 'it is a folder' if os.path.isdir(name) else ''
        raise ClipError(name, 'missing file', detail)
    if os.path.getsize(name) == 0:
        raise ClipError(name, 'empty file')
    try:
        return open_container(name)
    except PermissionError as error:
        raise ClipError(name, 'missing file', 'no permission to read it') from error
    except Exception as error:
        cause = 'damaged' if _looks_like_media(name) else 'not a media file'
        raise ClipError(name, cause, _in_words(error)) from error


@contextmanager
def clip_errors(name: str) -> Iterator[None]:
    """Whatever goes wrong inside the block is a ClipError for this file: nothing but reading it belongs there."""
    try:
        yield
    except UserError:
        raise
    except (av.error.DecoderNotFoundError, av.error.PatchWelcomeError) as error:
        raise ClipError(name, 'unsupported', _in_words(error)) from error
    # The decoding libraries raise many types on hostile data, and a training run must outlive them all.
    except Exception as error:
        raise ClipError(name, 'damaged', _in_words(error)) from error


def open_container(file: str) -> InputContainer:
    """Open a file with PyAV as it is; no tests, no translation of errors."""
    # What stands before a colon is taken for a protocol unless the path is absolute.
    return av.open(os.path.abspath(file) if ':' in file else file, options=_OPEN_OPTIONS)


def video_track(container: InputContainer) -> VideoStream | None:
    """The video track that players show, None without one. A cover picture is no video."""
    stream = container.streams.best('video')
    if not isinstance(stream, VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        return None
    _demand_decoder(container, stream)
    return stream


def audio_track(container: InputContainer) -> AudioStream | None:
    """The audio track that players play, None without one."""
    stream = container.streams.best('audio')
    if not isinstance(stream, AudioStream):
        return None
    _demand_decoder(container, stream)
    return stream


def both_tracks(container: InputContainer) -> tuple[VideoStream, AudioStream]:
    """The two tracks of a file that a clip can be cut from; ClipError says what forbids it."""
    video, audio = video_track(container), audio_track(container)
    if video is None and audio is None:
        raise ClipError(container.name, 'not a media file', 'neither pictures nor sound in it')
    if video is None:
        raise ClipError(container.name, 'no video track')
    if audio is None:
        raise ClipError(container.name, 'no audio track')
    width, height = shown_size(video, 0)
    if min(width, height) < 1:
        raise ClipError(container.name, 'damaged', 'the pictures have no size')
    large = max(width, height) > MAX_SIDE or width * height > MAX_PIXELS
    if large or max(width, height) > MAX_ASPECT * min(width, height):
        raise ClipError(container.name, 'odd shape', f'{width} x {height} pixels')
    if audio.codec_context.sample_rate > _MAX_SAMPLE_RATE:
        raise ClipError(container.name, 'unsupported', f'{audio.codec_context.sample_rate} samples a second')
    return video, audio


def time_base(stream: Track) -> Fraction:
    """One tick of a track's clock, in seconds."""
    return stream.time_base or Fraction(1, av.time_base)


def track_start_s(stream: Track) -> float:
    """When a track starts on the file's own clock, in seconds."""
    return float((stream.start_time or 0) * time_base(stream))


def track_end_s(container: InputContainer, stream: Track) -> float | None:
    """When a track ends on the file's own clock by its header, in seconds; None where the header does not say."""
    if container.format.name == 'wav' and (promised_s := _wav_promise_s(container.name)) is not None:
        return promised_s
    if (own_s := promised_end_s(stream)) is not None:
        return own_s
    if container.duration is not None:
        return float(Fraction((container.start_time or 0) + container.duration, av.time_base))
    return None


def promised_end_s(stream: Track) -> float | None:
    """As track_end_s, by what the header says of this track alone: a file may last longer than one of its tracks."""
    if stream.duration is not None:
        return track_start_s(stream) + float(stream.duration * time_base(stream))
    # Matroska keeps the end of a track in a tag, as hh:mm:ss.
    hours, _, rest = stream.metadata.get('DURATION', '').partition(':')
    minutes, _, seconds = rest.partition(':')
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds) if seconds else None


def length_s(container: InputContainer, tracks: list[Track]) -> float:
    """Seconds from the start of the first of these tracks for which all of them last."""
    ends = [track_end_s(container, track) for track in tracks]
    if None in ends:
        ends = [_last_packet_end_s(container.name, track.index) for track in tracks]
    return max(0.0, min(end for end in ends if end is not None) - origin_s(tracks))


def origin_s(streams: list[Track]) -> float:
    """Time zero of a file on its own clock, in seconds: where the first of its tracks starts."""
    return min(track_start_s(stream) for stream in streams)


def shown_size(stream: VideoStream, rotation: int) -> tuple[int, int]:
    """(width, height) in square pixels as shown, when the stored picture is turned by `rotation` degrees."""
    context = stream.codec_context
    width = round(context.width * (stream.sample_aspect_ratio or 1))
    return (context.height, width) if rotation % 180 else (width, context.height)


def quarter_turn(degrees: int) -> int:
    """A rotation as 0, 90, 180 or 270 degrees; other angles count as none, as no player crops for them."""
    return degrees % 360 if degrees % 90 == 0 else 0


def first_rotation(container: InputContainer, stream: VideoStream) -> int:
    """Degrees counter-clockwise that make the stored picture upright. PyAV tells them with a picture only."""
    single_thread(stream)
    for packet in packets_from(container, stream, track_start_s(stream)):
        for frame in packet.decode():
            return quarter_turn(frame.rotation)
    raise ClipError(container.name, 'damaged', 'no picture could be decoded')


def is_indexed(container: InputContainer) -> bool:
    """Whether a seek lands on a key frame at or before the wanted time."""
    return container.format.name in _INDEXED_FORMATS


def single_thread(stream: Track) -> None:
    """Decode on the calling thread: the data loader's workers are the parallelism."""
    if not stream.codec_context.is_open:
        stream.codec_context.thread_type = 'NONE'
        stream.codec_context.thread_count = 1
        # A picture may be larger than the header says.
        stream.codec_context.options = {**stream.codec_context.options, 'max_pixels': str(MAX_PIXELS)}


def packets_from(container: InputContainer, stream: Track, time_s: float) -> Iterator[Packet]:
    """The packets of a track from the key frame at or before a time on, then the one that flushes the decoder."""
    if not is_indexed(container):
        with open_container(container.name) as fresh:
            again: Any = fresh.streams[stream.index]
            single_thread(again)
            yield from fresh.demux(again)
        return
    for other in container.streams:
        other.discard = av.stream.Discard.default if other.index == stream.index else av.stream.Discard.all
    # A seek to the start of a Matroska sound track loses its first packet; a container just opened stands there.
    if stream.type == 'audio' and time_s <= track_start_s(stream):
        yield from container.demux(stream)
    else:
        yield from _packets_after_seek(container, stream, max(time_s, track_start_s(stream)))


def _packets_after_seek(container: InputContainer, stream: Track, time_s: float) -> Iterator[Packet]:
    # An mp4 is searched by decoding time, which runs ahead of the time shown: the key frame found may come too late.
    for back_s in (0.0, 1.0, 4.0, 16.0, 64.0, math.inf):
        target_s = max(time_s - back_s, track_start_s(stream))
        container.seek(int(target_s / time_base(stream)), stream=stream)
        packets = container.demux(stream)
        first = next(packets)
        if first.pts is None or first.pts * first.time_base <= time_s or target_s <= track_start_s(stream):
            break
    yield first
    yield from packets


def _demand_decoder(container: InputContainer, stream: Track) -> None:
    if stream.codec_context is None:
        raise ClipError(container.name, 'unsupported', f'no decoder for its {stream.type}')


def _last_packet_end_s(file: str, index: int) -> float:
    # Files recorded live have no length in their header.
    with open_container(file) as container:
        packets: Iterator[Packet] = container.demux(container.streams[index])
        ends = [
            (packet.pts + (packet.duration or 0)) * packet.time_base for packet in packets if packet.pts is not None
        ]
        return float(max(ends, default=0))


def _wav_promise_s(file: str) -> float | None:
    """How long a wav file is by its header, None where that does not say. FFmpeg tells what is left of a cut-off one."""
    with open(file, 'rb') as stream:
        head = stream.read(_WAV_HEAD)
    form, data = head.find(b'fmt '), head.find(b'data')
    if not head.startswith(b'RIFF') or form < 0 or data < form + 20 or len(head) < data + 8:
        return None
    rate, size = (int.from_bytes(head[place : place + 4], 'little') for place in (form + 16, data + 4))
    # What is written without knowing the end says 0 or next to the most that 31 or 32 bits hold.
    return size / rate if rate and 0 < size < _WAV_UNKNOWN else None


def _looks_like_media(file: str) -> bool:
    with open(file, 'rb') as stream:
        head = stream.read(16)
    return any(head[offset:].startswith(mark) for offset, mark in _SIGNATURES)


def _in_words(error: Exception) -> str:
    text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
    return f'{type(error).__name__}: {text.splitlines()[0]}'
