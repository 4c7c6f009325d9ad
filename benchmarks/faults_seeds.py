"""Small whole media files, and rules that damage them; everything follows from numbers, so that any of it is made again."""

import struct
import wave
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from gmscavp.datasets.encoding import write_clip
from gmscavp.datasets.manifest import Manifest
from gmscavp.datasets.shards import write_shards

FPS, RATE, SECONDS = 25, 16_000, 2.0
HEIGHT, WIDTH = 64, 96

# Sides that no recipe uses, 0, and the most that a header's field can say.
_SIDES = (0, 1, 7, 20_000, 65_500, 65_535)
_LENGTHS = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF)
_SECONDS = (0.0, -1.0, 1e9, 1e300, float('inf'), float('nan'))
# Boxes of an mp4 that begin with version, flags and a number of entries.
_TABLES = (b'stts', b'stsz', b'stsc', b'stco', b'stss', b'elst', b'ctts')


def frames_of(count: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(T, H, W, 3) uint8: smooth, and at every moment another."""
    time = np.arange(count)[:, None, None] / FPS
    row, column = np.mgrid[:height, :width]
    phase = 2 * np.pi * (column / width - time / 4)
    colours = 127 + 110 * np.cos(phase), 127 + 100 * np.sin(phase + row / height), 60 + 100 * row / height + 0 * phase
    return np.stack(colours, -1).astype(np.uint8)


def sound_of(seconds: float) -> np.ndarray:
    """(S,) float32: two tones that never fall silent."""
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.4 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 1370 * time)).astype(np.float32)


def write_seeds(folder: Path) -> None:
    """Write all seed files, and one shard, into a folder."""
    frames, sound = frames_of(round(SECONDS * FPS)), sound_of(SECONDS)
    write_clip(folder / 'h264.mp4', frames, FPS, sound, RATE, gop=10)
    _write(folder / 'vp9.webm', frames, sound, 'libvpx-vp9', 'libopus', 48_000)
    _write(folder / 'png.mov', frames[:, ::4, ::4], sound, 'png', 'pcm_s16le', RATE)
    # Large pictures in few bytes.
    _write(folder / 'bomb.mp4', np.zeros((50, 2048, 3072, 3), np.uint8), sound, 'libx264', 'aac', RATE)
    with wave.open(str(folder / 'pcm.wav'), 'wb') as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes((sound * 32767).astype('<i2').tobytes())
    bgr = cv2.cvtColor(frames[0], cv2.COLOR_RGB2BGR)
    (folder / 'frame.jpg').write_bytes(cv2.imencode('.jpg', bgr)[1].tobytes())
    (folder / 'list.csv').write_text('file,split\nh264.mp4,train\n')
    write_shards(
        Manifest.read(folder / 'list.csv'), folder, folder / 'shards', fps=8, size=48, sample_rate=RATE, workers=1
    )
    (folder / 'shard.tar').write_bytes((folder / 'shards/train-000000.tar').read_bytes())


def _write(file: Path, frames: np.ndarray, sound: np.ndarray, video_codec: str, audio_codec: str, rate: int) -> None:
    with av.open(str(file), 'w') as container:
        video = container.add_stream(video_codec, rate=FPS)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = 'rgb24' if video_codec == 'png' else 'yuv420p'
        video.codec_context.gop_size = 10
        fast = {'libvpx-vp9': {'deadline': 'realtime', 'cpu-used': '8'}, 'libx264': {'preset': 'ultrafast'}}
        video.codec_context.options = fast.get(video_codec, {})
        audio = container.add_stream(audio_codec, rate=rate)
        audio.codec_context.layout = 'mono'
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format='rgb24')
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        wave_form = np.interp(np.arange(round(len(sound) / RATE * rate)) / rate, np.arange(len(sound)) / RATE, sound)
        planar = audio_codec == 'aac'
        samples = wave_form.astype(np.float32) if planar else (wave_form * 32767).astype('<i2')
        for first in range(0, len(samples), 960):
            block = samples[None, first : first + 960]
            part = av.AudioFrame.from_ndarray(block, format='fltp' if planar else 's16', layout='mono')
            part.sample_rate, part.pts, part.time_base = rate, first, Fraction(1, rate)
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))


Rule = Callable[[bytes, bytes, np.random.Generator], bytes]


def _flip(data: bytes, other: bytes, rng: np.random.Generator, within: int | None = None) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    count = int(rng.choice([1, 2, 8, 64]))
    places = rng.integers(0, min(within or len(changed), len(changed)), count)
    changed[places] ^= (1 << rng.integers(0, 8, count)).astype(np.uint8)
    return changed.tobytes()


def _header_flip(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    # The index of an mp4 may stand at its end.
    begin = max(data.find(b'moov') - 4, 0)
    return data[:begin] + _flip(data[begin:], other, rng, within=2500 if begin else 600)


def _burst(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    begin, count = int(rng.integers(len(data))), int(rng.integers(1, 4096))
    return data[:begin] + rng.bytes(min(count, len(data) - begin)) + data[begin + count :]


def _hole(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    begin, end = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    return data[:begin] + bytes(end - begin) + data[end:]


def _cut(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data)))]


def _lose(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    begin = int(rng.integers(len(data)))
    return data[:begin] + data[begin + int(rng.integers(1, 2048)) :]


def _repeat(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    begin = int(rng.integers(len(data)))
    return data[:begin] + data[begin : begin + int(rng.integers(1, 2048))] + data[begin:]


def _splice(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    head = int(rng.integers(8, min(4096, len(data), len(other))))
    return other[:head] + data[head:] if rng.random() < 0.5 else other[:head] + data


def _size(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Absurd sizes of pictures, or rates of sound, where the header says them."""
    width, height = (int(side) for side in rng.choice(_SIDES, 2))
    pair, back = struct.pack('>HH', width, height), struct.pack('>HH', height, width)
    if data[:4] == b'RIFF':
        return data[:22] + struct.pack('<HI', width, int(rng.choice([0, 1, 0xFFFFFFFF, 10**6]))) + data[28:]
    if data[:2] == b'\xff\xd8':
        place = data.find(b'\xff\xc0')
        return data[: place + 5] + back + data[place + 9 :]
    if b'IHDR' in data:
        side = struct.pack('>I', int(rng.choice([100_000, 20_000, 0x7FFFFFFF])))
        head = b'IHDR' + side + side + b'\x08\x02\0\0\0'
        parts = data.split(b'IHDR')
        return parts[0] + b''.join(head + struct.pack('>I', zlib.crc32(head)) + part[17:] for part in parts[1:])
    if (place := data.find(b'avc1', data.find(b'stsd'))) >= 0 and data.find(b'stsd') >= 0:
        data = data[: place + 28] + pair + data[place + 32 :]
        track = data.find(b'tkhd')
        return data[: track + 80] + struct.pack('>HHHH', width, 0, height, 0) + data[track + 88 :]
    for name, side in ((b'\xb0\x81', width), (b'\xba\x81', height)):
        if (place := data.find(name)) >= 0:
            data = data[: place + 2] + bytes([side & 0xFF]) + data[place + 3 :]
    # The key frame of VP9 says its size too, behind a fixed code.
    place = data.find(b'\x49\x83\x42')
    return data if place < 0 else data[: place + 4] + pair + data[place + 8 :]


def _duration(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Absurd durations and clocks."""
    length = struct.pack('>I', int(rng.choice(_LENGTHS)))
    if data[:4] == b'RIFF':
        return data[:40] + length + data[44:]
    if (place := data.find(b'\x44\x89\x88')) >= 0:
        return data[: place + 3] + struct.pack('>d', rng.choice(_SECONDS)) + data[place + 11 :]
    name, offset = ((b'mvhd', 16), (b'mvhd', 20), (b'mdhd', 16), (b'mdhd', 20), (b'tkhd', 24), (b'stts', 16))[
        int(rng.integers(6))
    ]
    places = [k for k in range(len(data)) if data.startswith(name, k)]
    for place in places[:2] if rng.random() < 0.5 else places[-1:]:
        data = data[: place + offset] + length + data[place + offset + 4 :]
    return data


def _count(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Tables that claim to be longer than the file, and elements larger than it."""
    name = _TABLES[int(rng.integers(len(_TABLES)))]
    if (place := data.find(name)) >= 0:
        offset = 12 if name == b'stsz' else 8
        count = struct.pack('>I', int(rng.choice([0, 1, 10**6, 10**8, 0x7FFFFFFF, 0xFFFFFFFF])))
        return data[: place + offset] + count + data[place + offset + 4 :]
    place = int(rng.integers(min(len(data), 600)))
    return data[:place] + b'\x08\x7f\xff\xff\xff' + data[place + 5 :]


RULES: dict[str, Rule] = {
    'bits flipped': _flip,
    'header flipped': _header_flip,
    'burst': _burst,
    'zeros': _hole,
    'cut off': _cut,
    'bytes lost': _lose,
    'bytes twice': _repeat,
    'spliced': _splice,
    'absurd size': _size,
    'absurd duration': _duration,
    'absurd count': _count,
}
"""Name -> (a whole file, another whole file, random numbers) -> a damaged file."""


def mutant(folder: Path, seed_file: str, rule: str, number: int) -> bytes:
    """The damaged file of this number."""
    rng = np.random.default_rng([number, *rule.encode()])
    names = ['h264.mp4', 'vp9.webm', 'pcm.wav', 'frame.jpg', 'shard.tar']
    other = (folder / names[int(rng.integers(len(names)))]).read_bytes()
    return RULES[rule]((folder / seed_file).read_bytes(), other, rng)
