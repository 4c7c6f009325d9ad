"""read_clip: sound and picture of the same moments by every backend, and one error for what cannot be had."""

import pickle
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gmscavp.datasets.decoding import BACKENDS, CAUSES, ClipError, probe, read_clip, video
from gmscavp.datasets.decoding.media import open_media
from gmscavp.errors import UserError
from gmscavp.structures import Clip
from tests.media import (
    FRAGMENTED,
    MOOV_FIRST,
    click,
    corner,
    flash,
    moving,
    numbered,
    read_number,
    remux,
    sine,
    write_cover,
    write_media,
)

RATE = 16_000
EVENTS = [0.4, 1.2, 1.92, 2.8]


def _backends() -> list:
    missing = video._torchcodec_error
    skip = pytest.mark.skipif(missing is not None, reason=f'torchcodec cannot be used: {missing!r:.100}')
    return [pytest.param(name, marks=skip if name == 'torchcodec' else ()) for name in BACKENDS]


every_backend = pytest.mark.parametrize('backend', _backends())


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('media')


@pytest.fixture(scope='module')
def media(folder) -> Callable[..., Path]:
    """write_media, each file once."""
    written: dict[str, Path] = {}

    def get(name: str, *arguments, **options) -> Path:
        if name not in written:
            written[name] = write_media(folder / name, *arguments, **options)
        return written[name]

    return get


@pytest.fixture(scope='module')
def plain(media) -> Path:
    return media('plain.mp4', numbered(), sine())


def _read(file: Path, start_s: float = 0.0, duration_s: float = 1.0, fps: float = 16, size=64, **options) -> Clip:
    return read_clip(file, start_s, duration_s, fps, size, options.pop('sample_rate', RATE), **options)


def _cause(file: Path, *arguments, **options) -> str:
    with pytest.raises(ClipError) as caught:
        _read(file, *arguments, **options)
    assert str(file) in str(caught.value)
    assert caught.value.cause in str(caught.value)
    assert caught.value.cause in CAUSES
    return caught.value.cause


def _numbers(clip: Clip) -> list[int]:
    return [read_number(frame.numpy()) for frame in clip.video]


def _shown(start_s: float, duration_s: float, fps: float, source_fps: float = 25) -> list[int]:
    """The numbers of the frames of `numbered` on screen, by plain arithmetic."""
    times = start_s + (np.arange(round(duration_s * fps)) + 0.5) / fps
    return [round(np.floor((time + 1e-3) * source_fps) / source_fps * 100) for time in times]


def _tone_error(audio: torch.Tensor, hertz: float, level: float, start_s: float, sample_rate: int = RATE) -> np.ndarray:
    times = start_s + np.arange(len(audio)) / sample_rate
    return np.abs(audio.numpy() - level * np.sin(2 * np.pi * hertz * times))


# Shape and meaning of a clip


@every_backend
def test_a_clip_has_the_promised_shapes_and_types(plain, backend):
    clip = _read(plain, 0.3, 1.27, 15, 32, backend=backend, sample_rate=22_050)
    assert clip.video.shape == (round(1.27 * 15), 3, 32, 48)
    assert clip.video.dtype == torch.uint8
    assert clip.video.is_contiguous()
    assert clip.audio.shape == (round(1.27 * 22_050),)
    assert clip.audio.dtype == torch.float32
    assert clip.audio.abs().max() <= 1
    assert clip.start_s == 0.3


@every_backend
@pytest.mark.parametrize(
    ('size', 'shape'), [(48, (48, 72)), ((40, 40), (40, 40)), ((96, 32), (96, 32)), (33, (33, 50))]
)
def test_size_is_the_short_side_or_the_exact_shape(plain, backend, size, shape):
    assert _read(plain, size=size, backend=backend).video.shape[2:] == shape


@every_backend
@pytest.mark.parametrize('width', [16, 24, 31, 32, 48, 64, 96, 100])
def test_every_width_gives_the_same_picture(media, backend, width):
    file = media('wide.mp4', moving((64, 96)), sine())
    ours, reference = (_read(file, size=(40, width), backend=name).video.float() for name in (backend, 'pyav'))
    # decord scales colours more coarsely than the others; rows out of step would give 40 and more.
    assert (ours - reference).abs().mean() < (12 if backend == 'decord' else 3)


