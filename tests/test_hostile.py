"""What strangers made is read without running it: weights with code in them, media that lie about their size."""

import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import struct
import warnings
import wave
import zlib
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from gmscavp.datasets.decoding import ClipError, probe, read_clip
from gmscavp.datasets.muxing.spans import sound_span
from gmscavp.datasets.preparing.pool import limit_memory
from gmscavp.datasets.shards.members import jpeg_size, read_jpeg
from gmscavp.engine.sharded_checkpoints import CONTENTS, SUFFIX, write_sharded
from gmscavp.engine.weights import LAYOUTS
from gmscavp.errors import UserError
from gmscavp.inference import Model
from gmscavp.inference.reading import read_sound
from gmscavp.readers import lost_reader, note_reading
from gmscavp.webapp.served import open_served
from tests.generating import write_run
from tests.hostile import Payload, write_evil
from tests.media import MOOV_FIRST, moving, sine, write_media
from tests.running import ROOT, SMALL, refusal_of

CONFIG = 'configs/gmscavp_folder.py'


@pytest.fixture
def mark(tmp_path):
    """What the payload would make; looked for after every test."""
    path = tmp_path / 'mark'
    yield path
    assert not path.exists()


@pytest.fixture
def evil(tmp_path, mark):
    """A run's checkpoint with code in it."""
    return write_evil(tmp_path / 'evil.pth', mark)


