"""The pictures of a window, one function per decoding library.

Each takes (container, stream, times_s (T,), size) and gives (T, 3, H, W) uint8: for every time, on the file's own
clock and in increasing order, the frame on screen then. Before the first frame that is the first, after the last the
last. ClipError('damaged') when the frames end before the header says so, 'too short' where it does not say.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from gmscavp.datasets.decoding.errors import ClipError
from gmscavp.datasets.decoding.media import (
    TOLERANCE_S,
    first_rotation,
    is_indexed,
    packets_from,
    promised_end_s,
    quarter_turn,
    shown_size,
    single_thread,
    time_base,
    track_start_s,
)
from gmscavp.datasets.decoding.skipping import SKIPPABLE_CODECS, Plan, decode_all, decode_needed, plan_decoding
from gmscavp.errors import UserError

# Before decord, which makes the codecs it carries visible to all libraries loaded later: torchcodec would crash on AV1.
try:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize
# torchcodec raises the latter two when it is installed and FFmpeg's libraries are not.
except (ImportError, OSError, RuntimeError) as error:
    _torchcodec_error: Exception | None = error
else:
    _torchcodec_error = None

try:
    import decord
except (ImportError, OSError) as error:
    _decord_error: Exception | None = error
else:
    _decord_error = None
    decord.logging.set_level(decord.logging.QUIET)

Size = int | tuple[int, int]
"""The short side, or (H, W)."""

# A frame counts as on screen this long before its time: decord's times are float32, Matroska's are whole milliseconds,
# and a wanted time that falls on the start of a frame must give the same frame everywhere.
_EPSILON_S = 1e-3

# Without the flags colours are scaled at half the width, which shows in small pictures: mean error against an
# antialiased bilinear filter at 64 x 64 1.9 of 255 instead of 0.4, for the same time.
_SCALING = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND

# The codecs for which decord was seen to find the right frame: one packet, one frame.
_COUNTABLE_CODECS = {'h264', 'hevc', 'vp9', 'av1'}

# The decoders that leave out a damaged picture without a word; of a whole file every packet gives one.
_SILENT_DECODERS = {'vp9', 'libvpx-vp9', 'av1', 'libdav1d'}


def pyav_frames(container: InputContainer, stream: VideoStream, times_s: np.ndarray, size: Size) -> np.ndarray:
    """Frames by PyAV, from the container that is open already."""
    single_thread(stream)
    times = (times_s + _EPSILON_S) / float(time_base(stream))
    if stream.codec_context.name in SKIPPABLE_CODECS and is_indexed(container):
        plan = _plan(container, packets_from(container, stream, times_s[0]), times)
        canvas = _Canvas(container, stream, times_s, size)
        for frame in decode_needed(plan):
            canvas.add(frame)
        # Otherwise what was left out was needed after all: damage, or a key frame that is none (intra refresh).
        if plan.wanted <= canvas.seen:
            return canvas.finish(plan.followed)
    packets = packets_from(container, stream, times_s[0])
    plan = _plan(container, packets, times)
    canvas = _Canvas(container, stream, times_s, size)
    for frame in decode_all(plan, packets):
        canvas.add(frame)
        if canvas.full:
            break
    if stream.codec_context.name in _SILENT_DECODERS and is_indexed(container):
        canvas.demand_seen(plan.wanted)
    return canvas.finish(canvas.full)


def decord_frames(container: InputContainer, stream: VideoStream, times_s: np.ndarray, size: Size) -> np.ndarray:
    """Frames by decord; by PyAV in files where decord gives other frames than the wanted ones (see _countable)."""
    if _decord_error is not None:
        raise _missing('decord', 'decord2', _decord_error)
    if not _countable(container, stream, times_s[0], times_s[-1]):
        return pyav_frames(container, stream, times_s, size)
    rotation = first_rotation(container, stream) if isinstance(size, int) else 0
    height, width = target_size(stream, rotation, size)
    reader = decord.VideoReader(container.name, ctx=decord.cpu(0), width=width, height=height, num_threads=1)
    # decord's times count from the track's first shown frame, and are negative for frames that an edit list hides:
    # these it counts although the decoder never gives them.
    spans = reader.get_frame_timestamp(range(len(reader))).astype(np.float64) + track_start_s(stream)
    if spans[0, 0] < track_start_s(stream) - _EPSILON_S:
        return pyav_frames(container, stream, times_s, size)
    indices = np.searchsorted(spans[:, 0], times_s + _EPSILON_S, 'right') - 1
    wanted, repeats = np.unique(indices.clip(0), return_inverse=True)
    _demand_pictures(container, stream, times_s[-1], *spans[wanted[-1]])
    return _decord_batch(reader, wanted, height, width)[repeats].transpose(0, 3, 1, 2)


def torchcodec_frames(container: InputContainer, stream: VideoStream, times_s: np.ndarray, size: Size) -> np.ndarray:
    """Frames by torchcodec; by PyAV in files where torchcodec gives later frames than the wanted ones."""
    if _torchcodec_error is not None:
        raise _missing('torchcodec', 'gmscavp[torchcodec]', _torchcodec_error)
    if not is_indexed(container):
        return pyav_frames(container, stream, times_s, size)
    rotation = first_rotation(container, stream) if isinstance(size, int) else 0
    decoder = VideoDecoder(
        container.name,
        stream_index=stream.index,
        dimension_order='NCHW',
        num_ffmpeg_threads=1,
        # The other mode computes times from the average frame rate.
        seek_mode='exact',
        transforms=[Resize(target_size(stream, rotation, size))],
    )
    begin_s, finish_s = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
    batch = decoder.get_frames_played_at((times_s + _EPSILON_S).clip(begin_s, np.nextafter(finish_s, 0)).tolist())
    shown_s, lasting_s = batch.pts_seconds.numpy(), batch.duration_seconds.numpy()
    # After a seek into a file with an edit list it starts at the next key frame.
    if (shown_s > np.maximum(times_s, begin_s) + 2 * _EPSILON_S).any():
        return pyav_frames(container, stream, times_s, size)
    _demand_pictures(container, stream, times_s[-1], shown_s[-1], shown_s[-1] + lasting_s[-1])
    frames = batch.data.numpy()
    # A last frame without a duration it never counts as on screen.
    if (late := times_s + _EPSILON_S >= finish_s).any():
        frames[late] = decoder[-1].numpy()
    return frames


def target_size(stream: VideoStream, rotation: int, size: Size) -> tuple[int, int]:
    """(H, W) of the frames to give: `size` itself, or for a short side the shape as shown, rounded."""
    if not isinstance(size, int):
        return size
    width, height = shown_size(stream, rotation)
    short = min(width, height)
    return round(height * size / short), round(width * size / short)


class _Canvas:
    """The frames that are wanted, painted as the decoder gives them, in order, among others.

    seen: the times (in ticks) of all frames that came.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, times_s: np.ndarray, size: Size) -> None:
        self.container, self.stream, self.times_s, self.size = container, stream, times_s, size
        self.seen: set[int | None] = set()
        self._held: VideoFrame | None = None
        self._frames: np.ndarray | None = None
        self._done = self._rotation = 0
        self._reformatter = VideoReformatter()

    @property
    def full(self) -> bool:
        """Whether all frames have been painted."""
        return self._done == len(self.times_s)

    def add(self, frame: VideoFrame) -> None:
        """Take the next frame. The one before it was on screen until now; only what is wanted is converted."""
        if frame.time is None:
            raise ClipError(self.container.name, 'unsupported', 'its frames carry no time')
        # The decoder has made up what it could not read; frames that are made from this one pass it on unsaid.
        if frame.is_corrupt:
            raise ClipError(self.container.name, 'damaged', f'the picture at {frame.time:.2f} s is not whole')
        if self._held is None:
            self._rotation = quarter_turn(frame.rotation)
        self.seen.add(frame.pts)
        self._paint(self._held or frame, int(np.searchsorted(self.times_s, frame.time - _EPSILON_S, 'left')))
        self._held = frame

    def demand_seen(self, wanted: set[int]) -> None:
        """ClipError where a frame of these times (in ticks) has not come although one before it has."""
        first = min((pts for pts in self.seen if pts is not None), default=None)
        lost = [pts for pts in wanted - self.seen if first is not None and pts > first]
        if lost:
            time_s = float(min(lost) * time_base(self.stream))
            raise ClipError(self.container.name, 'damaged', f'the picture at {time_s:.2f} s could not be decoded')

    def finish(self, followed: bool) -> np.ndarray:
        """(T, 3, H, W) with the last frame to the end; followed: whether that is known to be the right one."""
        if self._held is None:
            raise ClipError(self.container.name, 'damaged', 'no picture could be decoded')
        if not followed:
            until_s = self._held.time + float((self._held.duration or 0) * (self._held.time_base or 0))
            _demand_pictures(self.container, self.stream, self.times_s[-1], self._held.time, until_s)
        self._paint(self._held, len(self.times_s))
        assert self._frames is not None
        return self._frames

    def _paint(self, frame: VideoFrame, until: int) -> None:
        if until <= self._done:
            return
        if self._frames is None:
            height, width = target_size(self.stream, self._rotation, self.size)
            self._frames = np.empty((len(self.times_s), 3, height, width), np.uint8)
        height, width = self._frames.shape[2:]
        stored = (width, height) if self._rotation % 180 else (height, width)
        # Planes are what tensors are made of, and swscale makes them 2.7 times as fast as rgb24, with the same values.
        scaled = self._reformatter.reformat(frame, stored[1], stored[0], 'gbrp', interpolation=_SCALING, threads=1)
        planes: Any = scaled.planes
        for channel, plane in enumerate(planes[k] for k in (2, 0, 1)):
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : stored[1]]
            self._frames[self._done, channel] = np.rot90(rows, self._rotation // 90)
        self._frames[self._done + 1 : until] = self._frames[self._done]
        self._done = until


def _countable(container: InputContainer, stream: VideoStream, first_s: float, last_s: float) -> bool:
    """Whether decord finds the right frames between two times.

    It finds a frame by counting frames from a key frame, and the key frame by counting packets: both are wrong where
    pictures before the key frame follow it in the file (open GOP, the default of x265), where an edit list hides
    frames (cut without encoding), and where a seek is not exact (MPEG-TS).
    """
    if not is_indexed(container) or stream.codec_context.name not in _COUNTABLE_CODECS:
        return False
    # decord makes room for all frames that the header promises, and takes the process with it where memory is too small.
    if (container.duration or 0) / av.time_base * (stream.average_rate or 0) > container.size:
        return False
    key_pts, last = None, last_s / time_base(stream)
    for packet in packets_from(container, stream, first_s):
        if packet.dts is None or packet.dts > last:
            break
        if packet.pts is None or packet.is_discard:
            return False
        if packet.is_keyframe:
            key_pts = packet.pts
        elif key_pts is None or packet.pts < key_pts:
            return False
    return key_pts is not None


def _decord_batch(reader: Any, indices: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N,) increasing -> (N, H, W, 3)."""

    def frame(index: int) -> np.ndarray:
        # Where padded rows happen to be a whole number of times as long as the picture is wide (96 pixels, say),
        # decord gives the padding as further channels, and get_batch fails.
        return reader[int(index)].asnumpy().reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)

    first = reader[int(indices[0])]
    if first.shape[-1] != 3 or len(indices) == 1:
        return np.stack([frame(index) for index in indices])
    return np.concatenate([first.asnumpy()[None], reader.get_batch(indices[1:]).asnumpy()])


def _plan(container: InputContainer, packets: Iterator[Packet], times: np.ndarray) -> Plan:
    """ClipError where a picture could not be read whole and the track goes on; the last one of a cut file may be so."""
    plan = plan_decoding(packets, times)
    for packet, following in pairwise(plan.window):
        if packet.is_corrupt and following.size:
            time_s = float((packet.pts or 0) * (packet.time_base or 0))
            raise ClipError(container.name, 'damaged', f'the picture at {time_s:.2f} s is cut off')
    return plan


def _demand_pictures(
    container: InputContainer, stream: VideoStream, wanted_s: float, shown_s: float, until_s: float
) -> None:
    # The last frame of a file often has no duration.
    period_s = 1 / float(stream.average_rate) if stream.average_rate else 0.0
    if max(until_s, shown_s + period_s) + TOLERANCE_S < wanted_s:
        # Without a promise in the header, missing pictures at the end are the end of the file.
        cause = 'too short' if promised_end_s(stream) is None else 'damaged'
        raise ClipError(container.name, cause, f'the pictures end at {until_s:.2f} s, wanted up to {wanted_s:.2f} s')


def _missing(backend: str, package: str, error: Exception | None) -> UserError:
    text = f'backend {backend!r} cannot be used: pip install -c requirements/constraints.txt {package}'
    if isinstance(error, (OSError, RuntimeError)):
        text += '; it also needs the FFmpeg libraries of the system (apt-get install ffmpeg)'
    reason = str(error).strip().splitlines()
    return UserError(f'{text} ({reason[0] if reason else type(error).__name__})')
