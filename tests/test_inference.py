"""Inference on files: what the model is shown, and that what it makes begins and ends with its input."""

from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from gmscavp.datasets import read_clip
from gmscavp.datasets.muxing import picture_track
from gmscavp.errors import UserError
from gmscavp.inference import load, write_sound, write_video
from gmscavp.inference.compiling import compile_denoiser
from gmscavp.inference.loaded import device_named
from gmscavp.inference.reading import read_pictures, read_sound, whole_steps
from gmscavp.inference.writing import fitted
from gmscavp.models import Sampling
from tests.generating import CLIP, RATE, write_run
from tests.media import click, corner, flash, moving, sine, write_media

ONE = Sampling(steps=1)


@pytest.fixture(scope='module')
def maker(tmp_path_factory):
    return load(*write_run(tmp_path_factory.mktemp('v2a')), device='cpu')


@pytest.fixture(scope='module')
def painter(tmp_path_factory):
    return load(*write_run(tmp_path_factory.mktemp('a2v'), 'a2v'), device='cpu')


def loud(wave, time):
    return wave[round(time * RATE) :][: RATE // 100].abs().max() > 0.5


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.ts'])
@pytest.mark.parametrize('length', [1.6, 6.08, 25.0])
def test_sound_lasts_as_long_as_the_pictures_and_follows_them(maker, tmp_path, name, length):
    lit = [0.5, length - 0.5]
    file = write_media(tmp_path / name, flash(lit, 0.25, (32, 48)), None, duration_s=length)
    made = maker.generate_sound(file, ONE)
    assert made.sample_rate == RATE
    assert made.waveforms.shape == (1, round(picture_track(file).duration_s * RATE))
    assert abs(made.waveforms.shape[1] / RATE - length) < 0.5 / 25
    wave = made.waveforms[0]
    assert loud(wave, 0.6)
    assert not loud(wave, 0.3)
    assert not loud(wave, 0.9)
    shape, settings = maker.model.seen[-1]
    assert shape == (1, 3, max(16, whole_steps(length, 4)), 16, 16)
    assert settings == ONE


def test_a_late_picture_track_is_time_zero(maker, tmp_path):
    bright = flash([1.5], 0.25, (32, 32))
    file = write_media(tmp_path / 'late.mp4', bright, sine(), duration_s=4.0, video_start_s=1.0)
    wave = maker.generate_sound(file, ONE).waveforms[0]
    assert len(wave) == 4 * RATE
    assert loud(wave, 0.6)
    assert not loud(wave, 0.2)
    assert not loud(wave, 1.6)


def test_a_short_video_is_held_not_repeated(maker, tmp_path):
    file = write_media(tmp_path / 'a.mp4', flash([0.75], 0.3, (32, 32)), None, duration_s=1.0)
    track = picture_track(file)
    end_s = track.start_s + track.duration_s
    frames = read_pictures(file, track.start_s, end_s, 16, maker.clip, maker.transforms)
    lit = frames.float().mean(dim=(1, 2, 3)) > 127
    assert lit.tolist() == [False] * 3 + [True] * 13
    assert maker.generate_sound(file, ONE).waveforms.shape == (1, RATE)


def test_pieces_are_what_a_clip_would_be(maker, tmp_path):
    file = write_media(tmp_path / 'a.mp4', moving((32, 48), 7.0), click([0.2, 21.3, 44.0]), duration_s=45.0, gop=300)
    whole = read_clip(file, 0.0, 45.0, 4, 16, RATE)
    cropped = maker.transforms[0](whole, np.random.default_rng(0))
    frames = read_pictures(file, 0.0, 45.0, 180, maker.clip, maker.transforms)
    assert torch.equal(frames, cropped.video)
    assert torch.equal(read_sound(file, 0.0, 45.0, RATE), whole.audio)


def test_pictures_that_no_transform_crops_are_cut_to_a_square(maker, tmp_path):
    file = write_media(tmp_path / 'a.mp4', corner((32, 64)), None, duration_s=4.0)
    frames = read_pictures(file, 0.0, 4.0, 16, maker.clip, [])
    assert frames.shape == (16, 3, 16, 16)


def test_the_same_seed_is_the_same_and_samples_are_the_next_seeds(maker, tmp_path):
    file = write_media(tmp_path / 'a.mp4', moving((32, 32)), None, duration_s=4.0)
    three = maker.generate_sound(file, Sampling(steps=1, seed=5), samples=3).waveforms
    assert not torch.equal(three[0], three[1])
    for k in range(3):
        assert torch.equal(three[k], maker.generate_sound(file, Sampling(steps=1, seed=5 + k)).waveforms[0])


def test_samples_in_batches_are_those_one_at_a_time(maker, painter, tmp_path):
    file = write_media(tmp_path / 'a.mp4', moving((32, 32)), sine(), duration_s=4.0)
    five, told = Sampling(steps=2, seed=5), []
    for make in (maker.generate_sound, painter.generate_video):
        single, _ = make(file, five, samples=5)
        told.clear()
        batched, _ = make(file, five, samples=5, batch=2, progress=lambda done, total: told.append((done, total)))
        assert torch.equal(batched, single)
        assert told == [(done, 10) for done in (2, 4, 6, 8, 9, 10)]
    assert maker.model.seen[-3:] == [(maker.model.seen[-1][0], Sampling(steps=2, seed=s)) for s in (5, 7, 9)]
    with pytest.raises(UserError, match='at once'):
        maker.generate_sound(file, five, batch=0)


def test_compiling_what_cannot_be_is_said_in_words(maker, monkeypatch):
    with pytest.raises(UserError, match='no denoiser to compile'):
        load(maker.config, maker.checkpoint, 'cpu', compiled=True)
    monkeypatch.setenv('CXX', '/no/such/compiler')
    with pytest.raises(UserError, match=r'needs a C\+\+ compiler; install g'):
        compile_denoiser(SimpleNamespace(denoiser=SimpleNamespace(compile_steps=print)), torch.device('cpu'))


def test_progress_counts_over_all_samples(maker, tmp_path):
    file = write_media(tmp_path / 'a.mp4', moving((32, 32)), None, duration_s=4.0)
    told = []
    maker.generate_sound(file, Sampling(steps=2), samples=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(k, 6) for k in range(1, 7)]


def test_a_first_part_of_a_file(maker, tmp_path):
    file = write_media(tmp_path / 'a.mp4', moving((32, 32)), None, duration_s=6.0)
    assert maker.generate_sound(file, ONE, duration_s=4.5).waveforms.shape == (1, round(4.5 * RATE))
    for wrong in (0, -1, 6.5, float('nan')):
        with pytest.raises(UserError, match=r'lasts 6\.00 s'):
            maker.generate_sound(file, ONE, duration_s=wrong)


@pytest.mark.parametrize('length', [1.3, 4.0, 7.37])
def test_pictures_cover_the_sound_and_follow_it(painter, tmp_path, length):
    file = write_media(tmp_path / 'a.wav', None, click([0.5], 0.25), duration_s=length, audio_codec='pcm_s16le')
    made = painter.generate_video(file, ONE)
    assert made.fps == 4
    assert made.frames.shape == (1, whole_steps(length, 4), 16, 16, 3)
    bright = made.frames[0, :, 8, 8, 0].float()
    assert bright.argmax() == 2
    write_video(file, tmp_path / 'out.mp4', made.frames[0], made.fps)
    with av.open(str(tmp_path / 'out.mp4')) as container:
        ends = {stream.type: float(stream.duration * stream.time_base) for stream in container.streams}
    assert ends['audio'] == pytest.approx(length, abs=1 / 44_100)
    assert 0 <= ends['video'] - length < 0.25


def test_the_sound_of_a_film_begins_where_it_begins(painter, tmp_path):
    file = write_media(tmp_path / 'a.mp4', moving((32, 32)), click([2.5], 0.25), duration_s=4.0, audio_start_s=2.0)
    assert painter.generate_video(file, ONE).frames[0, :, 8, 8, 0].float().argmax() == 2


@pytest.mark.parametrize(
    ('settings', 'rate'),
    [(None, RATE), (dict(sample_rate=44_100), 44_100), (dict(sample_rate=48_000, audio_codec='libopus'), 48_000)],
)
def test_written_sound_has_the_rate_and_length_of_the_input(maker, tmp_path, settings, rate):
    sound = None if settings is None else sine()
    file = write_media(tmp_path / 'a.mp4', moving((32, 32)), sound, duration_s=2.2, **(settings or {}))
    made = maker.generate_sound(file, ONE)
    out, wav = tmp_path / 'out.mp4', tmp_path / 'out.wav'
    assert write_sound(file, out, made.waveforms[0], made.sample_rate, comment='x', wave_file=wav) == []
    for written in (out, wav):
        with av.open(str(written)) as container:
            stream = container.streams.audio[0]
            assert stream.codec_context.sample_rate == rate
            assert stream.duration * stream.time_base * rate == round(picture_track(file).duration_s * rate)


def test_rates_that_aac_does_not_know_are_replaced_and_told(maker, tmp_path):
    file = write_media(
        tmp_path / 'a.mkv', moving((32, 32)), sine(), duration_s=1.0, sample_rate=192_000, audio_codec='flac'
    )
    notes = write_sound(file, tmp_path / 'out.mp4', torch.zeros(RATE), RATE)
    assert notes == ['96000 samples/s: AAC does not know 192000']


def test_fitting_keeps_a_tone_where_it_was():
    times = torch.arange(RATE) / RATE
    wave = torch.sin(2 * torch.pi * 300 * times)
    there = fitted(wave, RATE, 44_100, 44_101)
    wanted = np.sin(2 * np.pi * 300 * np.arange(44_100) / 44_100)
    assert there.shape == (44_101,)
    assert np.abs(there[500:-500] - wanted[500:-499]).max() < 1e-2
    assert there[-1] == 0


def test_models_are_asked_for_what_they_make_alone(maker, painter, tmp_path):
    file = write_media(tmp_path / 'a.mp4', moving((32, 32)), sine(), duration_s=4.0)
    with pytest.raises(UserError, match=r'makes sound from a video; to make a video from sound'):
        maker.generate_video(file, ONE)
    with pytest.raises(UserError, match=r'makes a video from sound; to make sound from a video'):
        painter.generate_sound(file, ONE)
    with pytest.raises(UserError, match='no embeddings'):
        maker.embed(file, 'video')


def test_numbers_that_are_none_are_refused(maker, tmp_path, monkeypatch):
    file = write_media(tmp_path / 'a.mp4', moving((32, 32)), None, duration_s=4.0)
    monkeypatch.setattr(maker.model, 'sound', lambda mel: torch.full((1, 4 * RATE), torch.nan))
    with pytest.raises(UserError, match='not numbers'):
        maker.generate_sound(file, ONE)


@pytest.mark.parametrize('name', ['cuda:99', 'nonsense', 'cuda'])
def test_devices_that_are_not_there_are_refused(name):
    if name == 'cuda' and torch.cuda.is_available():
        pytest.skip('there is one')
    with pytest.raises(UserError, match='cannot be used here'):
        device_named(name)


def test_a_config_without_clips_is_refused(tmp_path):
    config, checkpoint = write_run(tmp_path)
    config.write_text("model = dict(type='StandInGenerator')\n")
    with pytest.raises(UserError, match=r'test_dataloader\.dataset\.clip is missing'):
        load(config, checkpoint)


def test_provenance_says_that_it_is_synthetic_and_how_to_repeat_it(maker):
    said = maker.provenance(Sampling(steps=7, guidance=3.5, seed=11, sampler=dict(type='Heun')), 2)
    for part in ('synthetic', 'run.py', 'run.pth', 'seed 13', 'steps 7', 'guidance 3.5', 'sampler Heun', 'torch 2'):
        assert part in said
    assert CLIP['fps'] == maker.clip.fps