@every_backend
def test_odd_sizes_and_oblong_pixels_are_read(media, backend):
    odd = media('odd.mp4', moving((49, 65)), sine(), pixel_format='yuv444p')
    assert _read(odd, size=49, backend=backend).video.shape[2:] == (49, 65)
    oblong = media('oblong.mp4', moving((64, 64)), sine(), pixel_shape=2)
    assert _read(oblong, size=32, backend=backend).video.shape[2:] == (32, 64)
    assert (probe(oblong).width, probe(oblong).height) == (128, 64)


@every_backend
@pytest.mark.parametrize('rotation', [90, 180, 270])
@pytest.mark.parametrize('size', [64, (64, 64)])
def test_a_rotated_file_is_read_upright(media, backend, rotation, size):
    file = media(f'rotated{rotation}.mp4', corner(), sine(), rotation=rotation)
    frame = _read(file, size=size, backend=backend).video[3].permute(1, 2, 0).numpy()
    upright = np.rot90(corner()(0.0), rotation // 90)
    rows, columns = (
        np.linspace(0, n - 1, m).round().astype(int) for n, m in zip(upright.shape, frame.shape[:2], strict=False)
    )
    assert np.abs(frame.astype(int) - upright[rows][:, columns]).mean() < 12
    info = probe(file)
    assert info.rotation == rotation
    assert (info.height, info.width) == upright.shape[:2]


# Time


@every_backend
@pytest.mark.parametrize('start_s', [0.0, 0.37, 1.004])
@pytest.mark.parametrize('fps', [16, 30])
@pytest.mark.parametrize('source', ['25', '29.97', 'vfr', 'late picture', 'late sound', 'late.mkv', 'webm'])
def test_flash_and_click_are_in_sync_within_half_a_frame(media, backend, source, fps, start_s):
    options: dict = {'fps': 25}
    name = f'sync {source}.mp4'
    events = EVENTS
    match source:
        case '29.97':
            options = {'fps': 30_000 / 1001}
            events = [round(event * 30_000 / 1001) * 1001 / 30_000 for event in EVENTS]
        case 'vfr':
            gaps = np.random.default_rng(0).uniform(0.01, 0.09, 100)
            times = np.cumsum(gaps) - gaps[0]
            events = [float(times[np.searchsorted(times, event)]) for event in EVENTS]
            options = {'frame_times': times[times < 4]}
        case 'late picture':
            options = {'video_start_s': 0.28}
        case 'late sound':
            options = {'audio_start_s': 0.28}
        case 'late.mkv':
            name, options = 'sync late.mkv', {'video_start_s': 0.28}
        case 'webm':
            name = 'sync.webm'
            options = {'video_codec': 'libvpx-vp9', 'audio_codec': 'libopus', 'sample_rate': 48_000}
            options['video_options'] = {'deadline': 'realtime', 'cpu-used': '8'}
    file = media(name, flash(events), click(events), **options)
    clip = _read(file, start_s, 2.5, fps, 32, backend=backend)
    lit = clip.video.float().mean((1, 2, 3)) > 127
    loud = clip.audio.abs() > 0.3
    for event in [event - start_s for event in events if 0.05 < event - start_s < 2.4]:
        frames = torch.nonzero(lit[1:] & ~lit[:-1]).flatten() + 1
        seen = min((int(frame) / fps for frame in frames), key=lambda time: abs(time - event))
        heard = int(torch.nonzero(loud[max(int((event - 0.1) * RATE), 0) :])[0]) / RATE + max(event - 0.1, 0)
        assert abs(seen - event) <= 0.5 / fps + 2e-3
        assert abs(heard - event) < 3e-3
        assert abs(seen - heard) <= 0.5 / fps + 3e-3


HARD: dict[str, tuple[str, dict]] = {
    'long gop': ('long.mp4', {'gop': 250}),
    'open gop': ('open.mp4', {'video_options': {'x264-params': 'open_gop=1:bframes=3:scenecut=0'}}),
    'hevc': ('hevc.mp4', {'video_codec': 'libx265', 'video_options': {'x265-params': 'log-level=none'}}),
    'av1': ('av1.mp4', {'video_codec': 'libsvtav1', 'video_options': {'preset': '12'}}),
    'vp8': ('vp8.webm', {'video_codec': 'libvpx', 'audio_codec': 'libopus', 'sample_rate': 48_000}),
    'cut': ('long.mp4', {'gop': 250}),
    'stream': ('stream.ts', {}),
    'fragments': ('fragments.mp4', {'container_options': FRAGMENTED}),
    'live': ('live.mkv', {'container_options': {'live': '1'}}),
}
WEBM = {
    'video_codec': 'libvpx-vp9',
    'audio_codec': 'libopus',
    'sample_rate': 48_000,
    'video_options': {'deadline': 'realtime', 'cpu-used': '8'},
}
HARD['vp8'][1]['video_options'] = {'cpu-used': '16', 'auto-alt-ref': '1', 'lag-in-frames': '16', 'arnr-maxframes': '5'}


def _hard_file(name: str, media, folder: Path) -> Path:
    """A file whose frames are hard to find."""
    file_name, options = HARD[name]
    file = media(file_name, numbered(), sine(), **options)
    return remux(file, folder / 'cut.mp4', shift_s=0.6) if name == 'cut' else file


def _picture_starts_s(file: Path) -> float:
    """How much later than the file the picture starts: some containers show nothing while frames are put in order."""
    with av.open(str(file)) as container:
        starts = [float(stream.start_time * stream.time_base) for stream in container.streams]
        return starts[0] - min(starts)


@every_backend
@pytest.mark.parametrize('name', HARD)
def test_frames_are_the_ones_on_screen_in_files_where_they_are_hard_to_find(media, folder, backend, name):
    file = _hard_file(name, media, folder)
    shift_s = 0.6 if name == 'cut' else -_picture_starts_s(file)
    for start_s, duration_s, fps in [(0.0, 1.0, 25), (0.1, 2.0, 8), (1.32, 1.0, 16), (2.0, 1.2, 4)]:
        clip = _read(file, start_s, duration_s, fps, (64, 100), backend=backend)
        expected = [max(number, 0) for number in _shown(start_s + shift_s, duration_s, fps)]
        assert _numbers(clip) == expected


@every_backend
@pytest.mark.parametrize('extension', ['mp4', 'mkv'])
def test_a_window_of_a_window_is_the_same_clip(media, backend, extension):
    file = media(f'nested.{extension}', moving(), sine(300), audio_codec='aac')
    whole, part = _read(file, 0, 4, backend=backend), _read(file, 1, 2, backend=backend)
    assert torch.equal(whole.video[16:48], part.video)
    assert (whole.audio[RATE : 3 * RATE] - part.audio).abs().max() < 0.02


def test_a_window_of_lossless_sound_is_exactly_that_of_the_whole(media):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44_100 * 4)
    file = media('lossless.mov', moving(), lambda times: noise[: len(times)], audio_codec='pcm_s16le')
    whole = _read(file, 0, 4).audio
    for start_s in (0.25, 1.0, 2.35):
        begin = round(start_s * RATE)
        torch.testing.assert_close(_read(file, start_s).audio, whole[begin : begin + RATE], atol=1e-6, rtol=0)


