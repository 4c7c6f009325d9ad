"""Benchmarks run from end to end in small, so that none rots; what they measure then means nothing."""

import json
import os
import re
import subprocess
import sys
from multiprocessing import forkserver

import pytest

from tests.running import ROOT, script

NAMES = ('contrastive_loss', 'train_step', 'retrieval_ranks', 'sampling', 'data', 'plan', 'search')


def started(name, *arguments):
    """A benchmark in a Python of its own: processes that it spawns begin with the script that Python was started with."""
    command = [sys.executable, ROOT / f'benchmarks/{name}.py', *arguments]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize('name', NAMES)
def test_it_runs_in_small_and_writes_no_page(name):
    before = {file: file.stat().st_mtime_ns for file in (ROOT / 'docs/results').glob('*.md')}
    if name == 'sampling':
        done = started('run_all', '--smoke', '--only', name)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f'benchmarks/{name}.py --smoke' in done.stdout
    else:
        script(f'benchmarks/{name}.py', '--smoke')
    assert {file: file.stat().st_mtime_ns for file in (ROOT / 'docs/results').glob('*.md')} == before


def test_synchronising_runs_in_small():
    said = script('benchmarks/synchronise.py', '--smoke')
    assert sum(map(int, re.findall(r'^\| 0\.\d to \d\.\d \| (\d+)', said, re.M))) == 8


def test_people_on_the_page_are_answered_as_when_alone():
    pytest.importorskip('gradio', reason='needs gradio: pip install "gmscavp[web]"')
    pytest.importorskip('lancedb', reason='needs lancedb: pip install "gmscavp[search]"')
    done = started('webapp', '--smoke')
    assert done.returncode == 0, done.stdout + done.stderr
    assert '| 3 at once, 1 rounds | 3 of 3 |' in done.stdout


def test_mutants_are_made_killed_and_counted():
    said = script('benchmarks/mutants.py', '--smoke')
    every, killed, survived, equivalent = map(int, re.findall(r'^\| all \| (.*)', said, re.M)[0].split(' | ')[:4])
    assert killed + survived + equivalent == every >= 4
    assert killed > 0


def test_damaged_media_are_read_and_counted(tmp_path):
    # As other tests leave it, whichever ran here before.
    forkserver.ensure_running()
    script('benchmarks/faults.py', 'media', '--smoke', '--work-dir', tmp_path)
    for backend in ('pyav', 'decord', 'cv2'):
        outcomes = [json.loads(line)[1][0] for line in (tmp_path / f'{backend}.jsonl').read_text().splitlines()[1:]]
        assert len(outcomes) == 24
        assert {'right clip', 'typed error'} <= {*outcomes}


def test_runs_stopped_while_they_save_lose_nothing(tmp_path):
    said = script('benchmarks/faults.py', 'saving', '--smoke', '--work-dir', tmp_path / 'run')
    for kind in ('SIGKILL', 'power cut', 'full disk'):
        numbers = re.findall(rf'{kind} +│ +(\d+) .*│ +(\d+) +│ +(\d+) +│$', said, re.M)[0]
        assert (numbers[0], numbers[-1]) == ('3', '0')
        assert int(numbers[1]) > 0, 'checkpoints were compared'
    assert 'Of 30 flipped bits 30 were noticed.' in said.replace('\n', ' ')


def test_a_training_goes_on_through_faults_and_does_every_step_once():
    said = script('benchmarks/faults.py', 'soak', '--smoke')
    for kind in ('worker killed', 'no number'):
        assert re.search(rf'{kind} +│ 1 +│ 1 ', said)


def test_every_benchmark_that_it_names_is_run_here():
    done = started('run_all', '--help')
    assert '{' + ','.join(NAMES) + '}' in done.stdout.replace('\n', '').replace(' ', '')
