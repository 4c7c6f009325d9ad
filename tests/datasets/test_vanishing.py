"""A whole data folder that goes away is waited for; a single file that is missing is not."""

import numpy as np
import pytest
import torch

from gmscavp.datasets import CentreWindow, VideoFolder, vanishing
from gmscavp.datasets.encoding import write_clip
from gmscavp.datasets.vanishing import is_there, wait_for
from gmscavp.errors import UserError

CLIP = dict(duration_s=0.5, fps=8, size=32, sample_rate=8000, backend='pyav')


@pytest.fixture
def clips(tmp_path):
    """A folder of two clips of 1 s, and the data set of it."""
    root = tmp_path / 'clips'
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in 'ab':
        frames = rng.integers(0, 255, (16, 48, 64, 3), dtype=np.uint8)
        write_clip(root / f'{name}.mp4', frames, 16, rng.uniform(-0.5, 0.5, 16000).astype(np.float32), 16000)
    return root, VideoFolder(
        str(root), clip=CLIP, window=dict(type=CentreWindow), split='train', test_share=0.0, replace_bad=False
    )


@pytest.mark.parametrize('mount_point_stays', [False, True])
def test_a_folder_that_comes_back_is_read_as_if_nothing_had_been(clips, monkeypatch, mount_point_stays):
    root, dataset = clips
    before, pauses = dataset[0], []
    away = root.with_name('away')
    root.rename(away)
    if mount_point_stays:
        root.mkdir()

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 4:
            if mount_point_stays:
                root.rmdir()
            away.rename(root)

    monkeypatch.setattr(wait_for, '__defaults__', (sleep,))
    sample = dataset[0]
    assert pauses == [0.5, 1, 2, 4]
    assert (sample['valid'], sample['failures'], dataset.waits) == (True, '', 1)
    assert torch.equal(sample['video'], before['video'])


def test_a_single_missing_file_is_a_bad_clip_at_once(clips, monkeypatch):
    root, dataset = clips
    (root / 'a.mp4').unlink()
    monkeypatch.setattr(vanishing.time, 'sleep', lambda seconds: pytest.fail('it waited'))
    sample = dataset[0]
    assert not sample['valid']
    assert sample['failures'].startswith('missing file\t')
    assert dataset.waits == 0


def test_a_folder_that_stays_away_ends_with_one_sentence(clips):
    root, dataset = clips
    root.rename(root.with_name('away'))
    dataset.patience_s = 0
    with pytest.raises(UserError, match=r'clips was there and has been gone for 0 s; .*patience_s'):
        dataset[0]


def test_waiting_ends_when_patience_does(tmp_path):
    pauses = []
    with pytest.raises(UserError, match='gone for 100 s'):
        wait_for(tmp_path / 'none', 100, pauses.append)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 8.5]


def test_what_is_there(tmp_path):
    assert not is_there(tmp_path)
    (tmp_path / 'a').touch()
    assert is_there(tmp_path)
    assert not is_there(tmp_path / 'a')
    assert not is_there(tmp_path / 'none')
