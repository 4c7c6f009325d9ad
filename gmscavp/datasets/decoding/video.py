"""The pictures of a window, one function per decoding library.

Each takes (container, stream, times_s (T,), size) and gives (T, H, W, 3) uint8: for every time, on the file's own
clock and in increasing order, the frame on screen then. Before the first frame that is the first, after the last the
last. ClipError('damaged') when the frames end before the header says so.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

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
    quarter_turn,
    shown_size,
    single_thread,
    time_base,
    track_start_s,
)
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

# The decoders that can be told before each packet whether its frame is wanted.
_SKIPPABLE_CODECS = {'h264', 'hevc'}


def pyav_frames(container: InputContainer, stream: VideoStream, times_s: np.ndarray, size: Size) -> np.ndarray:
    """Frames by PyAV, from the container that is open already."""
    picture: Callable[[VideoFrame], np.ndarray] | None = None
    held: VideoFrame | None = None
    frames: list[np.ndarray] = []
    for frame in _decode(container, stream, times_s):
        # The frame before this one was on screen until now; converting only what is wanted saves half the time.
        until = int(np.searchsorted(times_s, frame.time - _EPSILON_S, 'left'))
        picture = picture or _painter(stream, frame, size)
        if until > len(frames):
            frames += [picture(held or frame)] * (until - len(frames))
        held = frame
        if len(frames) == len(times_s):
            return np.stack(frames)
    if held is None or picture is None:
        raise ClipError(container.name, 'damaged', 'no picture could be decoded')
    _demand_pictures(container, stream, times_s[-1], held.time, held.time + _lasting_s(held))
    return np.stack(frames + [picture(held)] * (len(times_s) - len(frames)))


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
    return _decord_batch(reader, wanted, height, width)[repeats]


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
        dimension_order='NHWC',
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


def _decode(container: InputContainer, stream: VideoStream, times_s: np.ndarray) -> Iterator[VideoFrame]:
    """The frames on screen at these times, in order, among others."""
    single_thread(stream)
    packets = packets_from(container, stream, times_s[0])
    window = _window(packets, *(times_s[[0, -1]] / float(time_base(stream))))
    wanted = _on_screen(window, (times_s + _EPSILON_S) / float(time_base(stream)))
    skippable = stream.codec_context.name in _SKIPPABLE_CODECS
    for packet in chain(window, packets):
        # The last packet of a truncated file.
        if packet.is_corrupt:
            continue
        # Frames that no other is made from are left out unless wanted: at 4 frames/s of 25 that saves a third.
        if skippable:
            stream.codec_context.skip_frame = 'DEFAULT' if packet.pts is None or packet.pts in wanted else 'NONREF'
        for frame in packet.decode():
            if frame.time is None:
                raise ClipError(container.name, 'unsupported', 'its frames carry no time')
            yield frame


def _window(packets: Iterator[Packet], first: float, last: float) -> list[Packet]:
    """The packets of all frames shown between two times (in ticks), from the last key frame before them on."""
    window: list[Packet] = []
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None and packet.pts <= first:
            window.clear()
        window.append(packet)
        if packet.dts is not None and packet.dts > last:
            break
    return window


def _on_screen(packets: list[Packet], times: np.ndarray) -> set[int]:
    """The times (in ticks) of the frames on screen at `times`."""
    starts = np.sort([packet.pts for packet in packets if packet.pts is not None])
    return set(starts[(np.searchsorted(starts, times, 'right') - 1).clip(0)].tolist()) if len(starts) else set()


def _lasting_s(frame: VideoFrame) -> float:
    return float((frame.duration or 0) * (frame.time_base or 0))


def _painter(stream: VideoStream, first: VideoFrame, size: Size) -> Callable[[VideoFrame], np.ndarray]:
    """frame -> (H, W, 3) upright RGB, scaled by swscale."""
    rotation = quarter_turn(first.rotation)
    height, width = target_size(stream, rotation, size)
    stored = (width, height) if rotation % 180 else (height, width)
    reformatter = VideoReformatter()

    def picture(frame: VideoFrame) -> np.ndarray:
        scaled = reformatter.reformat(frame, stored[1], stored[0], 'rgb24', interpolation=_SCALING, threads=1)
        return np.rot90(scaled.to_ndarray(), rotation // 90)

    return picture


def _countable(container: InputContainer, stream: VideoStream, first_s: float, last_s: float) -> bool:
    """Whether decord finds the right frames between two times.

    It finds a frame by counting frames from a key frame, and the key frame by counting packets: both are wrong where
    pictures before the key frame follow it in the file (open GOP, the default of x265), where an edit list hides
    frames (cut without encoding), and where a seek is not exact (MPEG-TS).
    """
    if not is_indexed(container) or stream.codec_context.name not in _COUNTABLE_CODECS:
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


def _demand_pictures(
    container: InputContainer, stream: VideoStream, wanted_s: float, shown_s: float, until_s: float
) -> None:
    # Without a length for this track in the header, the last frame may be meant to stay.
    if stream.duration is None:
        return
    # The last frame of a file often has no duration.
    period_s = 1 / float(stream.average_rate) if stream.average_rate else 0.0
    if max(until_s, shown_s + period_s) + TOLERANCE_S < wanted_s:
        raise ClipError(
            container.name, 'damaged', f'the pictures end at {until_s:.2f} s, wanted up to {wanted_s:.2f} s'
        )


def _missing(backend: str, package: str, error: Exception | None) -> UserError:
    text = f'backend {backend!r} cannot be used: pip install -c requirements/constraints.txt {package}'
    if isinstance(error, (OSError, RuntimeError)):
        text += '; it also needs the FFmpeg libraries of the system (apt-get install ffmpeg)'
    reason = str(error).strip().splitlines()
    return UserError(f'{text} ({reason[0] if reason else type(error).__name__})')