@every_backend
def test_the_file_may_end_a_little_before_the_window(media, backend):
    file = media('short sound.mp4', numbered(), sine(), audio_s=3.94)
    clip = _read(file, 3.0, 1.0, 25, (64, 100), backend=backend)
    assert clip.audio[-int(0.04 * RATE) :].abs().max() < 1e-3
    clip = _read(file, 3.03, 1.0, 25, (64, 100), backend=backend)
    assert _numbers(clip)[-1] == 396
    assert _cause(file, 3.1, 1.0, backend=backend) == 'too short'
    assert probe(file).duration_s == pytest.approx(3.94, abs=0.03)


# Sound


@pytest.mark.parametrize('layout', ['mono', 'stereo', '5.1'])
@pytest.mark.parametrize('source_rate', [8_000, 22_050, 44_100, 48_000])
def test_pitch_and_level_survive_any_layout_and_rate_up_to_the_edges(media, source_rate, layout):
    def sound(times: np.ndarray) -> np.ndarray:
        wave = np.tile(sine(440, 0.5)(times), (6 if layout == '5.1' else 1, 1))
        if layout == '5.1':
            wave[3] = 0.9  # the low-frequency channel of FFmpeg's order, which must not be heard
        return wave

    file = media(
        f'{source_rate} {layout}.mov', moving(), sound, sample_rate=source_rate, layout=layout, audio_codec='pcm_s16le'
    )
    for start_s, sample_rate in [(1.0, RATE), (0.7003, RATE), (1.0, 32_000)]:
        audio = _read(file, start_s, 1.0, sample_rate=sample_rate).audio
        # Half a source sample is as near as the window can be placed.
        allowed = 0.5 * 2 * np.pi * 440 * 0.5 / source_rate + 0.004
        assert _tone_error(audio, 440, 0.5, start_s, sample_rate).max() < allowed


