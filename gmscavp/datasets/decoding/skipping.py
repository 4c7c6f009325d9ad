"""Which packets of a track have to be decoded for the wanted frames, and nothing but these decoded."""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

# The decoders that can be told before each packet whether its frame is wanted.
SKIPPABLE_CODECS = {'h264', 'hevc'}


class Plan(NamedTuple):
    """What to decode.

    window: the packets of all frames between the first and the last wanted one, from the last key frame before them on.
    wanted: the times (in ticks) of the frames on screen at the wanted times. followed: whether the track goes on after
    them.
    """

    window: list[Packet]
    wanted: set[int]
    followed: bool


def plan_decoding(packets: Iterator[Packet], times: np.ndarray) -> Plan:
    """Read packets until all frames on screen at `times` (in ticks, increasing) must be among them."""
    window: list[Packet] = []
    followed = False
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None and packet.pts <= times[0]:
            window.clear()
        window.append(packet)
        # No frame is shown before it is decoded.
        if packet.dts is not None and packet.dts > times[-1]:
            followed = True
            break
    starts = np.sort([packet.pts for packet in window if packet.pts is not None and not packet.is_discard])
    places = (np.searchsorted(starts, times, 'right') - 1).clip(0)
    return Plan(window, set(starts[places].tolist()) if len(starts) else set(), followed)


def decode_needed(plan: Plan) -> Iterator[VideoFrame]:
    """The wanted frames, among others, of a codec in SKIPPABLE_CODECS.

    Left out are frames that no other is made from, and what comes between the last wanted frame before a key frame and
    that key frame: at 4 frames/s of 25 the one saves a third, the other a quarter where key frames are half a second
    apart. The decoder is emptied before each jump, as a seek does.
    """
    for part in parts_to_decode(plan):
        context: VideoCodecContext = part[0].stream.codec_context
        context.flush_buffers()
        for packet in part:
            # The last packet of a truncated file.
            if not packet.is_corrupt:
                context.skip_frame = 'DEFAULT' if packet.pts is None or packet.pts in plan.wanted else 'NONREF'
                yield from packet.decode()
        if part[-1].size:
            yield from _end_of(part[-1]).decode()
        context.skip_frame = 'DEFAULT'


def decode_all(plan: Plan, rest: Iterator[Packet]) -> Iterator[VideoFrame]:
    """All frames of the plan's packets and of those that follow."""
    for packet in chain(plan.window, rest):
        if not packet.is_corrupt:
            yield from packet.decode()


def parts_to_decode(plan: Plan) -> list[list[Packet]]:
    """Stretches of packets, each from a key frame on, that are enough for the wanted frames.

    A key frame begins a stretch where no frame after it in the file is shown before it: what follows then needs nothing
    from before, which is also what a seek relies on.
    """
    groups: list[list[Packet]] = []
    for packet in plan.window:
        if not groups or packet.is_keyframe:
            groups.append([])
        groups[-1].append(packet)
    parts: list[list[Packet]] = [[]]
    whole = True
    for number, group in enumerate(groups):
        needed = 1 + max((place for place, packet in enumerate(group) if packet.pts in plan.wanted), default=-1)
        last = number == len(groups) - 1
        if not (plan.followed if last else _is_closed(groups[number + 1])):
            needed = len(group)
        if not whole and needed:
            parts.append([])
        parts[-1] += group[:needed]
        whole = needed == len(group)
    return [part for part in parts if part]


def _is_closed(group: list[Packet]) -> bool:
    # The packet that flushes the decoder, the last of a file, has no time.
    times = [packet.pts for packet in group if packet.size]
    known = [time for time in times if time is not None]
    return len(known) == len(times) and min(known, default=None) == group[0].pts


def _end_of(packet: Packet) -> Packet:
    """The packet that makes a decoder give what it holds back."""
    end = Packet()
    end.stream, end.time_base = packet.stream, packet.time_base
    return end
