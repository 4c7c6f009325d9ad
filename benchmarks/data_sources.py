"""What benchmarks/data.py reads: clips of 720p, rewritten and as shards, and the bare decoding libraries beside them."""

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import decord
import numpy as np
from rich.progress import track

from gmscavp.datasets import CentreWindow, ClipDataset, ClipError, Manifest, Shards, probe, write_shards
from gmscavp.datasets.base import list_files
from gmscavp.datasets.decoding.media import packets_from, single_thread
from gmscavp.datasets.decoding.skipping import decode_needed, plan_decoding
from gmscavp.datasets.encoding import audio_frames
from gmscavp.datasets.preparing.probing import Measures
from gmscavp.datasets.preparing.rewriting import Form, Rewriting, rewrite
from gmscavp.datasets.video_folder import VIDEO_ENDINGS

if find_spec('torchcodec'):
    from torchcodec.decoders import VideoDecoder

SHORT_SIDE = 720
SIZE, FPS, SAMPLE_RATE = 256, 4.0, 16_000
BACKENDS = ('pyav', 'decord', *(['torchcodec'] if find_spec('torchcodec') else []))


class Window(NamedTuple):
    """Seconds of a file below a folder that are read as one clip."""

    file: str
    start_s: float
    duration_s: float

    @property
    def times_s(self) -> np.ndarray:
        """(T,) when the wanted frames are on screen."""
        return self.start_s + (np.arange(round(self.duration_s * FPS)) + 0.5) / FPS


def large_clips(folder: Path, count: int, duration_s: float) -> list[str]:
    """Files of the folder with a short side of 720 pixels or more, and long enough."""
    found: list[str] = []
    for name in list_files(folder, VIDEO_ENDINGS):
        try:
            info = probe(folder / name)
        except ClipError as error:
            print(f'left out: {error}')
            continue
        if min(info.width, info.height) >= SHORT_SIDE and info.duration_s >= duration_s and info.has_audio:
            found.append(name)
        if len(found) == count:
            break
    return found


