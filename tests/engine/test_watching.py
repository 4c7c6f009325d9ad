"""Readers that hang, crash or are killed cost a run time and nothing else: the batches that come are the same."""

import json
import os
import signal
import time
from multiprocessing.resource_sharer import DupFd
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from torch import multiprocessing
from torch.utils.data import DataLoader

from gmscavp.datasets import CentreWindow, RandomWindow
from gmscavp.datasets.base import ClipDataset
from gmscavp.datasets.manifest import Manifest
from gmscavp.engine.runner import build_runner
from gmscavp.engine.stopping import Stopped
from gmscavp.engine.watching import QUARANTINE_FILE, WatchedLoader, watched
from gmscavp.errors import UserError
from gmscavp.registry import DATASETS, MODELS
from gmscavp.structures import Clip
from tests.engine.test_resuming import CLIPS, STEPS, config_of, contents, demand_equal

LIMIT_S = 1.0


@DATASETS.register_module()
class OddClips(ClipDataset):
    """Clips drawn at random; how those in `odd` are read is what ends readers. read.txt names all that were begun."""

    def __init__(self, work_dir, odd, replace_bad=True, clips=CLIPS):
        table = {'file': [f'{i}.mp4' for i in range(clips)]}
        form = dict(duration_s=1.0, fps=2, size=4, sample_rate=8)
        window = dict(type=RandomWindow if replace_bad else CentreWindow)
        super().__init__(Manifest.from_columns(table, 'test'), Path(work_dir), form, window, replace_bad=replace_bad)
        self.odd = {str(clip): how for clip, how in odd.items()}

    def _read(self, record, rng):
        with open(self.root / 'read.txt', 'a') as stream:
            stream.write(f'{record.clip_id}\n')
        how = self.odd.get(record.clip_id)
        once = self.root / f'once{record.clip_id}'
        if how == 'hangs':
            time.sleep(1000)
        if how == 'killed' or (how == 'killed once' and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if how == 'crashes':
            os.kill(os.getpid(), signal.SIGSEGV)
        video = torch.from_numpy(rng.integers(0, 255, (2, 3, 4, 4), dtype='uint8')).byte()
        return Clip(video, torch.full((8,), float(record.clip_id)) + rng.random(), 0.0)


@MODELS.register_module()
class WaveLine(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 3).double()
        self.register_buffer('seen', torch.zeros(8, dtype=torch.float64))

    def forward(self, audio, mode='loss', **others):
        if mode == 'predict':
            return list(audio)
        self.seen = 0.9 * self.seen + audio.mean(0)
        drawn = torch.nn.functional.dropout(self.layer(audio.double() / CLIPS), 0.3)
        return {'loss': (drawn + torch.rand(())).square().mean()}


def run_of(folder, odd=None, workers=2, max_lost=10, limit_s=60, **settings):
    folder.mkdir(exist_ok=True)
    config = config_of(folder, workers=workers, **settings)
    config.model = dict(type='WaveLine')
    config.train_dataloader.dataset = dict(type='OddClips', work_dir=str(folder), odd=odd or {})
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.custom_hooks.append(dict(type='BadClipHook', limit_s=limit_s, max_lost=max_lost, max_share=1.0))
    torch.manual_seed(time.monotonic_ns())
    runner = build_runner(config)
    runner.train()
    return runner


@pytest.fixture(scope='module')
def listed(tmp_path_factory):
    """The run for which clip 7 was in quarantine from the beginning."""
    folder = tmp_path_factory.mktemp('listed') / 'run'
    folder.mkdir()
    (folder / QUARANTINE_FILE).write_text(json.dumps(dict(clip_id='7', cause='crashed', file='7.mp4')) + '\n')
    run_of(folder, workers=0)
    return folder


def begun(folder, clip):
    return (folder / 'read.txt').read_text().split().count(str(clip))


@pytest.mark.parametrize(
    ('how', 'cause', 'tries'), [('hangs', 'timed out', 1), ('crashes', 'crashed', 1), ('killed', 'killed', 2)]
)
def test_a_clip_that_ends_its_reader_is_from_then_on_a_bad_clip(listed, tmp_path, how, cause, tries):
    """The run, stopped and resumed, is to the last bit the one in which it was listed from the beginning."""
    odd, limit_s = {7: how}, LIMIT_S if how == 'hangs' else 60
    with pytest.raises(Stopped):
        run_of(tmp_path, odd, step=STEPS + 1, limit_s=limit_s)
    run_of(tmp_path, odd, limit_s=limit_s)
    demand_equal(contents(tmp_path), contents(listed))
    (line,) = (tmp_path / QUARANTINE_FILE).read_text().splitlines()
    assert json.loads(line) == {'clip_id': '7', 'cause': cause, 'file': str(tmp_path / '7.mp4')}
    assert (begun(listed, 7), begun(tmp_path, 7)) == (0, tries), 'not tried again, by the resumed run either'
    bad = json.loads((tmp_path / 'bad_clips.json').read_text())
    assert bad == {cause: [str(tmp_path / '7.mp4')]}


def test_readers_killed_at_any_time_change_nothing(tmp_path):
    """By whoever, between clips or at one."""
    run_of(tmp_path / 'whole', workers=0)
    seen = run_of(tmp_path / 'killed', dict.fromkeys((0, 5, 13), 'killed once')).train_dataloader
    assert 1 <= seen.lost <= 3
    demand_equal(contents(tmp_path / 'killed'), contents(tmp_path / 'whole'))
    assert not (tmp_path / 'killed' / QUARANTINE_FILE).exists()


def test_too_many_lost_end_the_run_with_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r'have ended 3 times, at last: .* crashed at .*mp4.*max_lost'):
        run_of(tmp_path, dict.fromkeys(range(CLIPS), 'crashes'), workers=1, max_lost=2)