@pytest.mark.parametrize('codec', ['aac', 'libmp3lame', 'libopus', 'flac'])
def test_lossy_sound_is_right_from_the_first_sample_of_a_window(media, codec):
    rate = 48_000 if codec == 'libopus' else 44_100
    # Matroska's times are whole milliseconds, so half of one is as near as the sound can be placed.
    file = media(f'{codec}.mkv', moving(), sine(440, 0.5), audio_codec=codec, sample_rate=rate)
    for start_s in (0.2, 1.0, 2.517):
        audio = _read(file, start_s).audio.numpy()
        times = start_s + np.arange(len(audio)) / RATE
        tone = 2 * (audio * np.exp(-2j * np.pi * 440 * times)).mean()
        assert abs(tone) == pytest.approx(0.5, rel=0.04)
        assert abs(np.angle(1j * tone)) / (2 * np.pi * 440) < 6e-4
        assert np.abs(audio - (tone * np.exp(2j * np.pi * 440 * times)).real).max() < 0.03


def test_jittering_times_tear_no_holes_into_the_sound(media, folder):
    """Films re-encoded from the web have sound blocks up to 20 ms off, with no sound missing between them."""
    whole = media('steady.mp4', moving(), sine(440, 0.5), gop=25)
    rng = np.random.default_rng(0)
    offsets = rng.choice([0.0, 0.0, 0.0, -0.01, 0.01], 1000)
    file = remux(
        whole,
        folder / 'jitter.mp4',
        jitter=lambda kind, time: offsets[round(time * 44_100 / 1024)] if kind == 'audio' else 0.0,
    )
    assert _tone_error(_read(file, 1.0, 2.0).audio, 440, 0.5, 1.0).max() < 0.05


def test_rates_without_a_common_divisor_do_not_blow_up(media):
    file = media('odd rate.mov', moving(), sine(440, 0.5), sample_rate=44_101, audio_codec='pcm_s16le')
    assert _tone_error(_read(file, 1.0, 2.0).audio, 440, 0.5, 1.0).max() < 0.04


# What cannot be had


def _png() -> bytes:
    context = av.CodecContext.create('png', 'w')
    context.width, context.height, context.pix_fmt, context.time_base = 64, 64, 'rgb24', Fraction(1, 1)
    return b''.join(bytes(packet) for packet in context.encode(av.VideoFrame(64, 64, 'rgb24')))


