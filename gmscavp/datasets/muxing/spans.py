"""When the tracks of a file begin and end, by their packets: headers are seldom exact."""

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from gmscavp.datasets.decoding.errors import ClipError
from gmscavp.datasets.decoding.media import (
    TOLERANCE_S,
    audio_track,
    open_media,
    probe,
    time_base,
    track_end_s,
    track_start_s,
    video_track,
)
from gmscavp.errors import UserError

# How pictures begin, as (offset, bytes). A GIF may move.
_STILLS = (
    (0, b'\x89PNG'),
    (0, b'\xff\xd8\xff'),
    (0, b'BM'),
    (0, b'II*\x00'),
    (0, b'MM\x00*'),
    (8, b'WEBP'),
    (4, b'ftypheic'),
    (4, b'ftypmif1'),
    (4, b'ftypavif'),
)
# A single picture that stays longer than this is a slide, and meant to be one.
_SLIDE_S = 1.0


@dataclass(frozen=True)
class PictureTrack:
    """The packets of the pictures that players show, without their contents.

    tick: seconds, the unit of all other times. start: when the first picture is shown, end: when the last one goes.
    pts, dts, lasting (N,): when each picture is shown and decoded, and for how long, in decoding order. Times to decode
    are the file's own where they make sense, and else follow from the times shown. hidden (N,): decoded, but not shown.
    obstacle: why the packets cannot be copied, None where they can.
    """

    tick: Fraction
    start: int
    end: int
    pts: np.ndarray
    dts: np.ndarray
    lasting: np.ndarray
    hidden: np.ndarray
    obstacle: str | None = None

    @property
    def start_s(self) -> float:
        """On the file's own clock, seconds."""
        return float(self.start * self.tick)

    @property
    def duration_s(self) -> float:
        """From the first picture to the end of the last, seconds."""
        return float((self.end - self.start) * self.tick)

    def packets_for(self, duration_s: float | None) -> int:
        """How many packets, in decoding order, all pictures shown in the first `duration_s` need; None: all of them."""
        end = self.end if duration_s is None else min(self.end, self.start + duration_s / self.tick)
        return int(np.flatnonzero((self.pts < float(end)) & ~self.hidden)[-1]) + 1


def picture_track(file: str | os.PathLike[str]) -> PictureTrack:
    """The times of a video's pictures. ClipError: no video, or a damaged one; UserError: it is a still picture."""
    name = os.fspath(file)
    _refuse_still(name)
    with open_media(file) as container:
        stream = video_track(container)
        if stream is None:
            raise ClipError(name, 'no video track')
        found = [
            (packet.pts, packet.dts, packet.duration or 0, packet.is_discard)
            for packet in container.demux(stream)
            if packet.size and not packet.is_corrupt
        ]
        if not found:
            raise ClipError(name, 'too short', 'there is no picture in it')
        return _track_of(container, stream, found)


def _track_of(container: InputContainer, stream: VideoStream, found: list[tuple[Any, Any, int, bool]]) -> PictureTrack:
    tick, rate = time_base(stream), stream.average_rate or stream.guessed_rate or Fraction(25)
    period, start = max(1, round(1 / (rate * tick))), stream.start_time or 0
    pts, dts, told = ([row[k] for row in found] for k in range(3))
    hidden = np.array([row[3] for row in found], bool)
    # AVI keeps the order of decoding alone; FFmpeg guesses the times shown, and not well.
    guessed = container.format.name == 'avi' and stream.codec_context.has_b_frames
    obstacle = None
    if guessed or None in pts:
        if None in dts:
            raise ClipError(container.name, 'unsupported', 'its pictures carry no times')
        obstacle, pts, start = 'its pictures carry no times of their own', sorted(dts), dts[0]
    elif len(set(pts)) < len(pts):
        obstacle = 'two of its pictures have the same time'
    shown = np.array(pts)
    lasting = _lasting(shown, told[int(shown.argmax())] or period)
    end = int((shown + lasting)[~hidden].max(initial=start))
    _demand_pictures(container.name, stream, len(found), (end - start) * tick)
    return PictureTrack(tick, start, end, shown, _decoding_times(dts, shown, lasting), lasting, hidden, obstacle)


def _lasting(pts: np.ndarray, last: int) -> np.ndarray:
    """How long each picture stays: until the next one. What packets say is about their order of decoding."""
    order = np.argsort(pts, kind='stable')
    lasting = np.empty_like(pts)
    lasting[order] = np.diff(pts[order], append=pts[order[-1]] + last)
    return lasting


def sound_span(file: str | os.PathLike[str]) -> tuple[float, float]:
    """(start on the file's own clock, duration) of the sound that players play, seconds. ClipError: no sound."""
    with open_media(file) as container:
        stream = audio_track(container)
        if stream is None:
            raise ClipError(os.fspath(file), 'no audio track')
        start_s, end_s = track_start_s(stream), track_end_s(container, stream)
    duration_s = probe(file).duration_s if end_s is None else end_s - start_s
    if duration_s <= 0:
        raise ClipError(os.fspath(file), 'too short', 'its sound lasts 0 s')
    return start_s, duration_s


def _decoding_times(found: list[int | None], pts: np.ndarray, lasting: np.ndarray) -> np.ndarray:
    """When each packet is decoded: the file's times, or the times shown in order, as early as the reordering asks."""
    if None not in found:
        dts = np.array(found)
        spans = dts[-1] + lasting[-1] - dts[0] + lasting.max() >= (pts + lasting).max() - pts.min()
        # mp4 adds the length of a track up from these.
        if spans and (np.diff(dts) > 0).all() and (dts <= pts).all():
            return dts
    shown = np.sort(pts)
    return shown - (shown - pts).max()


def _demand_pictures(name: str, stream: VideoStream, count: int, lasts_s: Fraction) -> None:
    if count == 1 and lasts_s < _SLIDE_S:
        raise _still(name)
    promised_s = float((stream.duration or 0) * time_base(stream))
    if promised_s > lasts_s + TOLERANCE_S:
        detail = f'the pictures end at {float(lasts_s):.2f} s, the header says {promised_s:.2f} s'
        raise ClipError(name, 'damaged', detail)


def _refuse_still(name: str) -> None:
    if not os.path.isfile(name):
        return
    with open(name, 'rb') as stream:
        head = stream.read(16)
    if any(head[offset:].startswith(mark) for offset, mark in _STILLS):
        raise _still(name)


def _still(name: str) -> UserError:
    return UserError(
        f'{name} is a still picture, and sound follows motion; give a video, or make one of it, for example '
        f'ffmpeg -loop 1 -i {name} -t 8 -pix_fmt yuv420p video.mp4.'
    )
