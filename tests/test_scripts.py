"""The shell scripts, with a stand-in for Python: nothing is installed and nothing is trained here."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / 'tools').glob('*.sh'))
PYTHON_NAMES = ('python3.11', 'python3.12', 'python3.13', 'python3', 'python')
SETTINGS = ('PYTHON', 'PORT', 'NNODES', 'NODE_RANK', 'MASTER_ADDR', 'OMP_NUM_THREADS', 'SRUN_ARGS')
SETTINGS += ('MAX_RESTARTS', 'RDZV_ENDPOINT', 'RDZV_ID')
SETTINGS += ('GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK')

PYTEST = '-m pytest -n 2 --dist loadfile --no-loadscope-reorder'

pytestmark = pytest.mark.skipif(shutil.which('bash') is None, reason='bash is not on this machine')

# Writes down modules and tools that it is asked to run, fails on FAIL_ON, and is Python for everything else.
STAND_IN = r"""#!/usr/bin/env bash
case "$*" in
    '-m pip --version') exit 0 ;;
    '-c import ensurepip, venv') exit "${NO_VENV_MODULE:-0}" ;;
    '-c import cv2') [[ -z ${CV2_ERROR:-} ]] || { echo "$CV2_ERROR" >&2; exit 1; }; exit 0 ;;
    -c*print*) [[ -z ${OLD:-} ]] || { echo "$OLD"; exit 0; } ;;
    -c*exit*) [[ -z ${OLD:-} ]] || exit 1 ;;