def _bad_file(name: str, media, folder: Path) -> Path:
    file = folder / f'bad {name}.mp4'
    whole = media('whole.mp4', numbered(), sine())
    first = media('index first.mp4', numbered(), sine(), container_options=MOOV_FIRST)

    def beginning(of: Path) -> bytes:
        return of.read_bytes()[: of.stat().st_size * 6 // 10]

    makers: dict[str, Callable[[], object]] = {
        'missing': lambda: None,
        'folder': lambda: file.mkdir(exist_ok=True),
        'empty': lambda: file.write_bytes(b''),
        'text': lambda: file.write_text('This is not a film.\n' * 200),
        'playlist': lambda: file.write_text(f'ffconcat version 1.0\nfile {whole.name}\n'),
        'photo': lambda: file.write_bytes(_png()),
        'noise': lambda: file.write_bytes(np.random.default_rng(0).bytes(20_000)),
        'cut off, index first': lambda: file.write_bytes(beginning(first)),
        'cut off, index last': lambda: file.write_bytes(beginning(whole)),
        'cut off, webm': lambda: file.write_bytes(beginning(media('whole.webm', numbered(), sine(), **WEBM))),
        'silent': lambda: media(file.name, numbered(), None),
        'blind': lambda: media(file.name, None, sine()),
        'music with a cover': lambda: write_cover(file),
        '0.2 s long': lambda: media(file.name, numbered(), sine(), duration_s=0.2),
        'hole in the sound': lambda: remux(
            whole, file, keep=lambda kind, time: kind == 'video' or not 2.8 < time < 3.3
        ),
        'not a number': lambda: write_media(
            file.with_suffix('.mov'),
            numbered(),
            lambda times: np.where(times > 2.9, np.nan, 0.1),
            audio_codec='pcm_f32le',
        ).rename(file),
        'unknown codec': lambda: file.write_bytes(whole.read_bytes().replace(b'avc1', b'zzzz')),
        'ribbon': lambda: media(file.name, moving((16, 320)), sine()),
    }
    makers[name]()
    return file


BAD = {
    'missing': 'missing file',
    'folder': 'missing file',
    'empty': 'empty file',
    'text': 'not a media file',
    'playlist': 'not a media file',
    'photo': 'not a media file',
    'noise': 'not a media file',
    'cut off, index first': 'truncated audio',
    'cut off, index last': 'damaged',
    'cut off, webm': 'truncated audio',
    'silent': 'no audio track',
    'blind': 'no video track',
    'music with a cover': 'no video track',
    '0.2 s long': 'too short',
    'hole in the sound': 'truncated audio',
    'not a number': 'damaged',
    'ribbon': 'odd shape',
    'unknown codec': 'unsupported',
}


@every_backend
@pytest.mark.parametrize('name', BAD)
def test_a_bad_file_says_what_is_wrong_with_it(media, folder, backend, name, capfd):
    assert _cause(_bad_file(name, media, folder), 2.5, 1.0, backend=backend) == BAD[name]
    assert capfd.readouterr().err == ''


@every_backend
def test_pictures_that_end_before_the_sound_are_too_short(media, folder, backend):
    whole = media('whole.mp4', numbered(), sine())
    file = remux(whole, folder / 'early.mp4', keep=lambda kind, time: kind == 'audio' or time < 1.9)
    assert _cause(file, 1.5, 1.0, backend=backend) == 'too short'
    assert _read(file, 0.5, 1.0, backend=backend).video.shape[0] == 16
    assert probe(file).duration_s == pytest.approx(1.9, abs=0.05)


@every_backend
@pytest.mark.parametrize('name', ['cut off, index first', 'cut off, webm'])
def test_pictures_that_end_before_the_header_says_so_are_damage(media, folder, backend, name):
    with pytest.raises(ClipError) as caught, open_media(_bad_file(name, media, folder)) as container:
        BACKENDS[backend](container, container.streams.video[0], np.arange(2.5, 3.5, 0.1), 64)
    assert caught.value.cause == 'damaged'


@every_backend
def test_pictures_that_end_where_no_header_says_so_are_too_short(media, folder, backend):
    """Sound may go on; a last picture that stays for longer than it lasts would be a still that nobody filmed."""
    live = _hard_file('live', media, folder)
    file = remux(live, folder / 'early.mkv', container_options={'live': '1'}, keep=_only_early_pictures)
    assert _read(file, 0.5, 1.0, backend=backend).video.shape[0] == 16
    assert _cause(file, 1.5, 1.0, backend=backend) == 'too short'


def _only_early_pictures(kind: str, time: float) -> bool:
    return kind == 'audio' or time < 1.9


@every_backend
def test_the_whole_part_of_a_cut_off_file_is_read(media, folder, backend):
    clip = _read(_bad_file('cut off, index first', media, folder), 0.5, 1.0, 25, (64, 100), backend=backend)
    assert _numbers(clip) == _shown(0.5, 1.0, 25)


@pytest.mark.parametrize('backend', ['pyav', 'decord'])
def test_a_picture_that_the_index_puts_beyond_the_end_is_damage_and_not_one_that_stays(media, folder, backend):
    data = bytearray(media('gop.mp4', numbered(), sine(), gop=10, container_options=MOOV_FIRST).read_bytes())
    # The sizes of samples, 4 bytes each, after the box's type, flags, common size and count; 50 is a key frame.
    place = data.index(b'stsz') + 16 + 4 * 50
    data[place] = 1
    file = folder / 'beyond.mp4'
    file.write_bytes(data)
    if backend == 'pyav':
        # decord decodes ahead, and may or may not come to the damage.
        assert _numbers(_read(file, 0.5, 1.0, 25, (64, 100), backend=backend)) == _shown(0.5, 1.0, 25)
    assert _cause(file, 1.5, 1.0, backend=backend) == 'damaged'


def test_decord_is_not_given_more_promised_frames_than_the_file_has_bytes(media, folder, monkeypatch):
    data = bytearray(media('whole.webm', numbered(), sine(), **WEBM).read_bytes())
    # Matroska's Duration: its name, a size of 8 bytes, milliseconds.
    place = data.index(b'\x44\x89\x88') + 3
    data[place : place + 8] = struct.pack('>d', 8e12)
    file = folder / 'promise.webm'
    file.write_bytes(data)
    # It would end this process.
    monkeypatch.delattr(video.decord, 'VideoReader')
    assert _numbers(_read(file, 0.5, 1.0, 25, (64, 100), backend='decord')) == _shown(0.5, 1.0, 25)


@every_backend
def test_flipped_bits_give_a_clip_or_a_clip_error(media, folder, backend):
    whole = media('flipped.mp4', moving(), sine(), container_options=MOOV_FIRST).read_bytes()
    file = folder / f'flipped {backend}.mp4'
    causes = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        data = np.frombuffer(whole, np.uint8).copy()
        # The first few kilobytes are the index, the rest is payload.
        places = rng.integers(0, len(data) if seed % 2 else 6000, 10)
        data[places] ^= (1 << rng.integers(0, 8, 10)).astype(np.uint8)
        file.write_bytes(data.tobytes())
        try:
            clip = _read(file, 1.5, 1.0, backend=backend)
        except ClipError as error:
            causes.add(error.cause)
        else:
            assert clip.video.shape == (16, 3, 64, 96)
            assert clip.audio.shape == (RATE,)
            assert clip.audio.isfinite().all()
    assert 'damaged' in causes


@every_backend
def test_open_files_do_not_pile_up(plain, media, folder, backend):
    bad = [_bad_file(name, media, folder) for name in ('text', 'silent', 'cut off, index first', 'cut off, index last')]
    descriptors = Path('/proc/self/fd')
    if not descriptors.is_dir():
        pytest.skip('this system does not list open files')
    before = None
    for turn in range(40):
        _read(plain, turn / 20, 0.5, 4, 16, backend=backend)
        for file in bad:
            with pytest.raises(ClipError):
                _read(file, 2.5, 1.0, backend=backend)
        if turn == 2:
            before = len(list(descriptors.iterdir()))
    assert len(list(descriptors.iterdir())) <= before


class _Clips(torch.utils.data.Dataset):
    def __init__(self, file: Path, backend: str) -> None:
        self.file, self.backend = file, backend

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return _read(self.file, index / 2, backend=self.backend).video


@every_backend
@pytest.mark.timeout(60)
def test_workers_read_after_the_parent_has_read(plain, backend):
    here = _read(plain, backend=backend).video
    loader = DataLoader(_Clips(plain, backend), num_workers=1, multiprocessing_context='fork', timeout=30)
    assert torch.equal(next(iter(loader))[0], here)


def test_a_clip_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ClipError('a.mp4', 'damaged', 'by the sea')))
    assert (error.file, error.cause, error.detail) == ('a.mp4', 'damaged', 'by the sea')
    assert str(error) == 'a.mp4: damaged (by the sea)'


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('start_s', -1.0),
        ('start_s', float('nan')),
        ('duration_s', 0.0),
        ('duration_s', float('inf')),
        ('fps', -4.0),
        ('fps', 0.1),
        ('size', 0),
        ('size', (32, 32, 3)),
        ('size', (32, 0)),
        ('sample_rate', 0),
        ('backend', 'decrod'),
    ],
)
def test_senseless_arguments_are_named(plain, name, value):
    arguments = {'start_s': 0.0, 'duration_s': 1.0, 'fps': 16, 'size': 32, 'sample_rate': RATE, name: value}
    with pytest.raises(UserError, match=name) as caught:
        read_clip(plain, **arguments)
    assert not isinstance(caught.value, ClipError)