def render_clips(folder: Path, count: int, length_s: float) -> list[str]:
    """Render 1280 x 720 clips as cameras and the web make them: h264 with B frames, a key frame seldom, stereo AAC."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f'rendered{number}_{length_s:g}s.mp4' for number in range(count)]
    for number, name in enumerate(track(names, 'rendering 720p clips', transient=True)):
        if not (folder / name).is_file():
            part = folder / f'.{name}'
            _render(part, (25, 30, 24)[number % 3], length_s, np.random.default_rng(number))
            part.rename(folder / name)
    return names


def _render(file: Path, fps: int, length_s: float, rng: np.random.Generator) -> None:
    with av.open(str(file), 'w', format='mp4') as container:
        video = container.add_stream('libx264', rate=fps, options={'preset': 'veryfast', 'crf': '23'})
        video.width, video.height, video.pix_fmt = 1280, SHORT_SIDE, 'yuv420p'
        video.codec_context.thread_count = 1
        audio = container.add_stream('aac', rate=44_100, layout='stereo')
        for number, picture in enumerate(_pictures(round(fps * length_s), fps, rng)):
            frame = av.VideoFrame.from_ndarray(picture, format='rgb24')
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        times = np.arange(round(44_100 * length_s)) / 44_100
        wave = (0.3 * np.sin(2 * np.pi * 440 * times) + 0.02 * rng.standard_normal(len(times))).astype(np.float32)
        for mono in audio_frames(wave, 0, len(wave), 44_100):
            both: Any = np.repeat(mono.to_ndarray(), 2, 0)
            stereo = av.AudioFrame.from_ndarray(both, format='fltp', layout='stereo')
            stereo.sample_rate = 44_100
            container.mux(audio.encode(stereo))
        container.mux(audio.encode(None))


def _pictures(count: int, fps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """A textured background that pans, with four discs that move across it."""
    coarse = rng.integers(0, 256, (56, 100, 3), np.uint8)
    background = cv2.resize(coarse, (1600, 900), interpolation=cv2.INTER_CUBIC)
    background = cv2.add(background, rng.integers(0, 24, background.shape, np.uint8))
    for number in range(count):
        time = number / fps
        x, y = int(160 * (1 + np.sin(1.3 * time))), int(90 * (1 + np.cos(0.9 * time)))
        picture = background[y : y + SHORT_SIDE, x : x + 1280].copy()
        for disc in range(4):
            centre = (640 + 500 * np.sin((1 + disc / 2) * time), 360 + 280 * np.cos((1.3 + disc / 3) * time + disc))
            colour = (60 * disc, 255 - 50 * disc, 128)
            cv2.circle(picture, (int(centre[0]), int(centre[1])), 60 + 10 * disc, colour, -1)
        yield picture


def rewrite_clips(folder: Path, names: Sequence[str], out: Path) -> None:
    """The same clips in the form that tools/prepare_data.py --rewrite gives them."""
    for name in track(names, 'rewriting', transient=True):
        if not (out / name).is_file():
            info = probe(folder / name)
            measured = Measures(0.0, info.duration_s, info.width, info.height, info.fps, info.sample_rate, 0, 0, 0)
            trouble = rewrite(Rewriting(str(folder / name), str(out / name), measured, Form()))
            if trouble:
                print(f'left out: {name}: {trouble}')


def clips_of(folder: Path, windows: Sequence[Window], backend: str) -> ClipDataset:
    """A data set of these windows, as from a manifest that tools/prepare_data.py wrote."""
    columns: dict[str, list[Any]] = {
        'file': [window.file for window in windows],
        'clip_id': [f'{window.file}@{window.start_s}' for window in windows],
        'start_s': [window.start_s for window in windows],
        'end_s': [window.start_s + window.duration_s for window in windows],
    }
    clip = dict(duration_s=windows[0].duration_s, fps=FPS, size=SIZE, sample_rate=SAMPLE_RATE, backend=backend)
    return ClipDataset(Manifest.from_columns(columns, 'benchmark'), folder, clip, dict(type=CentreWindow), (), False)


def shards_of(folder: Path, names: Sequence[str], out: Path, duration_s: float) -> Shards:
    """The same clips as shards."""
    manifest = Manifest.from_columns({'file': list(names), 'split': ['train'] * len(names)}, 'benchmark')
    write_shards(manifest, folder, out, fps=FPS, size=SIZE, sample_rate=SAMPLE_RATE, workers=1, force=True)
    return read_shards(out, duration_s)


def read_shards(out: Path, duration_s: float, transforms: Sequence[Mapping[str, Any]] = ()) -> Shards:
    """A data set of shards that are written."""
    clip = dict(duration_s=duration_s, fps=FPS, size=SIZE, sample_rate=SAMPLE_RATE)
    return Shards(str(out), clip, dict(type=CentreWindow), transforms, False)


# The libraries alone: the frames and the sound of a window, decoded and let go.


def bare_sound(container: Any, window: Window) -> None:
    """Decode the sound of a window."""
    stream = container.streams.audio[0]
    single_thread(stream)
    container.seek(int(window.start_s / stream.time_base), stream=stream)
    for frame in container.decode(stream):
        if frame.time > window.start_s + window.duration_s:
            return


def bare_pyav(folder: Path, window: Window) -> None:
    """From the key frame before the window, every frame up to the last wanted one."""
    with av.open(str(folder / window.file)) as container:
        bare_sound(container, window)
        stream = container.streams.video[0]
        single_thread(stream)
        container.seek(int(window.times_s[0] / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time > window.times_s[-1]:
                return


def least_pyav(folder: Path, window: Window) -> None:
    """Only the frames that the wanted ones are made from: what the pipeline decodes, without its conversions."""
    with av.open(str(folder / window.file)) as container:
        bare_sound(container, window)
        stream: Any = container.streams.video[0]
        single_thread(stream)
        packets = packets_from(container, stream, window.times_s[0])
        for _ in decode_needed(plan_decoding(packets, window.times_s / float(stream.time_base))):
            pass


def bare_decord(folder: Path, window: Window) -> None:
    """The wanted frames in full size; sound by PyAV, as in the pipeline."""
    with av.open(str(folder / window.file)) as container:
        bare_sound(container, window)
    reader = decord.VideoReader(str(folder / window.file), ctx=decord.cpu(0), num_threads=1)
    wanted = (window.times_s * reader.get_avg_fps()).astype(int).clip(0, len(reader) - 1)
    reader.get_batch(wanted).asnumpy()


def bare_torchcodec(folder: Path, window: Window) -> None:
    """The wanted frames in full size; sound by PyAV, as in the pipeline."""
    with av.open(str(folder / window.file)) as container:
        bare_sound(container, window)
    decoder = VideoDecoder(str(folder / window.file), num_ffmpeg_threads=1, seek_mode='exact')
    decoder.get_frames_played_at(window.times_s.tolist())


BARE: dict[str, Callable[[Path, Window], None]] = {
    'pyav': bare_pyav,
    'decord': bare_decord,
    'torchcodec': bare_torchcodec,
}


def jpegs_of(shards: Path, frames: int) -> list[bytes]:
    """The frames in the middle of every clip, as the shards hold them."""
    found: dict[str, list[bytes]] = {}
    for shard in sorted(shards.glob('*.tar')):
        with tarfile.open(shard) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if member.name.endswith('.jpg') and content is not None:
                    found.setdefault(member.name.partition('.')[0], []).append(content.read())
    middle = [(clip, max(0, (len(clip) - frames) // 2)) for clip in found.values()]
    return [jpeg for clip, first in middle for jpeg in clip[first : first + frames]]


def bare_jpegs(jpegs: Sequence[bytes]) -> None:
    """Decode pictures."""
    for jpeg in jpegs:
        cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