def test_the_payload_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / 'made')))
    assert (tmp_path / 'made').is_dir()


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Run a tool in this process; return its one sentence of refusal."""

    def run(name, *arguments):
        code, out, said = refusal_of(monkeypatch, capsys, name, *arguments)
        assert code not in (0, None)
        assert 'Traceback' not in out + said
        return said.strip()

    return run


@pytest.fixture
def options(tmp_path):
    """A folder that looks like clips: nothing gets as far as reading them."""
    videos = tmp_path / 'videos'
    videos.mkdir()
    for number in range(8):
        (videos / f'{number}.mp4').touch()
    splits = ''.join(f'{number}.mp4,{"test" if number % 2 else "train"}\n' for number in range(8))
    (videos / 'manifest.csv').write_text(f'file,split\n{splits}')
    return ['--cfg-options', f'data_root={videos}', *(f'{name}={value}' for name, value in SMALL.items())]


WORDS = 'holds more than tensors and plain values'


@pytest.mark.parametrize('how', ['resume from', 'resume auto', 'load_from', 'init'])
def test_train_runs_nothing_of_a_checkpoint(refusal, evil, tmp_path, options, how):
    work_dir = tmp_path / 'run'
    more = {
        'resume from': ['--resume', evil],
        'resume auto': ['--resume'],
        'load_from': [],
        'init': [],
    }[how]
    if how == 'resume auto':
        work_dir.mkdir()
        evil.rename(work_dir / 'epoch_1.pth')
    setting = {'load_from': f'load_from={evil}', 'init': f'init.audio_backbone={evil}'}.get(how)
    said = refusal('train.py', CONFIG, '--work-dir', work_dir, *more, *options, *([setting] if setting else []))
    assert WORDS in said
    assert len(said.splitlines()) == 1


def test_test_runs_nothing_of_a_checkpoint(refusal, evil, tmp_path, options):
    assert WORDS in refusal('test.py', CONFIG, evil, '--work-dir', tmp_path / 'eval', *options)


@pytest.mark.parametrize('command', ['index', 'query'])
def test_search_runs_nothing_of_a_checkpoint(refusal, evil, tmp_path, command):
    what = {'index': [tmp_path], 'query': ['--video', tmp_path / 'in.mp4']}[command]
    if command == 'query':
        shutil.copytree(ROOT / 'tests/golden/search', tmp_path / 'db')
    said = refusal('search.py', command, *what, '--model', evil, '--db', tmp_path / 'db')
    assert WORDS in said
    assert len(said.splitlines()) == 1


def test_export_runs_nothing_of_a_checkpoint(refusal, evil, tmp_path):
    assert WORDS in refusal('export.py', evil, '--out', tmp_path / 'out')


@pytest.mark.parametrize('part', ['run', 'generator', 'heat_map'])
def test_the_page_runs_nothing_of_a_checkpoint(evil, monkeypatch, part):
    if part != 'run':
        # The first is loaded, as it were.
        first = SimpleNamespace(model=SimpleNamespace(head=None))
        load = Model.from_run
        monkeypatch.setattr(
            Model, 'from_run', lambda path, device: first if path == Path('run') else load(path, device)
        )
    with pytest.raises(UserError, match=WORDS):
        open_served(**{'run': Path('run'), part: evil})


def test_generate_runs_nothing_of_a_checkpoint(refusal, evil, tmp_path):
    config, _ = write_run(tmp_path)
    video = write_media(tmp_path / 'in.mp4', moving(), sine(), duration_s=1.0)
    assert WORDS in refusal('generate.py', config, evil, '--video', video, '--out', tmp_path / 'out.mp4')


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('back', [False, True])
def test_no_converter_runs_anything(refusal, evil, tmp_path, layout, back):
    out = tmp_path / 'out.safetensors'
    said = refusal('convert_checkpoint.py', evil, '--layout', layout, '--out', out, *['--to-released'] * back)
    assert WORDS in said
    assert not out.exists()


@pytest.mark.parametrize('ending', ['.pth', '.safetensors', '.bin', ''])
def test_export_runs_nothing_whatever_the_file_is_called(refusal, evil, tmp_path, ending):
    named = evil.rename(tmp_path / f'weights{ending}')
    said = refusal('export_checkpoint.py', named, '--out', tmp_path / 'out.safetensors')
    assert WORDS in said or 'no safetensors file' in said
    assert not (tmp_path / 'out.safetensors').exists()


@pytest.fixture
def evil_folder(tmp_path, mark):
    """A checkpoint in parts, whole by its own sums, whose part beside the tensors holds code."""
    folder = tmp_path / f'epoch_1{SUFFIX}'
    write_sharded(folder, {'state_dict': {'w': torch.zeros(2)}, 'meta': {}, 'message_hub': {}})
    listing = json.loads((folder / CONTENTS).read_text())
    run = folder / listing['data'] / 'run.pth'
    torch.save({'state_dict': {}, 'x': Payload(mark)}, run)
    listing['files']['run.pth'] = [run.stat().st_size, zlib.crc32(run.read_bytes())]
    (folder / CONTENTS).write_text(json.dumps(listing))
    return folder


@pytest.mark.parametrize('tool', ['export', 'resume'])
def test_a_folder_in_parts_runs_nothing(refusal, evil_folder, tmp_path, options, tool):
    if tool == 'export':
        said = refusal('export_checkpoint.py', evil_folder, '--out', tmp_path / 'out.safetensors')
    else:
        said = refusal('train.py', CONFIG, '--work-dir', tmp_path / 'run', '--resume', evil_folder, *options)
    assert WORDS in said


@pytest.mark.parametrize('name', ['../elsewhere', '/etc', 'data-1/../..'])
def test_a_folder_in_parts_reads_nothing_outside_of_it(refusal, evil_folder, tmp_path, name):
    listing = json.loads((evil_folder / CONTENTS).read_text())
    (evil_folder / CONTENTS).write_text(json.dumps(listing | {'data': name}))
    assert 'is damaged' in refusal('export_checkpoint.py', evil_folder, '--out', tmp_path / 'out.safetensors')


# Media


def read(file, backend='pyav'):
    return read_clip(file, 0.5, 1.0, 8, 48, 16_000, backend)


def rss_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def vast_png(tmp_path, side):
    """A film of PNGs that each say, with a right checksum, that they are `side` pixels wide and high."""
    file = tmp_path / 'vast.mov'
    with av.open(str(file), 'w') as container:
        video, audio = container.add_stream('png', rate=25), container.add_stream('pcm_s16le', rate=16_000)
        video.width, video.height, video.pix_fmt, audio.codec_context.layout = 64, 48, 'rgb24', 'mono'
        for _ in range(50):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format='rgb24')))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 32_000), '<i2'), format='s16', layout='mono')
        sound.sample_rate = 16_000
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    head = b'IHDR' + struct.pack('>II', side, side) + b'\x08\x02\0\0\0'
    parts = file.read_bytes().split(b'IHDR')
    file.write_bytes(parts[0] + b''.join(head + struct.pack('>I', zlib.crc32(head)) + part[17:] for part in parts[1:]))
    return file


@pytest.mark.parametrize('backend', ['pyav', 'decord'])
@pytest.mark.parametrize('side', [100_000, 15_000])
def test_a_picture_of_absurd_size_is_refused_before_memory_is_taken(tmp_path, backend, side):
    """15,000 is what FFmpeg would still decode, at 675 MB a picture."""
    file, before = vast_png(tmp_path, side), rss_mib()
    with pytest.raises(ClipError):
        read(file, backend)
    assert rss_mib() - before < 200


def test_an_absurd_duration_is_no_reason_to_take_memory(tmp_path):
    file = write_media(tmp_path / 'long.mp4', moving(), sine(), duration_s=2.0, container_options=MOOV_FIRST)
    data = file.read_bytes()
    for name, offset in ((b'mvhd', 20), (b'mdhd', 20), (b'tkhd', 24)):
        for place in [k for k in range(len(data)) if data.startswith(name, k)]:
            data = data[: place + offset] + b'\xff\xff\xff\xf0' + data[place + offset + 4 :]
    file.write_bytes(data)
    before = rss_mib()
    # The header's promise of years does not change what can be read, and at 2,000 s there is nothing.
    assert read(file).video.shape == (8, 3, 48, 72)
    with pytest.raises(ClipError):
        read_clip(file, 2_000.0, 1.0, 8, 48, 16_000, 'pyav')
    assert probe(file).width == 96
    assert rss_mib() - before < 100


def test_jpegs_are_decoded_only_at_the_size_they_were_stored_with():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (48, 64, 3), np.uint8)
    content = cv2.imencode('.jpg', picture)[1].tobytes()
    into = np.zeros((48, 64, 3), np.uint8)
    assert jpeg_size(content) == (48, 64)
    assert read_jpeg(content, (48, 64), (48, 64), into)
    place = content.find(b'\xff\xc0')
    vast = content[: place + 5] + struct.pack('>HH', 65_500, 65_500) + content[place + 9 :]
    before = rss_mib()
    assert jpeg_size(vast) == (65_500, 65_500)
    assert not read_jpeg(vast, (48, 64), (48, 64), into)
    progressive = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    others = [progressive, cv2.imencode('.png', picture)[1].tobytes(), b'', b'\xff\xd8', content[:20], b'\xff' * 4000]
    assert not any(read_jpeg(other, (48, 64), (48, 64), into) for other in others)
    assert rss_mib() - before < 100


def test_a_wav_that_is_cut_off_is_not_taken_for_a_short_one(tmp_path):
    file = tmp_path / 'a.wav'
    with wave.open(str(file), 'wb') as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(b'\1\2' * 32_000)
    assert sound_span(file)[1] == pytest.approx(2.0)
    whole = file.read_bytes()
    file.write_bytes(whole[:40_000])
    assert sound_span(file)[1] == pytest.approx(2.0)
    assert len(read_sound(file, 0.0, 1.0, 8000)) == 8000
    with pytest.raises(ClipError, match='truncated audio'):
        read_sound(file, 0.5, 1.5, 8000)
    # Written without knowing the end, a header says as much as it can.
    file.write_bytes(whole[:40] + b'\xff\xff\xff\xff' + whole[44:])
    assert sound_span(file)[1] == pytest.approx(2.0)


@pytest.mark.parametrize('backend', ['pyav', 'decord'])
def test_dozens_of_mutants_give_the_clip_or_the_error(tmp_path, backend):
    """Zeros in the pictures' data: frames are never repeated unsaid."""
    whole = write_media(tmp_path / 'a.mp4', moving(), sine(), duration_s=2.0, gop=10, container_options=MOOV_FIRST)
    expected, data, file = read(whole, backend), whole.read_bytes(), tmp_path / 'b.mp4'
    moved = (expected.video[1:] != expected.video[:-1]).flatten(1).any(1)
    assert moved.all()
    begin, outcomes = data.find(b'mdat') + 4, []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        first = int(rng.integers(begin, len(data)))
        hole = bytes(int(rng.integers(1, 400)))
        file.write_bytes((data[:first] + hole + data[first + len(hole) :])[: len(data)])
        try:
            clip = read(file, backend)
        except ClipError:
            outcomes.append('error')
            continue
        outcomes.append('clip')
        assert clip.video.shape == expected.video.shape
        assert clip.audio.isfinite().all()
        assert (clip.video[1:] != clip.video[:-1]).flatten(1).any(1).all()
    assert {'error', 'clip'} == {*outcomes}


