"""Packets of one track, ready to be written: copied from a file as they are, or encoded."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from gmscavp.datasets.decoding.errors import ClipError
from gmscavp.datasets.decoding.media import single_thread, time_base
from gmscavp.datasets.encoding import audio_frames
from gmscavp.datasets.muxing.spans import PictureTrack

# Sound that browsers and editors play from an mp4.
_PLAYED = {'aac', 'mp3', 'mp3float', 'ac3', 'eac3', 'alac', 'flac', 'opus', 'libopus'}


def add_copy(writer: OutputContainer, stream: Stream) -> Stream:
    """A track for the packets of `stream` as they are, with its rotation and shape of pixels."""
    # A decoder from outside FFmpeg has no encoder of its name, from which the track would be made otherwise.
    outside = stream.codec_context.name.startswith('lib')
    copy = writer.add_stream_from_template(stream, opaque=outside or stream.type != 'video')
    if stream.codec_context.name == 'hevc':
        # The other name for it (hev1) Apple's players refuse.
        copy.codec_context.codec_tag = 'hvc1'
    return copy


def copied_pictures(
    reader: InputContainer, stream: VideoStream, copy: Stream, track: PictureTrack, count: int
) -> Iterator[Packet]:
    """The first `count` packets, the first picture shown moved to time zero."""
    packets = (packet for packet in read_packets(reader, stream) if packet.size and not packet.is_corrupt)
    rows = zip(*(column[:count].tolist() for column in (track.pts, track.dts, track.lasting)), strict=True)
    for (pts, dts, lasting), packet in zip(rows, packets, strict=False):
        packet.pts, packet.dts, packet.duration = pts - track.start, dts - track.start, lasting
        packet.stream = copy
        yield packet


def plays_in_mp4(stream: AudioStream) -> bool:
    """Whether the packets of a sound are copied; others are kept as FLAC."""
    return stream.codec_context.name in _PLAYED


def copied_sound(
    reader: InputContainer, stream: AudioStream, copy: Stream, duration_s: float | None
) -> Iterator[Packet]:
    """The packets of the first `duration_s`, None for all, the start moved to time zero."""
    start = stream.start_time or 0
    end = None if duration_s is None else start + duration_s / time_base(stream)
    for packet in read_packets(reader, stream):
        if not packet.size or packet.pts is None:
            continue
        if end is not None and packet.pts >= end:
            return
        packet.pts = packet.dts = packet.pts - start
        packet.stream = copy
        yield packet


def lossless_sound(
    reader: InputContainer, stream: AudioStream, coded: AudioStream, duration_s: float | None
) -> Iterator[Packet]:
    """The first `duration_s` as FLAC: the same samples, of at most 24 bits."""
    single_thread(stream)
    rate = stream.codec_context.sample_rate
    left = None if duration_s is None else round(duration_s * rate)
    convert = AudioResampler(format=coded.codec_context.format, layout=coded.codec_context.layout, rate=rate)
    heard = 0
    for packet in read_packets(reader, stream):
        for decoded in decoded_frames(reader, packet):
            for frame in convert.resample(decoded):
                cut = frame if left is None else _shortened(frame, left - heard)
                if cut is None:
                    break
                cut.pts, cut.time_base = heard, Fraction(1, rate)
                heard += cut.samples
                yield from coded.encode(cut)
    yield from coded.encode(None)


def flac_format(stream: AudioStream) -> str:
    """The kind of samples that holds those of `stream`."""
    return 's16' if stream.codec_context.format.bytes <= 2 else 's32'


def _shortened(frame: AudioFrame, samples: int) -> AudioFrame | None:
    if samples <= 0:
        return None
    if frame.samples <= samples:
        return frame
    wave: Any = np.ascontiguousarray(frame.to_ndarray()[:, : samples * frame.layout.nb_channels])
    cut = AudioFrame.from_ndarray(wave, format=frame.format.name, layout=frame.layout.name)
    cut.sample_rate = frame.sample_rate
    return cut


def coded_wave(coded: AudioStream, wave: np.ndarray, sample_rate: int) -> Iterator[Packet]:
    """(S,) float32 from time zero on."""
    heard = 0
    for frame in audio_frames(wave, 0, len(wave), sample_rate):
        frame.pts = heard
        heard += frame.samples
        yield from coded.encode(frame)
    yield from coded.encode(None)


def coded_pictures(video: VideoStream, pictures: Iterable[np.ndarray], rate: Fraction) -> Iterator[Packet]:
    """(H, W, 3) uint8 each, picture k from k / rate on."""
    for number, picture in enumerate(pictures):
        frame = VideoFrame.from_ndarray(picture, format='rgb24')
        frame.pts, frame.time_base = number, 1 / rate
        yield from video.encode(frame)
    yield from video.encode(None)


def read_packets(reader: InputContainer, stream: Stream) -> Iterator[Packet]:
    """All packets of a track of a newly opened file, the empty one that flushes the decoder last.

    ClipError('damaged'): whatever goes wrong with reading, and only that, not what the reader of the packets does.
    """
    for other in reader.streams:
        other.discard = av.stream.Discard.default if other.index == stream.index else av.stream.Discard.all
    try:
        yield from reader.demux(stream)
    except av.error.FFmpegError as error:
        raise damaged(reader.name, error) from error


def decoded_frames(reader: InputContainer, packet: Packet) -> list[Any]:
    """What a packet decodes to. ClipError('damaged'): it does not."""
    try:
        return list(packet.decode())
    except av.error.FFmpegError as error:
        raise damaged(reader.name, error) from error


def damaged(name: str, error: Exception) -> ClipError:
    """A library's error in the words of this package."""
    return ClipError(name, 'damaged', f'{type(error).__name__}: {getattr(error, "strerror", None) or error}')
