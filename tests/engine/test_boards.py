"""Curves that cannot be written are said once and stop nothing; those that can be are written as they were."""

import io
import json
import wave as wave_file
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend, Visualizer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gmscavp.engine.boards import MediaBoard, PatientVisBackend
from gmscavp.engine.picture_hook import PictureHook
from gmscavp.evaluation.generation_metric import Example
from gmscavp.models import ClipPreprocessor


def board(folder):
    backends = [dict(type=LocalVisBackend), dict(type=TensorboardVisBackend)]
    return Visualizer(vis_backends=[dict(type=PatientVisBackend, backends=backends)], save_dir=str(folder))


def write(visualizer):
    visualizer.add_image('picture', np.zeros((4, 4, 3), dtype=np.uint8), 1)
    for step in range(3):
        visualizer.add_scalar('loss', 0.5, step)
        visualizer.add_scalars(dict(rate=0.1), step)
    visualizer.close()


def test_what_can_be_written_is(tmp_path):
    write(board(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / 'vis_data/scalars.json').read_text().splitlines()]
    assert [line['step'] for line in lines if 'loss' in line] == [0, 1, 2]
    assert len(list((tmp_path / 'vis_data/vis_image').iterdir())) == 1
    events = EventAccumulator(str(tmp_path / 'vis_data')).Reload()
    assert [event.step for event in events.Scalars('rate')] == [0, 1, 2]


def test_a_folder_that_takes_nothing_is_said_once_and_no_more(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('gmscavp.engine.boards.print_log', lambda text, **_: said.append(text))
    # No permission would not stop root.
    (tmp_path / 'vis_data').write_text('a file in its place')
    write(board(tmp_path))
    assert all('training goes on' in text for text in said)
    assert sorted(text.split()[0] for text in said) == ['LocalVisBackend', 'TensorboardVisBackend']


def test_a_disk_that_fills_up_later_is_said_once(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('gmscavp.engine.boards.print_log', lambda text, **_: said.append(text))
    patient = PatientVisBackend([dict(type=TensorboardVisBackend)], str(tmp_path))
    patient.add_scalar('loss', 1.0, 0)

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(patient.backends[0], 'add_scalar', full)
    for step in range(1, 4):
        patient.add_scalar('loss', 1.0, step)
    assert len(said) == 1
    assert 'No space left on device' in said[0]


def test_other_errors_are_not_hidden(tmp_path):
    with pytest.raises(AssertionError):
        PatientVisBackend([dict(type=LocalVisBackend)], str(tmp_path)).add_scalars('no dictionary')


def test_sounds_and_videos_are_shown_where_they_can_be(tmp_path):
    folder, full = tmp_path / 'board', tmp_path / 'plain'
    both = PatientVisBackend([dict(type=LocalVisBackend), dict(type=MediaBoard)], str(folder))
    frames = np.zeros((5, 8, 12, 3), dtype=np.uint8)
    frames[np.arange(5), :, np.arange(5)] = 255
    wave = np.sin(np.arange(1600, dtype=np.float32) / 5)
    wave[0] = np.nan
    both.add_video('clip', frames, 4.0, 7)
    both.add_sound('clip', wave, 16_000, 7)
    both.close()
    events = EventAccumulator(str(folder)).Reload()
    (video,), (sound,) = events.Images('clip'), events.Audio('clip')
    assert (video.step, video.width, video.height, sound.step, sound.sample_rate) == (7, 12, 8, 7, 16_000)
    with Image.open(io.BytesIO(video.encoded_image_string)) as shown:
        assert (shown.n_frames, shown.info['duration']) == (5, 250)
        for number in range(5):
            shown.seek(number)
            assert np.abs(np.asarray(shown.convert('RGB')).astype(int) - frames[number]).max() < 8
    with wave_file.open(io.BytesIO(sound.encoded_audio_string)) as heard:
        assert heard.getframerate() == 16_000
        samples = np.frombuffer(heard.readframes(heard.getnframes()), np.int16) / 32_767
    np.testing.assert_allclose(samples, np.nan_to_num(wave), atol=1e-4)
    # One that takes neither is passed over, and none is given up.
    plain = PatientVisBackend([dict(type=LocalVisBackend)], str(full))
    plain.add_sound('clip', wave, 16_000)
    assert len(plain.backends) == 1


def test_the_clips_of_validation_are_shown_once_and_what_is_made_each_time(tmp_path):
    visualizer = Visualizer(vis_backends=[dict(type=MediaBoard)], save_dir=str(tmp_path))
    made = Example('a', np.zeros(800, np.float32), np.zeros(800, np.float32), 800, np.zeros((1, 20, 8)), None)
    drawn = Example('b', np.zeros((4, 8, 8, 3), np.uint8), np.zeros((4, 8, 8, 3), np.uint8), 4.0)
    metric = SimpleNamespace(examples=[made, drawn])
    preprocessor = ClipPreprocessor(sample_rate=800, hop=40, n_fft=80, bands=8, f_max=400)
    runner = SimpleNamespace(
        visualizer=visualizer,
        model=SimpleNamespace(data_preprocessor=preprocessor),
        val_evaluator=SimpleNamespace(metrics=[metric]),
        iter=0,
    )
    batch = dict(video=torch.zeros(3, 4, 3, 8, 8, dtype=torch.uint8), audio=torch.zeros(3, 800))
    hook = PictureHook(clips=2)
    for runner.iter in (5, 9):
        for index in range(2):
            hook.after_val_iter(runner, index, dict(batch))
        hook.after_val_epoch(runner)
    visualizer.close()
    events = EventAccumulator(str(tmp_path / 'vis_data')).Reload()
    assert {name: [event.step for event in events.Audio(name)] for name in events.Tags()['audio']} == {
        'clip_0': [5],
        'clip_1': [5],
        'generated_0': [5, 9],
    }
    steps = {name: [event.step for event in events.Images(name)] for name in events.Tags()['images']}
    assert steps == {'clip_0': [5], 'clip_1': [5]} | {
        name: [5, 9] for name in ('mel_0', 'mel_1', 'generated_1', 'generated_mel_0')
    }