def _takes(mib, pipe):
    limit_memory(200 << 20)
    try:
        pipe.send(len(bytearray(mib << 20)) >> 20)
    except MemoryError:
        pipe.send('MemoryError')


def test_a_child_has_no_more_memory_than_it_is_given():
    context = multiprocessing.get_context('fork')
    for mib, answer in ((100, 100), (400, 'MemoryError')):
        here, there = context.Pipe()
        child = context.Process(target=_takes, args=(mib, there))
        child.start()
        assert here.recv() == answer
        child.join()


# The training path


class Deadly(Dataset):
    """Its second file ends the process that reads it, as a crash of a decoding library does."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        note_reading(f'videos/{index}.mp4')
        if index == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        return index


def test_a_worker_that_dies_names_the_file_it_read(monkeypatch):
    # torch listens for the ends of workers from its first loader on, which another test may have ended.
    monkeypatch.setattr(signal_handling, '_SIGCHLD_handler_set', False)
    loader = DataLoader(Deadly(), batch_size=1, num_workers=1, multiprocessing_context='fork')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(RuntimeError) as caught:
            list(loader)
    said = lost_reader(caught.value)
    assert 'Segmentation fault' in said
    assert 'at videos/1.mp4; leave that clip out' in said
    assert lost_reader(RuntimeError('out of memory')) is None
