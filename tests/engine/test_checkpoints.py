"""Whatever stops a save, the newest checkpoint that is found is a whole one."""

import errno
import os
import random
import shutil
import signal
import struct
import time
import zipfile
from pathlib import Path

import mmengine.runner.runner as mmengine_runner
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper

from gmscavp.engine import checkpoints
from gmscavp.engine.checkpoints import SafeCheckpointHook, is_whole, newest_checkpoint, part_name, put_in_place
from gmscavp.engine.runner import PretrainRunner
from gmscavp.errors import UserError


class Line(BaseModel):
    """The least that can be trained."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x, mode='loss'):
        return {'loss': self.layer(x).square().mean()}


def runner(folder, epochs=2, **checkpoint):
    model = Line()
    return PretrainRunner(
        model,
        str(folder),
        train_dataloader=dict(
            dataset=[dict(x=torch.ones(4)) for _ in range(4)],
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        default_hooks=dict(checkpoint=dict(type=SafeCheckpointHook, interval=1, **checkpoint)),
        default_scope='gmscavp',
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    runner(folder).train()
    return folder


@pytest.fixture
def run_folder(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / 'moved'))


def fail_with(number):
    def save(*_, **__):
        raise OSError(number, os.strerror(number))

    return save


def test_a_run_leaves_whole_checkpoints_and_nothing_beside_them(trained):
    assert sorted(file.name for file in trained.glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth']
    assert not list(trained.glob('.*.part'))
    assert newest_checkpoint(trained) == trained / 'epoch_2.pth'


def test_every_cut_and_every_flipped_bit_of_the_contents_is_found(trained, tmp_path):
    whole, copy = (trained / 'epoch_2.pth').read_bytes(), tmp_path / 'copy.pth'
    draw = random.Random(0)
    for length in [0, 1, 100, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(20))]:
        copy.write_bytes(whole[:length])
        assert not is_whole(copy), f'cut after {length} bytes'
    with zipfile.ZipFile(trained / 'epoch_2.pth') as archive:
        # Where the contents of members lie; names and padding between them hold nothing of the weights.
        spans = []
        for info in archive.infolist():
            head = info.header_offset
            name, extra = (int.from_bytes(whole[head + at : head + at + 2], 'little') for at in (26, 28))
            spans.append((head + 30 + name + extra, info.file_size))
    for start, size in (draw.choice([span for span in spans if span[1]]) for _ in range(40)):
        flipped = bytearray(whole)
        flipped[start + draw.randrange(size)] ^= 1 << draw.randrange(8)
        copy.write_bytes(flipped)
        assert not is_whole(copy)
    copy.write_bytes(whole)
    assert is_whole(copy)


def test_the_newest_whole_one_is_taken_and_damaged_ones_are_named(run_folder):
    for number in (3, 4):
        (run_folder / f'epoch_{number}.pth').write_bytes((run_folder / 'epoch_2.pth').read_bytes()[: -7 * number])
    (run_folder / 'best_retrieval_epoch_4.pth').write_bytes((run_folder / 'epoch_2.pth').read_bytes())
    (run_folder / part_name('epoch_5.pth')).write_bytes((run_folder / 'epoch_2.pth').read_bytes())
    (run_folder / 'last_checkpoint').write_text('')
    said = []
    assert newest_checkpoint(run_folder, said.append) == run_folder / 'epoch_2.pth'
    assert [line.split('/')[-1] for line in said] == [
        f'epoch_{number}.pth is damaged and passed over' for number in (4, 3)
    ]
    assert newest_checkpoint(run_folder / 'nothing') is None


@pytest.mark.parametrize('step', ['write', 'rename'])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, step):
    runner(tmp_path, epochs=1, max_keep_ckpts=1).train()
    before = (tmp_path / 'epoch_1.pth').read_bytes()
    with monkeypatch.context() as patch:
        if step == 'write':
            patch.setattr(mmengine_runner, 'save_checkpoint', fail_with(errno.ENOSPC))
        else:
            patch.setattr(checkpoints.Path, 'replace', fail_with(errno.ENOSPC))
        going_on = runner(tmp_path, epochs=2, max_keep_ckpts=1)
        going_on._resume, going_on._load_from = True, str(tmp_path / 'epoch_1.pth')
        with pytest.raises(UserError, match=r'could not be saved .*No space left.*go on with --resume'):
            going_on.train()
    assert (tmp_path / 'epoch_1.pth').read_bytes() == before, 'removed only when the next one is whole'
    assert sorted(file.name for file in tmp_path.iterdir() if 'epoch' in file.name) == ['epoch_1.pth']
    going_on = runner(tmp_path, epochs=2, max_keep_ckpts=1)
    going_on._resume, going_on._load_from = True, str(newest_checkpoint(tmp_path))
    going_on.train()
    assert [file.name for file in tmp_path.glob('*.pth')] == ['epoch_2.pth']


def test_runs_of_one_second_share_nothing(tmp_path, monkeypatch):
    second = time.mktime((2026, 1, 1, 0, 0, 0, 0, 1, 0))
    monkeypatch.setattr(mmengine_runner.time, 'time', lambda: second)
    first = runner(tmp_path)
    first.message_hub.update_info('best_score', 1.0)
    others = [runner(tmp_path) for _ in range(2)]
    assert all(one.message_hub.get_info('best_score') is None for one in others)
    runs = [first, *others]
    for parts in (lambda run: run.message_hub, lambda run: run.logger, lambda run: run.log_dir):
        assert len({id(part) if not isinstance(part, str) else part for part in map(parts, runs)}) == 3


def archive_of(number, file):
    """As torch writes one, without torch's threads, which a forked process may not have."""
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('data', number.to_bytes(4) * 200_000)


def test_no_kill_loses_more_than_the_save_it_fell_into(tmp_path):
    draw, file, part = random.Random(1), tmp_path / 'epoch_1.pth', tmp_path / part_name('epoch_1.pth')
    last = 0
    for _ in range(20):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            for number in range(last + 1, last + 1_000_000):
                archive_of(number, part)
                put_in_place(part, file)
                os.write(writing, b'.')
        os.read(reading, 1)
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
        assert newest_checkpoint(tmp_path) == file
        with zipfile.ZipFile(file) as archive:
            found = {int.from_bytes(word) for (word,) in struct.iter_unpack('4s', archive.read('data'))}
        assert len(found) == 1, 'of one save alone'
        assert min(found) > last, 'what was finished before the kill is there'
        last = min(found)