def loader_of(folder, odd, workers=2, persistent=False, clips=12):
    dataset = OddClips(folder, odd, replace_bad=False, clips=clips)
    dataset.limit_s = LIMIT_S if 'hangs' in odd.values() else 60
    return watched(DataLoader(dataset, 3, num_workers=workers, persistent_workers=persistent, shuffle=False))


@pytest.mark.parametrize(('how', 'persistent'), [('hangs', False), ('killed', True)])
def test_in_evaluation_such_a_clip_is_left_out_and_all_others_come_in_order(tmp_path, how, persistent):
    loader = loader_of(tmp_path, {4: how}, persistent=persistent)
    torch.manual_seed(0)
    for _ in range(2):
        batches = list(loader)
        assert [clip for batch in batches for clip in batch['clip_id']] == [str(i) for i in range(12)]
        assert [i for i, valid in enumerate(torch.cat([b['valid'] for b in batches]).tolist()) if not valid] == [4]
    drawn = torch.rand(())
    assert loader.lost == begun(tmp_path, 4) == (2 if how == 'killed' else 1)
    torch.manual_seed(0)
    whole = DataLoader(OddClips(tmp_path, {}), 3, num_workers=1, persistent_workers=persistent)
    for _ in range(2):
        list(whole)
    assert torch.rand(()) == drawn, 'as many random numbers were drawn'


def test_readers_lost_while_nobody_waits_interrupt_nothing(tmp_path):
    """Between epochs, where persistent ones rest, and in a training step."""
    loader = loader_of(tmp_path, {}, persistent=True)
    list(loader)
    for _ in range(2):
        for worker in loader._workers():
            worker.kill()
        time.sleep(0.2)
        clips = []
        for number, batch in enumerate(loader):
            if number == 1:
                os.kill(loader._workers()[0].pid, signal.SIGKILL)
                time.sleep(0.1)
            clips += batch['clip_id']
        assert clips == [str(i) for i in range(12)]
    assert 2 <= loader.lost <= 4


def test_a_reader_lost_while_memory_is_taken_over_leaves_none_behind(tmp_path, monkeypatch):
    loader, kept, taken = loader_of(tmp_path, {}), DupFd.detach, []

    def detach(self):
        taken.append(kept(self))
        if len(taken) == 3:
            os.kill(loader._workers()[0].pid, signal.SIGKILL)
            time.sleep(0.5)
        return taken[-1]

    def held():
        return sum('/torch_' in os.readlink(file) for file in Path('/proc/self/fd').iterdir() if file.is_symlink())

    before = held()
    monkeypatch.setattr(DupFd, 'detach', detach)
    assert [clip for batch in loader for clip in batch['clip_id']] == [str(i) for i in range(12)]
    assert loader.lost == 1
    assert held() == before


def test_what_a_data_set_raises_is_raised(tmp_path):
    class Fails(OddClips):
        def _read(self, record, rng):
            raise RuntimeError('this is no matter of workers')

    loader = watched(DataLoader(Fails(tmp_path, {}), 2, num_workers=1))
    with pytest.raises(RuntimeError, match='no matter of workers'):
        list(loader)
    assert loader.lost == 0


def test_loaders_without_workers_are_left_as_they_are(tmp_path):
    loader = DataLoader(OddClips(tmp_path, {}), 2)
    assert watched(loader) is loader
    assert isinstance(watched(DataLoader(OddClips(tmp_path, {}), 2, num_workers=1)), WatchedLoader)


def hang(folder, end):
    """Read, be in the midst of it, and end as `end` says."""
    loader = loader_of(folder, {5: 'hangs'}, workers=2, persistent=True)
    loader.dataset.limit_s = 0
    next(iter(loader))
    (folder / 'pids').write_text(' '.join(str(worker.pid) for worker in loader._workers()))
    if end == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)


@pytest.mark.parametrize('end', ['killed', 'over'])
def test_readers_that_hang_do_not_outlive_their_parent_nor_hold_it_up(tmp_path, end):
    process = multiprocessing.get_context('fork').Process(target=hang, args=(tmp_path, end))
    process.start()
    process.join(30)
    assert process.exitcode == (-signal.SIGKILL if end == 'killed' else 0)
    pids = (tmp_path / 'pids').read_text().split()
    assert len(pids) == 2
    until = time.monotonic() + 5
    while alive := [pid for pid in pids if Path(f'/proc/{pid}/stat').exists() and not is_zombie(pid)]:
        assert time.monotonic() < until, alive
        time.sleep(0.05)


def is_zombie(pid):
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