esac
if [[ $1 == -m || $1 == -u || $1 == *tools/*.py ]]; then
    printf '%s\n' "$*" >>"$CALLS"
    printf 'OMP_NUM_THREADS=%s\n' "${OMP_NUM_THREADS:-}" >>"$CALLS.env"
    sleep "${SLEEP:-0}"
    if [[ -n ${FAIL_ON:-} && "$*" == *"$FAIL_ON"* ]]; then
        printf '%s\n' "${FAIL_SAYS:-it went wrong}"
        exit 3
    fi
    if [[ "$1 $2" == '-m venv' ]]; then
        mkdir -p "${!#}/bin" && rm -rf "${!#}/lib" && touch "${!#}/pyvenv.cfg"
        [[ $0 -ef ${!#}/bin/python ]] || cp "$0" "${!#}/bin/python"
    elif [[ $1 == tools/train.py ]]; then
        mkdir -p "$4" && touch "$4/epoch_1.pth"
        printf '/somewhere/else/epoch_1.pth' >"$4/last_checkpoint"
    elif [[ $1 == tools/test.py ]]; then
        echo 'THE TABLE'
    fi
    exit 0
fi
exec REAL_PYTHON "$@"
"""


class Checkout:
    """A copy of the scripts and of what they read, with the stand-in as every Python on PATH."""

    def __init__(self, folder: Path):
        self.root = folder / 'a checkout'
        self.bin = folder / 'bin'
        self.calls_file = folder / 'calls'
        shutil.copytree(ROOT / 'tools', self.root / 'tools', ignore=shutil.ignore_patterns('*.py', '__pycache__'))
        shutil.copytree(ROOT / '.ci', self.root / '.ci')
        shutil.copytree(ROOT / 'requirements', self.root / 'requirements')
        shutil.copy(ROOT / 'setup.cfg', self.root)
        (self.root / 'config.py').touch()
        (self.root / 'weights.pth').touch()
        for name in PYTHON_NAMES:
            self.put_command(name, STAND_IN.replace('REAL_PYTHON', f"'{sys.executable}'"))

    def put_command(self, name: str, text: str) -> None:
        self.bin.mkdir(exist_ok=True)
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def environment(self, **settings: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        return inherited | {'PATH': f'{self.bin}:{os.environ["PATH"]}', 'CALLS': str(self.calls_file)} | settings

    def run(self, script: str, *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
        command = ['bash', str(self.root / script), *args]
        environment = self.environment(**settings)
        return subprocess.run(
            command, env=environment, cwd=self.root, capture_output=True, text=True, timeout=60, check=False
        )

    def calls(self) -> list[str]:
        """What the stand-in was asked to run since the last time of asking."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.fixture
def ready(checkout):
    """A checkout with an environment that is up to date."""
    assert checkout.run('tools/make_env.sh').returncode == 0
    checkout.calls()
    return checkout


def refuses(done: subprocess.CompletedProcess[str], *words: str) -> bool:
    """One sentence that holds the words, no traceback, and an exit code that is not 0."""
    sentence = done.stderr.strip()
    return done.returncode != 0 and '\n' not in sentence and all(word in sentence for word in words)


@pytest.mark.parametrize('script', [*SCRIPTS, ROOT / '.ci/run'], ids=lambda path: path.name)
def test_script_parses_and_can_be_run(script):
    subprocess.run(['bash', '-n', script], check=True)
    assert os.access(script, os.X_OK) == (script.name != 'common.sh')


@pytest.mark.parametrize('script', [path.name for path in SCRIPTS if path.name != 'common.sh'])
def test_help_is_given_and_nothing_run(checkout, script):
    done = checkout.run(f'tools/{script}', '--help')
    assert done.returncode == 0
    assert done.stdout.startswith('usage: bash tools/' + script)
    assert checkout.calls() == []


@pytest.mark.parametrize(
    ('script', 'args', 'settings', 'words'),
    [
        ('dist_train.sh', ['no_such.py', '2'], {}, ['no_such.py']),
        ('dist_train.sh', ['config.py', 'x'], {}, ['GPUS', "'x'"]),
        ('dist_train.sh', ['config.py', '0'], {}, ['GPUS', "'0'"]),
        ('dist_train.sh', ['config.py', '-1'], {}, ['GPUS']),
        ('dist_train.sh', ['config.py', '2'], {'PORT': 'http'}, ['PORT', "'http'"]),
        ('dist_train.sh', ['config.py', '2'], {'PORT': '70000'}, ['PORT', '65535']),
        ('dist_train.sh', ['config.py', '2'], {'NNODES': '2'}, ['MASTER_ADDR']),
        ('dist_train.sh', ['config.py', '2'], {'NNODES': '2', 'NODE_RANK': '2', 'MASTER_ADDR': 'a'}, ['NODE_RANK']),
        ('dist_train.sh', ['config.py', '2'], {'NNODES': '3:2', 'RDZV_ENDPOINT': 'a:1'}, ['MIN:MAX', "'3:2'"]),
        ('dist_train.sh', ['config.py', '2'], {'NNODES': '1:2'}, ['RDZV_ENDPOINT', 'HOST:PORT']),
        ('dist_train.sh', ['config.py', '2'], {'NNODES': '2', 'MAX_RESTARTS': '-1'}, ['MAX_RESTARTS', "'-1'"]),
        ('dist_test.sh', ['config.py', 'no_such.pth', '2'], {}, ['no_such.pth']),
        ('dist_test.sh', ['config.py', 'weights.pth', 'two'], {}, ['GPUS']),
        ('slurm_train.sh', ['part', 'name', 'no_such.py'], {}, ['no_such.py']),
        ('slurm_train.sh', ['part', 'name', 'config.py'], {'GPUS': '2', 'GPUS_PER_NODE': '4'}, ['GPUS_PER_NODE']),
    ],
)
def test_wrong_argument_is_one_sentence(checkout, script, args, settings, words):
    checkout.put_command('srun', '#!/bin/sh\nexit 0\n')
    assert refuses(checkout.run(f'tools/{script}', *args, **settings), *words)
    assert checkout.calls() == []


@pytest.mark.parametrize(
    ('script', 'args'),
    [
        ('dist_train.sh', []),
        ('dist_train.sh', ['config.py']),
        ('dist_test.sh', ['config.py', '2']),
        ('slurm_train.sh', ['config.py']),
        ('quickstart.sh', ['--nonsense']),
        ('make_env.sh', ['--nonsense']),
    ],
)
def test_wrong_use_shows_usage(checkout, script, args):
    done = checkout.run(f'tools/{script}', *args)
    assert done.returncode == 2
    assert 'usage: bash tools/' + script in done.stderr
    assert all(argument in done.stderr for argument in args if argument == '--nonsense')
    assert checkout.calls() == []


def test_slurm_train_without_slurm(checkout):
    if shutil.which('srun'):
        pytest.skip('this machine has Slurm')
    assert refuses(checkout.run('tools/slurm_train.sh', 'part', 'name', 'config.py'), 'srun', 'dist_train.sh')


@pytest.fixture
def busy_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen()
        yield str(listener.getsockname()[1])


def test_busy_port_stops_before_anything_starts(checkout, busy_port):
    began = time.monotonic()
    done = checkout.run('tools/dist_train.sh', 'config.py', '2', PORT=busy_port)
    assert time.monotonic() - began < 5
    assert refuses(done, f'port {busy_port} is busy')
    assert checkout.calls() == []


def test_port_is_the_concern_of_node_0(checkout, busy_port):
    # The other nodes connect to that port on node 0; on their own machine it may serve something else.
    settings = {'PORT': busy_port, 'NNODES': '2', 'MASTER_ADDR': '127.0.0.1'}
    assert refuses(checkout.run('tools/dist_train.sh', 'config.py', '2', NODE_RANK='0', **settings), 'is busy')
    assert checkout.run('tools/dist_train.sh', 'config.py', '2', NODE_RANK='1', **settings).returncode == 0


def test_dist_train_hands_everything_on(checkout):
    script = str(checkout.root / 'tools/train.py')
    assert checkout.run('tools/dist_train.sh', 'config.py', '2', '--amp', '--cfg-options', 'a=[1, 2]').returncode == 0
    (call,) = checkout.calls()
    assert call.startswith(f'{checkout.root}/tools/torchrun.py --standalone ')
    assert call.endswith(f'--nproc_per_node 2 {script} config.py --launcher pytorch --amp --cfg-options a=[1, 2]')


def test_dist_test_hands_everything_on(checkout):
    assert checkout.run('tools/dist_test.sh', 'config.py', 'weights.pth', '3', '--out', 'm.json').returncode == 0
    (call,) = checkout.calls()
    assert call.endswith(
        '--nproc_per_node 3 ' + f'{checkout.root}/tools/test.py config.py weights.pth --launcher pytorch --out m.json'
    )


def test_several_nodes_meet_at_node_0(checkout):
    settings = {'NNODES': '2', 'NODE_RANK': '1', 'MASTER_ADDR': 'node0'}
    assert checkout.run('tools/dist_train.sh', 'config.py', '4', **settings).returncode == 0
    (call,) = checkout.calls()
    assert '--nnodes 2 --node_rank 1 --master_addr node0 --master_port 29500 --nproc_per_node 4' in call


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({'MAX_RESTARTS': '3'}, '--standalone --local_addr 127.0.0.1 --max_restarts 3'),
        (
            {'NNODES': '2:4', 'RDZV_ENDPOINT': 'node0:400', 'RDZV_ID': 'run7'},
            '--nnodes 2:4 --rdzv_backend c10d --rdzv_endpoint node0:400 --rdzv_id run7 --max_restarts 0',
        ),
        (
            {'NNODES': '2', 'MAX_RESTARTS': '1', 'MASTER_ADDR': '127.0.0.1'},
            '--nnodes 2 --rdzv_backend c10d --rdzv_endpoint 127.0.0.1:29500 --rdzv_id gmscavp --local_addr 127.0.0.1 '
            '--max_restarts 1',
        ),
    ],
)
def test_elastic_runs_meet_anew_and_resume_by_themselves(checkout, settings, words):
    assert checkout.run('tools/dist_train.sh', 'config.py', '2', '--amp', **settings).returncode == 0
    assert checkout.run('tools/dist_train.sh', 'config.py', '2', '--resume', 'a.pth', **settings).returncode == 0
    by_itself, by_name = checkout.calls()
    begin = f'{checkout.root}/tools/torchrun.py {words} --nproc_per_node 2 {checkout.root}/tools/train.py config.py'
    assert by_itself == f'{begin} --launcher pytorch --resume --amp'
    assert by_name == f'{begin} --launcher pytorch --resume a.pth'


def test_processes_share_the_cores(checkout):
    seen = checkout.calls_file.with_name('calls.env')
    checkout.run('tools/dist_train.sh', 'config.py', '100000')
    checkout.run('tools/dist_train.sh', 'config.py', '2', OMP_NUM_THREADS='7')
    assert seen.read_text().split() == ['OMP_NUM_THREADS=1', 'OMP_NUM_THREADS=7']


def test_slurm_train_hands_everything_on(checkout):
    checkout.put_command('srun', '#!/bin/sh\nprintf "%s\\n" "$MASTER_PORT" "$@"\n')
    settings = {'GPUS': '16', 'SRUN_ARGS': '--time 10 --exclusive', 'PORT': '1234'}
    done = checkout.run('tools/slurm_train.sh', 'part', 'a name', 'config.py', '--resume', **settings)
    port, *words = done.stdout.splitlines()
    said = ' '.join(words)
    assert port == '1234'
    assert 'a name' in words
    assert '--gres gpu:8 --ntasks 16 --ntasks-per-node 8 --cpus-per-task 5' in said
    assert '--time 10 --exclusive ' in said
    assert said.endswith(f'-u {checkout.root}/tools/train.py config.py --launcher slurm --resume')


def test_make_env_installs_torch_first_and_always_with_constraints(checkout):
    assert checkout.run('tools/make_env.sh').returncode == 0
    venv, *pips = checkout.calls()
    assert venv.startswith('-m venv')
    assert len(pips) == 2
    assert all('-c requirements/constraints.txt' in call for call in pips)
    assert pips[0].endswith('constraints.txt torch')
    assert pips[1].endswith('-e .[test]')
    assert not any('index' in call for call in pips)


def test_make_env_leaves_an_environment_that_is_up_to_date(ready):
    began = time.monotonic()
    done = ready.run('tools/make_env.sh')
    assert time.monotonic() - began < 2
    assert done.returncode == 0
    assert 'up to date' in done.stdout
    assert ready.calls() == []


@pytest.mark.parametrize('name', ['setup.cfg', 'requirements/constraints.txt'])
def test_make_env_installs_again_after_a_change(ready, name):
    with (ready.root / name).open('a') as file:
        file.write('# another line\n')
    assert ready.run('tools/make_env.sh').returncode == 0
    assert [call.split()[1] for call in ready.calls()] == ['pip', 'pip']
    assert 'up to date' in ready.run('tools/make_env.sh').stdout


def test_make_env_begins_anew_in_another_folder(ready):
    moved = ready.root.with_name('moved')
    ready.root.rename(moved)
    ready.root = moved
    done = ready.run('tools/make_env.sh')
    assert 'made in another folder' in done.stdout
    assert [call.split()[1] for call in ready.calls()] == ['venv', 'pip', 'pip']


def test_make_env_completes_what_was_cut_off(checkout):
    assert checkout.run('tools/make_env.sh', FAIL_ON='[test]').returncode != 0
    checkout.calls()
    assert checkout.run('tools/make_env.sh').returncode == 0
    assert [call.split()[1] for call in checkout.calls()] == ['pip', 'pip']


def test_make_env_does_not_trust_the_stamp_of_before_a_failure(ready):
    constraints = ready.root / 'requirements/constraints.txt'
    before = constraints.read_text()
    constraints.write_text(before + 'other==1\n')
    assert ready.run('tools/make_env.sh', FAIL_ON='[test]').returncode != 0
    constraints.write_text(before)
    assert 'up to date' not in ready.run('tools/make_env.sh').stdout


def test_make_env_begins_anew_where_a_package_is_half_there(ready):
    (ready.root / '.venv/gmscavp.stamp').unlink()
    (ready.root / '.venv/lib/python3.11/site-packages/torch-2.0.dist-info').mkdir(parents=True)
    done = ready.run('tools/make_env.sh')
    assert 'torch-2.0 was cut off' in done.stdout
    assert done.returncode == 0
    assert [call.split()[1] for call in ready.calls()] == ['venv', 'pip', 'pip']


def test_make_env_shows_what_pip_said(checkout):
    said = 'Looking\nERROR: no such version'
    done = checkout.run('tools/make_env.sh', FAIL_ON='pip install', FAIL_SAYS=said)
    *tail, sentence = done.stderr.splitlines()
    assert done.returncode != 0
    assert tail == said.splitlines()
    log = checkout.root / '.venv/install.log'
    assert str(log) in sentence
    assert log.read_text().splitlines() == tail


def test_make_env_names_a_full_disk(checkout):
    done = checkout.run('tools/make_env.sh', FAIL_ON='pip install', FAIL_SAYS='OSError: No space left on device')
    assert done.returncode != 0
    assert 'the disk is full' in done.stderr.splitlines()[-1]


def test_make_env_shows_large_downloads(checkout):
    log = 'Downloading torch-2.whl (800.1 MB)\n  Downloading small.whl (12 kB)\nwrong'
    done = checkout.run('tools/make_env.sh', FAIL_ON='pip install', FAIL_SAYS=log)
    assert 'downloading torch-2.whl (800.1 MB)' in done.stdout
    assert 'small.whl' not in done.stdout


def test_two_make_envs_do_not_collide(checkout):
    command = ['bash', str(checkout.root / 'tools/make_env.sh')]
    environment = checkout.environment(SLEEP='0.3')
    if shutil.which('flock') is None:
        pytest.skip('flock is not on this machine')
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = ''.join(process.communicate(timeout=60)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert len(checkout.calls()) == 3
    assert 'waiting for it' in said
    assert 'up to date' in said


def test_make_env_refuses_an_old_python(checkout):
    old = str(checkout.bin / 'python3')
    done = checkout.run('tools/make_env.sh', PYTHON=old, OLD='3.8')
    assert refuses(done, '3.11', f'{old} is 3.8')
    assert refuses(checkout.run('tools/make_env.sh', PYTHON='no_such_python'), 'no_such_python does not run')
    done = checkout.run('tools/make_env.sh', OLD='3.9')
    assert refuses(done, 'python3 is 3.9', 'apt-get install -y python3.11')
    assert checkout.calls() == []


def test_make_env_names_the_missing_venv_module(checkout):
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    assert refuses(checkout.run('tools/make_env.sh', NO_VENV_MODULE='1'), f'apt-get install -y python{version}-venv')


@pytest.mark.parametrize(
    ('error', 'package'),
    [
        ('ImportError: libGL.so.1: cannot open shared object file', 'libgl1'),
        ('ImportError: libgthread-2.0.so.0: cannot open shared object file', 'libglib2.0-0'),
    ],
)
def test_make_env_names_the_missing_library(checkout, error, package):
    done = checkout.run('tools/make_env.sh', CV2_ERROR=f'Traceback\n{error}')
    assert refuses(done, f'apt-get install -y {package}')
    assert 'up to date' not in checkout.run('tools/make_env.sh').stdout


def test_make_env_keeps_a_folder_that_is_no_environment(checkout):
    kept = checkout.root / '.venv/bin/precious'
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert refuses(checkout.run('tools/make_env.sh'), 'is not a virtual environment')
    assert kept.exists()


def test_quickstart_runs_the_steps_and_ends_with_the_table(ready):
    done = ready.run('tools/quickstart.sh')
    assert done.returncode == 0
    assert ready.calls() == [
        'tools/prepare_data.py impacts --out data/impacts',
        'tools/train.py configs/gmscavp_impacts.py --work-dir work_dirs/quickstart',
        'tools/train.py configs/v2a_frozen_impacts.py --work-dir work_dirs/quickstart/v2a --cfg-options max_epochs=6 '
        'init.video_backbone=work_dirs/quickstart/epoch_1.pth init.video_pyramid=work_dirs/quickstart/epoch_1.pth',
        'tools/search.py index data/impacts/video --model work_dirs/quickstart/epoch_1.pth '
        '--db work_dirs/quickstart/search',
        'tools/test.py configs/gmscavp_impacts.py work_dirs/quickstart/epoch_1.pth '
        '--generator configs/v2a_frozen_impacts.py work_dirs/quickstart/v2a '
        '--out work_dirs/quickstart/metrics.json --report work_dirs/quickstart/report.html',
    ]
    table, hint = done.stdout.splitlines()[-2:]
    assert table == 'THE TABLE'
    assert hint.endswith('python -m gmscavp.webapp --run work_dirs/quickstart')


def test_quickstart_goes_on_where_it_stopped(ready):
    done = ready.run('tools/quickstart.sh', FAIL_ON='tools/test.py')
    assert refuses(done, '6/6', 'run it again')
    assert done.returncode == 3
    ready.calls()
    assert ready.run('tools/quickstart.sh').returncode == 0
    pretrained, generator = ready.calls()[1:3]
    assert pretrained.endswith('--work-dir work_dirs/quickstart --resume')
    assert '--work-dir work_dirs/quickstart/v2a --resume' in generator


def test_quickstart_begins_anew_only_when_told(ready):
    ready.run('tools/quickstart.sh')
    mark = ready.root / 'work_dirs/quickstart/mark'
    data = ready.root / 'data/impacts/clip.mp4'
    data.parent.mkdir(parents=True)
    data.touch()
    mark.touch()
    ready.run('tools/quickstart.sh')
    assert mark.exists()
    ready.calls()
    done = ready.run('tools/quickstart.sh', '--fresh')
    assert 'removing work_dirs/quickstart' in done.stdout
    assert not mark.exists()
    assert data.exists()
    assert not ready.calls()[1].endswith('--resume')


def test_quickstart_says_how_to_go_on_after_ctrl_c(ready):
    process = subprocess.Popen(
        ['bash', str(ready.root / 'tools/quickstart.sh')],
        env=ready.environment(SLEEP='30'),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has them ignore Ctrl-C, and bash cannot trap what it inherits so.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  (one thread here)
    )
    while not ready.calls_file.exists():
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, sentence = process.communicate(timeout=10)
    assert process.returncode == 130
    assert sentence.count('\n') == 1
    assert 'to go on' in sentence


@pytest.mark.parametrize('failing', ['prepare_data.py', 'train.py'])
def test_quickstart_stops_at_the_step_that_fails(ready, failing):
    done = ready.run('tools/quickstart.sh', FAIL_ON=failing)
    assert refuses(done)
    assert failing in ready.calls()[-1]


@pytest.mark.parametrize('failing', ['', 'ruff check', 'ruff format', 'mypy', 'pytest'])
def test_run_tests_runs_every_check_and_sums_up(ready, failing):
    done = ready.run('tools/run_tests.sh', '-k', 'a or b', FAIL_ON=failing)
    assert ready.calls() == ['-m ruff check', '-m ruff format --check', '-m mypy', f'{PYTEST} -k a or b']
    verdicts = {line[:12].strip(): line.split()[-3] for line in done.stdout.splitlines()[-4:]}
    assert verdicts == {name: 'FAILED' if name == failing else 'ok' for name in verdicts}
    assert len(verdicts) == 4
    assert done.returncode == bool(failing)


def test_ci_runs_the_tests_from_anywhere(ready, tmp_path):
    run = subprocess.run(
        [ready.root / '.ci/run'], env=ready.environment(), cwd=tmp_path, capture_output=True, check=False
    )
    assert run.returncode == 0
    assert ready.calls()[-1] == PYTEST
