"""Curves that cannot be written are said once and stop nothing; those that can be are written as they were."""

import json

import numpy as np
import pytest
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend, Visualizer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gmscavp.engine.boards import PatientVisBackend


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