@pytest.mark.parametrize(
    'error', [ImportError('No module named torchcodec'), RuntimeError('Could not load libtorchcodec')]
)
def test_a_missing_backend_says_how_to_install_it(plain, monkeypatch, error):
    monkeypatch.setattr(video, '_torchcodec_error', error)
    with pytest.raises(UserError, match=r'pip install -c requirements/constraints.txt gmscavp\[torchcodec\]') as caught:
        _read(plain, backend='torchcodec')
    assert ('FFmpeg' in str(caught.value)) == isinstance(error, RuntimeError)


# Headers


def test_probe_tells_what_is_in_a_file(media):
    info = probe(media('probe.mp4', moving((48, 80)), sine(), fps=30_000 / 1001, sample_rate=22_050, audio_s=3.0))
    assert (info.width, info.height, info.rotation) == (80, 48, 0)
    assert info.fps == pytest.approx(29.97, abs=0.01)
    assert (info.sample_rate, info.channels, info.has_video, info.has_audio) == (22_050, 2, True, True)
    assert info.duration_s == pytest.approx(3.0, abs=0.05)


def test_probe_of_one_track_leaves_the_other_at_zero(media, folder):
    silent, blind = (probe(_bad_file(name, media, folder)) for name in ('silent', 'blind'))
    assert (silent.has_audio, silent.sample_rate, silent.channels) == (False, 0, 0)
    assert silent.duration_s == pytest.approx(4.0, abs=0.05)
    assert (blind.has_video, blind.width, blind.fps) == (False, 0, 0.0)
    assert blind.duration_s == pytest.approx(4.0, abs=0.05)


