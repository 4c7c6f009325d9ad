"""Benchmarks run from end to end in small, so that none rots; what they measure then means nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'benchmarks/run_all.py'
NAMES = ('contrastive_loss', 'train_step', 'retrieval_ranks', 'sampling', 'data', 'plan')


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize('name', NAMES)
def test_it_runs_in_small_and_writes_no_page(name):
    before = {file: file.stat().st_mtime_ns for file in (ROOT / 'docs/results').glob('*.md')}
    done = run('--smoke', '--only', name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'benchmarks/{name}.py --smoke' in done.stdout
    assert {file: file.stat().st_mtime_ns for file in (ROOT / 'docs/results').glob('*.md')} == before


def test_every_benchmark_that_it_names_is_run_here():
    done = run('--help')
    assert '{' + ','.join(NAMES) + '}' in done.stdout.replace('\n', '').replace(' ', '')
