"""tools/generate.py as a user runs it: files in, films out, and one sentence for what cannot be."""

import re
import runpy
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from gmscavp import inference
from gmscavp.datasets import probe
from gmscavp.datasets.muxing import writing
from gmscavp.engine.config import load_config
from gmscavp.registry import MODELS
from tests.generating import RATE, write_run
from tests.media import MOOV_FIRST, click, flash, moving, sine, write_media

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Direction -> config and checkpoint of the stand-in."""
    folder = tmp_path_factory.mktemp('runs')
    return {direction: write_run(folder, direction, direction) for direction in ('v2a', 'a2v')}


@pytest.fixture
def generate(monkeypatch, capsys):
    """Run the tool in this process; return its exit code and what it printed, on one line."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['generate.py', *map(str, arguments)])
        monkeypatch.setenv('COLUMNS', '400')
        capsys.readouterr()
        try:
            runpy.run_path(str(ROOT / 'tools/generate.py'), run_name='__main__')
        except SystemExit as ended:
            code = ended.code
        else:
            code = 0
        said = capsys.readouterr()
        assert 'Traceback' not in said.err
        return code, re.sub(r'\s+', ' ', said.out + said.err)

    return run


@pytest.fixture
def video(tmp_path):
    return write_media(tmp_path / 'in.mp4', flash([0.5, 2.5], 0.25, (32, 48)), sine(), duration_s=4.0)


def packets(file, kind):
    with av.open(str(file)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(bytes(packet), packet.pts * packet.time_base) for packet in container.demux(stream) if packet.size]


def heard(file):
    with av.open(str(file)) as container:
        frames = list(container.decode(audio=0))
        return np.concatenate([frame.to_ndarray() for frame in frames], axis=1)[0]


def test_sound_for_a_video(generate, runs, video, tmp_path):
    out = tmp_path / 'out.mp4'
    code, said = generate(*runs['v2a'], '--video', video, '--out', out, '--wav')
    assert code == 0
    assert '1 made, 0 skipped, 0 failed' in said
    assert packets(out, 'video') == packets(video, 'video')
    assert probe(out).sample_rate == probe(video).sample_rate == 44_100
    with av.open(str(out)) as container:
        assert [stream.type for stream in container.streams] == ['video', 'audio']
        sound = container.streams.audio[0]
        assert sound.duration * sound.time_base == 4
        comment = container.metadata['comment']
    for part in ('The sound of this file is synthetic', 'v2a.py', 'v2a.pth', 'seed 0', 'steps 3', 'guidance 2'):
        assert part in comment
    wave = np.abs(heard(out))
    assert wave[round(0.55 * 44_100) : round(0.7 * 44_100)].max() > 0.7
    assert wave[round(0.9 * 44_100) : round(1.1 * 44_100)].max() < 0.1
    with av.open(str(tmp_path / 'out.wav')) as container:
        assert container.streams.audio[0].duration == 4 * 44_100


def test_the_same_seed_makes_the_same_bytes_and_another_does_not(generate, runs, video, tmp_path):
    made = {}
    for name, seed in (('a', 3), ('b', 3), ('c', 4)):
        assert generate(*runs['v2a'], '--video', video, '--out', tmp_path / f'{name}.mp4', '--seed', seed)[0] == 0
        made[name] = (tmp_path / f'{name}.mp4').read_bytes()
    assert made['a'] == made['b']
    assert not np.array_equal(heard(tmp_path / 'a.mp4'), heard(tmp_path / 'c.mp4'))
    out = tmp_path / 'n.mp4'
    code, said = generate(*runs['v2a'], '--video', video, '--out', out, '--seed', 3, '--num-samples', 2)
    assert code == 0
    assert 'n_1.mp4 to n_2.mp4' in said
    assert (tmp_path / 'n_1.mp4').read_bytes() == made['a']
    assert (tmp_path / 'n_2.mp4').read_bytes() == made['c']
    assert not out.exists()


def test_settings_reach_the_model(generate, runs, video, tmp_path, monkeypatch):
    seen = []
    make = inference.Model.generate_sound

    def spy(self, file, sampling, *arguments, **settings):
        seen.append(sampling)
        return make(self, file, sampling, *arguments, **settings)

    monkeypatch.setattr(inference.Model, 'generate_sound', spy)
    asked = ['--steps', 7, '--guidance', 3.5, '--rescale', 0.7, '--sampler', 'Heun', '--seed', 9, '--alignment', 2]
    assert generate(*runs['v2a'], '--video', video, '--out', tmp_path / 'o.mp4', *asked)[0] == 0
    (sampling,) = seen
    assert (sampling.steps, sampling.guidance, sampling.rescale, sampling.seed) == (7, 3.5, 0.7, 9)
    assert (sampling.alignment, sampling.sampler) == (2, {'type': 'Heun'})


