"""How a tool ends: one sentence for what a user can mend, the traceback for everything else."""

import errno
import os
import subprocess
import sys

import pytest
from torch.utils.data import DataLoader, Dataset

from gmscavp.engine.cli import run_tool
from gmscavp.errors import UserError
from tests.running import ROOT

RANK = """
import atexit, os, threading, time
from gmscavp.engine.cli import run_tool
from gmscavp.errors import UserError

class AbortedInTheTeardown:
    def __del__(self, abort=os.abort):
        abort()

left = AbortedInTheTeardown()

def main():
    atexit.register(print, 'at exit')
    threading.Thread(target=lambda: (time.sleep(0.3), print('a thread'))).start()
    print('done')
    if {fails}:
        raise UserError('do this.')

run_tool(main)
"""


class Broken(Dataset):
    """A data set whose every item is a user's mistake, raised in a worker process."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise UserError('20 clips in a row could not be read; the last: x.')


def read_with_a_worker():
    next(iter(DataLoader(Broken(), num_workers=1)))


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ('main', 'code', 'said'),
    [
        (raising(UserError('do this.')), 2, 'gmscavp: do this.\n'),
        (read_with_a_worker, 2, 'gmscavp: 20 clips in a row could not be read; the last: x.\n'),
        (raising(OSError(errno.ENOSPC, 'full', 'x.pth')), 2, 'gmscavp: no disk space is left for x.pth; free some'),
        (raising(KeyboardInterrupt()), 130, 'gmscavp: stopped by Ctrl-C'),
        (raising(KeyboardInterrupt('stopped after 3 of 5')), 130, 'gmscavp: stopped after 3 of 5\n'),
    ],
)
def test_one_sentence_and_an_exit_code(main, code, said, capsys, monkeypatch):
    monkeypatch.setattr('sys.argv', ['tool'])
    with pytest.raises(SystemExit) as ended:
        run_tool(main)
    err = capsys.readouterr().err
    assert ended.value.code == code
    assert err.startswith(said)
    assert len(err.splitlines()) == 1


def test_what_is_no_users_mistake_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr('sys.argv', ['tool'])
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda: 1 // 0)
    with pytest.raises(PermissionError):
        run_tool(raising(PermissionError(errno.EACCES, 'no')))
    monkeypatch.setattr('sys.argv', ['tool', '--traceback'])
    with pytest.raises(UserError):
        run_tool(raising(UserError('do this.')))


@pytest.mark.parametrize('code', [0, 2])
def test_a_rank_ends_without_a_teardown_and_with_all_it_has_to_say(code):
    command = [sys.executable, '-c', RANK.format(fails=code > 0)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {'RANK': '1'}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines() == ['done', 'a thread', 'at exit']
    assert done.stderr == 'gmscavp: do this.\n' * (code > 0)
