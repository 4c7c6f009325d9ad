"""Write clips as mp4 files: h264 picture and AAC sound that start together and last as long as they were given."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from gmscavp.errors import UserError

AUDIO_BITS_PER_SAMPLE = 4


def write_clip(
    file: str | Path,
    frames: np.ndarray,
    fps: float,
    audio: np.ndarray,
    sample_rate: int,
    *,
    crf: int = 18,
    gop: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write (T, H, W, 3) uint8 frames and (S,) float32 audio in [-1, 1] as one mp4 (h264 yuv420p, AAC mono).

    Frame k is shown from k / fps, sample n is heard at n / sample_rate. crf: h264 quality, 0 (lossless) to 51. gop:
    frames from one key frame to the next, None for one second. metadata: tags of the file under the names that mp4
    knows ('title', 'comment', 'artist', ...). The file is written under a temporary name beside the final one and
    then renamed, so a partial file never stands under the final name.

    ValueError: an array has another shape or type, H or W is odd, or the audio leaves [-1, 1].
    UserError: this PyAV has no h264 or AAC encoder. OSError: the disk refuses.
    """
    write_clip_parts(file, [(frames, audio)], fps, sample_rate, crf=crf, gop=gop, metadata=metadata)


def write_clip_parts(
    file: str | Path,
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
    fps: float,
    sample_rate: int,
    *,
    crf: int = 18,
    gop: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """As write_clip, of parts that follow each other: all frames and all samples are never held at once.

    Every part brings (T, H, W, 3) frames and (S,) samples; frames and samples are counted on from part to part.
    """
    target = Path(file)
    partial = target.with_name(f'.{target.name}.{os.getpid()}.part')
    try:
        # The index goes to the front, so that players and loaders need not read a file to its end to open it.
        with av.open(str(partial), 'w', format='mp4', options={'movflags': 'faststart'}) as container:
            container.metadata.update(metadata or {})
            rate = Fraction(fps).limit_denominator(100_000)
            encoder: _Encoder | None = None
            for frames, audio in parts:
                _check_arrays(frames, audio)
                encoder = encoder or _Encoder(container, frames.shape[1:3], rate, sample_rate, crf, gop)
                encoder.add(frames, audio)
            if encoder is None:
                raise ValueError('parts: there are none')
            encoder.finish()
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _check_arrays(frames: np.ndarray, audio: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f'frames: expected (T, H, W, 3) uint8 with T > 0, got {frames.shape} {frames.dtype}')
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f'frames: yuv420p needs an even height and width, got {frames.shape[1]} x {frames.shape[2]}')
    if audio.ndim != 1 or audio.dtype != np.float32 or len(audio) == 0:
        raise ValueError(f'audio: expected (S,) float32 with S > 0, got {audio.shape} {audio.dtype}')
    if not np.abs(audio).max() <= 1:  # also true for NaN
        raise ValueError(f'audio: expected values in [-1, 1], got a peak of {np.abs(audio).max()}')


def add_pictures(
    container: OutputContainer, size: tuple[int, int], rate: Fraction, crf: int = 18, gop: int | None = None
) -> VideoStream:
    """An h264 stream of (H, W), both even. Encoded by one thread: callers run many files side by side."""
    # Without B frames decoding order is display order, and the picture needs no edit list, which some readers ignore.
    options = {'crf': str(crf), 'preset': 'veryfast', 'g': str(gop or max(1, round(rate))), 'bf': '0'}
    with _in_words():
        video = container.add_stream('libx264', rate=rate, options=options)
    video.height, video.width = size
    video.pix_fmt = 'yuv420p'
    video.codec_context.thread_count = 1
    # Said in the file, so that no reader guesses the matrix from the size of the picture.
    video.codec_context.colorspace = Colorspace.ITU601
    video.codec_context.color_range = ColorRange.MPEG
    return video


def add_sound(container: OutputContainer, sample_rate: int) -> AudioStream:
    """An AAC stream, mono."""
    with _in_words():
        # The default coder takes five times as long for 3 dB (of about 30) less error.
        audio = container.add_stream('aac', rate=sample_rate, layout='mono', options={'aac_coder': 'fast'})
    audio.bit_rate = AUDIO_BITS_PER_SAMPLE * sample_rate
    return audio


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except UnknownCodecError as error:
        raise UserError(f'PyAV cannot encode {error}: install the `av` wheel from PyPI, which brings h264.') from error


class _Encoder:
    """Feeds both encoders in step, so that the file holds picture and sound of the same moment side by side."""

    def __init__(
        self,
        container: OutputContainer,
        size: tuple[int, int],
        rate: Fraction,
        sample_rate: int,
        crf: int,
        gop: int | None,
    ) -> None:
        self.container, self.rate, self.sample_rate = container, rate, sample_rate
        self.video = add_pictures(container, size, rate, crf, gop)
        self.audio = add_sound(container, sample_rate)
        self.frames = self.samples = 0

    def add(self, frames: np.ndarray, audio: np.ndarray) -> None:
        """(T, H, W, 3) and (S,) that follow what was added before."""
        before, heard = self.samples, 0
        for picture in frames:
            self.container.mux(self.video.encode(_video_frame(picture, self.frames, self.rate)))
            self.frames += 1
            until = min(len(audio), int(self.frames / self.rate * self.sample_rate) - before)
            self._hear(audio, heard, until)
            heard = max(heard, until)
        self._hear(audio, heard, len(audio))

    def _hear(self, audio: np.ndarray, start: int, stop: int) -> None:
        for frame in audio_frames(audio, start, stop, self.sample_rate):
            frame.pts = self.samples
            self.samples += frame.samples
            self.container.mux(self.audio.encode(frame))

    def finish(self) -> None:
        """What the encoders still hold."""
        self.container.mux(self.video.encode(None))
        self.container.mux(self.audio.encode(None))


def _video_frame(picture: np.ndarray, index: int, rate: Fraction) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, format='rgb24')
    frame.pts, frame.time_base = index, 1 / rate
    return frame


def audio_frames(audio: np.ndarray, start: int, stop: int, sample_rate: int) -> Iterator[av.AudioFrame]:
    """Samples [start, stop) as frames of at most one second."""
    for first in range(start, stop, sample_rate):
        samples = np.ascontiguousarray(audio[None, first : min(stop, first + sample_rate)])
        frame = av.AudioFrame.from_ndarray(samples, format='fltp', layout='mono')
        frame.sample_rate, frame.time_base = sample_rate, Fraction(1, sample_rate)
        yield frame