def test_samples_at_once_and_what_cannot_be_compiled(generate, runs, video, tmp_path):
    for name, more in (('a', []), ('b', ['--batch', 2])):
        out = tmp_path / f'{name}.mp4'
        assert generate(*runs['v2a'], '--video', video, '--out', out, '--num-samples', 3, *more)[0] == 0
    for k in (1, 2, 3):
        assert (tmp_path / f'a_{k}.mp4').read_bytes() == (tmp_path / f'b_{k}.mp4').read_bytes()
    for wrong, said in ((['--batch', 0], '--batch must be at least 1'), (['--compile'], 'has no denoiser to compile')):
        code, words = generate(*runs['v2a'], '--video', video, '--out', tmp_path / 'c.mp4', *wrong)
        assert code == 2
        assert said in words


def test_a_video_for_a_sound(generate, runs, tmp_path):
    sound = write_media(tmp_path / 'in.m4a', None, click([0.5]), duration_s=5.1)
    out = tmp_path / 'out.mp4'
    code, _ = generate(*runs['a2v'], '--audio', sound, '--out', out)
    assert code == 0
    assert packets(out, 'audio') == packets(sound, 'audio')
    with av.open(str(out)) as container:
        assert 'The picture of this file is synthetic' in container.metadata['comment']
        picture = container.streams.video[0]
        assert picture.duration * picture.time_base == 5.25


def test_a_folder_goes_on_after_a_damaged_file_and_says_so(generate, runs, tmp_path):
    folder, out = tmp_path / 'in', tmp_path / 'out'
    (folder / 'sub').mkdir(parents=True)
    good = write_media(folder / 'good.mp4', moving((32, 32)), sine(), duration_s=1.0)
    write_media(folder / 'sub' / 'too.mkv', moving((32, 32)), None, duration_s=1.0)
    write_media(folder / 'good.mkv', moving((32, 32)), None, duration_s=1.0)
    whole = write_media(tmp_path / 'whole.mp4', moving((32, 32)), sine(), container_options=MOOV_FIRST)
    (folder / 'half.mp4').write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (folder / 'text.mp4').write_text('no video')
    (folder / 'empty.mp4').touch()
    code, said = generate(*runs['v2a'], '--video', folder, '--out', out)
    assert code == 1
    assert '3 made, 0 skipped, 3 failed' in said
    for reason in (
        'half.mp4: damaged',
        'text.mp4: not a media file',
        'empty.mp4: empty file',
        'its last picture was held',
    ):
        assert reason in said
    made = sorted(str(path.relative_to(out)) for path in out.rglob('*') if path.is_file())
    assert made == ['good.mkv.mp4', 'good.mp4.mp4', 'sub/too.mp4']
    assert packets(out / 'good.mp4.mp4', 'video') == packets(good, 'video')
    for path in ('half', 'text', 'empty'):
        (folder / f'{path}.mp4').unlink()
    code, said = generate(*runs['v2a'], '--video', folder, '--out', out)
    assert (code, '0 made, 3 skipped, 0 failed' in said) == (0, True)
    assert '--force replaces it' in said
    code, said = generate(*runs['v2a'], '--video', folder / '*.mkv', '--out', out, '--force')
    assert (code, '1 made, 0 skipped, 0 failed' in said) == (0, True)


def test_a_long_video_is_made_whole(generate, runs, tmp_path):
    long = write_media(tmp_path / 'long.mp4', flash([61.0], 0.25, (32, 32)), None, duration_s=62.0, fps=8)
    assert generate(*runs['v2a'], '--video', long, '--out', tmp_path / 'out.mp4')[0] == 0
    wave = np.abs(heard(tmp_path / 'out.mp4'))
    assert abs(len(wave) - 62 * RATE) < 1024
    assert wave[round(61.05 * RATE) : round(61.2 * RATE)].max() > 0.5
    assert wave[: round(60.9 * RATE)].max() < 0.1


def test_the_first_seconds_alone(generate, runs, video, tmp_path):
    out = tmp_path / 'out.mp4'
    assert generate(*runs['v2a'], '--video', video, '--out', out, '--duration', 2.5)[0] == 0
    with av.open(str(out)) as container:
        sound, picture = container.streams.audio[0], container.streams.video[0]
        assert sound.duration * sound.time_base == 2.5
        assert 2.5 <= picture.duration * picture.time_base <= 2.7


