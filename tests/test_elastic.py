"""torchrun's agents with training processes under them: what happens when one of these ends, fails or hangs.

Agents and processes are forked, since each that is started anew spends its time in imports; tests/test_scripts.py sees to
the command line.
"""

import os
import runpy
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import multiprocessing
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gmscavp.compat import load_checkpoint_file
from gmscavp.engine.config import load_config
from gmscavp.engine.runner import build_runner
from tests.running import free_port, say_into
from tests.slow_line import write_config

ROOT = Path(__file__).parents[1]
SAID_BY_TORCHRUN = runpy.run_path(str(ROOT / 'tools/torchrun.py'))


def train(arguments, folder):
    """A rank: tools/train.py, as torchrun runs it."""
    rank = os.environ['RANK']
    # torchrun's own logs would be written over by an agent that only meets the others again, which counts no restart.
    for descriptor, name in ((1, 'stdout'), (2, 'stderr')):
        say_into(Path(folder, 'said', f'{rank}_{os.getpid()}_{name}'), descriptor)
    Path(folder, 'pids', rank).write_text(str(os.getpid()))
    torch.set_num_threads(1)
    sys.argv = ['train.py', *arguments]
    runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')


def agent(node, nodes, processes, port, folder, arguments, restarts, environment):
    """One machine's torchrun; ends with the code that tools/torchrun.py ends with."""
    # As tools/common.sh has it.
    os.environ.update(environment, TORCH_DISABLE_SHARE_RDZV_TCP_STORE='1')
    settings = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id='test',
        rdzv_backend='c10d',
        rdzv_endpoint=f'127.0.0.1:{port}',
        max_restarts=restarts,
        monitor_interval=0.1,
        start_method='fork',
        local_addr='127.0.0.1',
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / f'logs{node}')),
    )
    code = 0
    try:
        elastic_launch(settings, train)(list(map(str, arguments)), str(folder))
    except ChildFailedError as error:
        code = SAID_BY_TORCHRUN['code_of'](error) or 1
    # Not by way of pytest, which this process is a copy of.
    os._exit(code)


def start(folder, nodes, processes, arguments, restarts=0, **environment):
    for name in ('pids', 'said'):
        (folder / name).mkdir()
    port = free_port()
    context = multiprocessing.get_context('fork')
    given = (nodes, processes, port, folder, arguments, restarts, environment)
    agents = [context.Process(target=agent, args=(node, *given)) for node in range(nodes)]
    for each in agents:
        each.start()
    return agents


def ended(agents, within_s=120):
    for each in agents:
        each.join(within_s)
    codes = [each.exitcode for each in agents]
    for each in agents:
        each.kill()
    return codes


def said(folder, rank='*', stream='*'):
    return ''.join(file.read_text() for file in folder.glob(f'said/{rank}_*_{stream}'))


def wait_for(file, within_s=100):
    until = time.monotonic() + within_s
    while not file.exists():
        assert time.monotonic() < until, f'{file} has not come'
        time.sleep(0.02)


def test_two_machines_go_on_after_a_rank_is_killed_and_learn_what_one_process_learns(tmp_path):
    run = tmp_path / 'run'
    config = write_config(tmp_path / 'line.py', ranks=2)
    agents = start(
        tmp_path, 2, 1, [config, '--work-dir', run, '--launcher', 'pytorch', '--resume'], 3, SLOW_LINE_S='0.2'
    )
    wait_for(run / 'epoch_2.pth')
    os.kill(int((tmp_path / 'pids' / '1').read_text()), signal.SIGKILL)
    assert ended(agents) == [0, 0]
    alone = load_config(write_config(tmp_path / 'alone.py', ranks=1))
    alone.work_dir = str(tmp_path / 'alone')
    build_runner(alone).train()
    found, expected = (load_checkpoint_file(folder / 'epoch_4.pth') for folder in (run, tmp_path / 'alone'))
    assert (found['meta']['epoch'], found['meta']['iter']) == (4, 8)
    for name, value in expected['state_dict'].items():
        torch.testing.assert_close(found['state_dict'][name], value, msg=name)
    out = said(tmp_path)
    assert out.count('holds no checkpoint to resume: training begins at the beginning') == 1
    assert 'Saving checkpoint at 1 epochs' in out
    assert 'resumed epoch: 2, iter: 4' in out
    # Each of the two starts says it once, not once a rank.
    assert out.count('there is no GPU: 2 ranks work together over gloo') == 2


@pytest.mark.parametrize(('what', 'timeout', 'code'), [('fails', None, 2), ('hangs', 2, 1)])
def test_one_rank_that_fails_or_hangs_ends_all_and_is_not_drowned_out(tmp_path, what, timeout, code):
    config = write_config(tmp_path / 'line.py', ranks=2, timeout=timeout)
    began = time.monotonic()
    arguments = [config, '--work-dir', tmp_path / 'run', '--launcher', 'pytorch']
    assert ended(start(tmp_path, 1, 2, arguments, SLOW_LINE=what)) == [code]
    assert time.monotonic() - began < 60
    assert 'Traceback' not in said(tmp_path, stream='stderr')
    sentence = 'gmscavp: the third step is too much for rank 1.\n'
    assert (sentence in said(tmp_path, 1, 'stderr')) == (what == 'fails')
    if what == 'hangs':
        assert 'another rank has ended or does not answer' in said(tmp_path, 0, 'stderr')
        assert 'env_cfg.dist_cfg.timeout' in said(tmp_path, 0, 'stderr')