@pytest.mark.parametrize('name', ['live', 'fragments', 'stream'])
def test_probe_finds_the_length_that_no_header_tells(media, folder, name):
    file = _hard_file(name, media, folder)
    assert probe(file).duration_s == pytest.approx(4.0, abs=0.1)
    assert _cause(file, 3.5, 1.0) == 'too short'


@pytest.mark.parametrize('name', ['missing', 'folder', 'empty', 'text', 'cut off, index last', 'unknown codec'])
def test_probe_of_a_file_that_does_not_open_is_a_clip_error(media, folder, name):
    with pytest.raises(ClipError) as caught:
        probe(_bad_file(name, media, folder))
    assert caught.value.cause == BAD[name]


# Real clips


@every_backend
def test_backends_agree_on_real_clips(real_data, backend):
    files = sorted((real_data / 'clips').glob('*.mp4'))
    for file in files[:: max(len(files) // 20, 1)]:
        start_s = (probe(file).duration_s - 1.5) * 0.6
        ours, reference = (_read(file, start_s, 1.5, 16, 64, backend=name) for name in (backend, 'pyav'))
        assert (ours.video.float() - reference.video.float()).abs().mean() < (6 if backend == 'decord' else 2)
        assert torch.equal(ours.audio, reference.audio)
        assert ours.audio.abs().max() > 0
