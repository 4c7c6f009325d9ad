"""Pictures that an mp4 cannot hold as they are: decoded one by one and encoded as h264, at the times they had."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, pairwise
from typing import Any

import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from gmscavp.datasets.decoding.errors import ClipError
from gmscavp.datasets.decoding.media import quarter_turn, single_thread
from gmscavp.datasets.encoding import add_pictures
from gmscavp.datasets.muxing.packets import decoded_frames, read_packets
from gmscavp.datasets.muxing.spans import PictureTrack

_CLOCK = Fraction(1, 90_000)


def recoded_pictures(
    reader: InputContainer, stream: VideoStream, writer: OutputContainer, track: PictureTrack, duration_s: float
) -> Iterator[Packet]:
    """The packets of the pictures of the first `duration_s`; adds their track to `writer`.

    As large as they were (made even), as turned, at the same times. ClipError: no picture can be decoded.
    """
    end = round(duration_s / _CLOCK)
    timed = _timed(reader, stream, track, end)
    first = next(timed, None)
    if first is None:
        raise ClipError(reader.name, 'damaged', 'no picture could be decoded')
    video = _add_track(writer, stream, first[1])
    return _encoded(video, chain([first], timed), end)


def _timed(
    reader: InputContainer, stream: VideoStream, track: PictureTrack, end: int
) -> Iterator[tuple[int, VideoFrame]]:
    """(ticks of _CLOCK, picture), each later than the one before."""
    single_thread(stream)
    shown, last, number = np.sort(track.pts), -1, -1
    for packet in read_packets(reader, stream):
        for frame in [] if packet.is_corrupt else decoded_frames(reader, packet):
            number += 1
            # Pictures come out of the decoder in the order in which they are shown.
            by_order = track.obstacle or frame.pts is None
            ticks = int(shown[min(number, len(shown) - 1)]) if by_order else frame.pts
            pts = round((ticks - track.start) * track.tick / _CLOCK)
            if pts >= end:
                return
            if pts > last:
                yield pts, frame
                last = pts


def _add_track(writer: OutputContainer, stream: VideoStream, first: VideoFrame) -> VideoStream:
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    video = add_pictures(writer, (first.height + first.height % 2, first.width + first.width % 2), rate)
    video.time_base = video.codec_context.time_base = _CLOCK
    video.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio or Fraction(1)
    if not first.format.is_rgb:
        video.codec_context.colorspace = stream.codec_context.colorspace
        video.codec_context.color_range = stream.codec_context.color_range
    if turn := quarter_turn(first.rotation):
        video.set_display_rotation(turn)
    return video


def _encoded(video: VideoStream, timed: Iterator[tuple[int, VideoFrame]], end: int) -> Iterator[Packet]:
    lasting: dict[int | None, int] = {}
    last: Any = None
    for (pts, frame), (until, _) in pairwise(chain(timed, [(end, last)])):
        lasting[pts] = until - pts
        picture = frame.reformat(video.width, video.height, 'yuv420p')
        picture.pts, picture.time_base = pts, _CLOCK
        yield from _lasting(video.encode(picture), lasting)
    yield from _lasting(video.encode(None), lasting)


def _lasting(packets: list[Packet], lasting: dict[int | None, int]) -> Iterator[Packet]:
    """The encoder forgets how long a picture stays, which matters for the last."""
    for packet in packets:
        packet.duration = lasting.pop(packet.pts)
        yield packet