@pytest.mark.parametrize('stop', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_a_stop_leaves_nothing_half_made(generate, runs, video, tmp_path, monkeypatch, stop):
    out = tmp_path / 'done' / 'out.mp4'
    out.parent.mkdir()

    def fail(*arguments):
        yield from ()
        raise stop

    monkeypatch.setattr(writing, 'coded_wave', fail)
    code, said = generate(*runs['v2a'], '--video', video, '--out', out)
    assert code == (130 if stop is KeyboardInterrupt else 2)
    assert ('what is finished is kept' if stop is KeyboardInterrupt else 'no disk space') in said
    assert list(out.parent.iterdir()) == []


def refusals(video, folder):
    """Arguments that cannot be met, and words of the sentence that says so."""
    out = ['--out', folder / 'o.mp4']
    given = ['--video', video, *out]
    mute = write_media(folder / 'mute.mp4', moving((32, 32)), None, duration_s=1.0)
    sound = write_media(folder / 'sound.wav', None, sine(), audio_codec='pcm_s16le', duration_s=1.0)
    still = folder / 'still.jpg'
    still.write_bytes(b'\xff\xd8\xff' + bytes(50))
    there = folder / 'there.mp4'
    there.write_bytes(b'x')
    return {
        'steps must be at least 1': [*given, '--steps', 0],
        'guidance must be 0 or above': [*given, '--guidance', -1],
        '--rescale must be from 0 to 1': [*given, '--rescale', 2],
        '--num-samples must be at least 1': [*given, '--num-samples', 0],
        '--duration must be above 0': [*given, '--duration', 0],
        'lasts 4.00 s': [*given, '--duration', 4.5],
        "no sampler is called 'Heum'. Did you mean Heun? Known: DDIM, DPMSolver2M, Euler": [
            *given,
            '--sampler',
            'Heum',
        ],
        '--seed must be': [*given, '--seed', -1],
        'there already; --force': ['--video', video, '--out', there],
        'is the input itself': ['--video', video, '--out', video, '--force'],
        'folder': ['--video', video, '--out', folder / 'nowhere' / 'o.mp4'],
        'must end in .mp4': ['--video', video, '--out', folder / 'o.avi'],
        'must be a folder': ['--video', folder, '--out', folder / 'o.mp4'],
        'missing file': ['--video', folder / 'nothing.mp4', *out],
        'no file matches': ['--video', folder / '*.nothing', '--out', folder / 'new'],
        'no video track': ['--video', sound, *out],
        'still picture': ['--video', still, *out],
        'cannot be used here': [*given, '--device', 'abacus'],
        'makes sound from a video': ['--audio', sound, *out],
        '--wav goes with --video': ['--audio', sound, *out, '--wav'],
    }, {'no audio track': ['--audio', mute, *out], 'makes a video from sound': given}


def test_what_cannot_be_is_told_in_one_sentence(generate, runs, video, tmp_path):
    to_sound, to_video = refusals(video, tmp_path)
    for direction, refused in (('v2a', to_sound), ('a2v', to_video)):
        for words, arguments in refused.items():
            code, said = generate(*runs[direction], *arguments)
            assert (code, said.count('gmscavp: ')) == (2, 1), said
            assert words in said
    assert not (tmp_path / 'o.mp4').exists()


def test_runs_that_do_not_fit_are_told(generate, runs, video, tmp_path):
    given = ['--video', video, '--out', tmp_path / 'o.mp4']
    other = tmp_path / 'other.pth'
    torch.save({'state_dict': {'weight': torch.zeros(3)}}, other)
    code, said = generate(runs['v2a'][0], other, *given)
    assert code == 2
    assert 'is of another model than the config' in said
    code, said = generate(runs['v2a'][0], tmp_path / 'no.pth', *given)
    assert (code, 'there is no checkpoint' in said) == (2, True)
    model = MODELS.build(load_config(ROOT / 'configs/gmscavp_impacts.py').model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'gmscavp.pth')
    code, said = generate(ROOT / 'configs/gmscavp_impacts.py', tmp_path / 'gmscavp.pth', *given)
    assert (code, 'makes neither sound nor video' in said) == (2, True)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_made(generate, runs, video, tmp_path, monkeypatch):
    monkeypatch.setattr('os.access', lambda path, mode: False)
    code, said = generate(*runs['v2a'], '--video', video, '--out', tmp_path / 'o.mp4')
    assert code == 2
    assert 'nothing can be written in folder' in said


def test_the_generator_itself_makes_a_film(generate, tmp_path):
    config, small = ROOT / 'configs/v2a_impacts.py', {'model.denoiser.width': 48, 'model.denoiser.depth': 1}
    torch.manual_seed(0)
    model = MODELS.build(load_config(config, small).model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'v2a.pth')
    video = write_media(tmp_path / 'in.mp4', moving((32, 48)), sine(), duration_s=5.0)
    changed = ['--cfg-options', *(f'{key}={value}' for key, value in small.items())]
    given = [config, tmp_path / 'v2a.pth', '--video', video, '--steps', 1, '--sampler', 'Euler', *changed]
    for name in ('a.mp4', 'b.mp4'):
        code, said = generate(*given, '--out', tmp_path / name)
        assert code == 0, said
    assert (tmp_path / 'a.mp4').read_bytes() == (tmp_path / 'b.mp4').read_bytes()
    assert packets(tmp_path / 'a.mp4', 'video') == packets(video, 'video')
    assert abs(len(heard(tmp_path / 'a.mp4')) - 5 * 44_100) < 1024
