"""What launchers leave out is said, what Slurm says is understood, and ranks that would part are stopped."""

from types import SimpleNamespace

import pytest
from mmengine.config import Config

from gmscavp.distributed import lost_ranks
from gmscavp.engine import launching, runner
from gmscavp.engine.launching import first_host, slurm_ranks, start_processes
from gmscavp.errors import UserError

SLURM = {'SLURM_PROCID': '5', 'SLURM_NTASKS': '16', 'SLURM_LOCALID': '1', 'SLURM_NODELIST': 'gpu[07-09,12],gpu20'}


@pytest.mark.parametrize(
    ('hosts', 'first'),
    [
        ('node1', 'node1'),
        ('node1,node2', 'node1'),
        ('gpu[07-09,12],gpu20', 'gpu07'),
        ('a-b[3,5]', 'a-b3'),
        ('x[100-101]', 'x100'),
    ],
)
def test_the_first_host_of_slurms_list(hosts, first):
    assert first_host(hosts) == first


def test_a_list_without_hosts_is_refused():
    with pytest.raises(UserError, match='MASTER_ADDR'):
        first_host('')


def test_slurms_variables_become_torchruns_and_an_address_that_is_set_stays():
    found = slurm_ranks(SLURM)
    assert found == dict(RANK='5', WORLD_SIZE='16', LOCAL_RANK='1', MASTER_ADDR='gpu07', MASTER_PORT='29500')
    assert slurm_ranks(SLURM | dict(MASTER_ADDR='head', MASTER_PORT='4'))['MASTER_ADDR'] == 'head'


@pytest.mark.parametrize(('launcher', 'absent'), [('pytorch', 'MASTER_PORT'), ('slurm', 'SLURM_LOCALID')])
def test_every_variable_that_is_missing_is_named(monkeypatch, launcher, absent):
    names = launching._STARTED_BY[launcher][0]
    for name in names:
        monkeypatch.setenv(name, '1')
    monkeypatch.delenv(absent)
    with pytest.raises(UserError, match=f'--launcher {launcher} needs {absent} from'):
        start_processes(Config(dict(launcher=launcher)))


@pytest.mark.parametrize('timeout', [0, -5, 'long'])
def test_a_timeout_that_is_none_is_refused(monkeypatch, timeout):
    for name in launching._TORCHRUN:
        monkeypatch.setenv(name, '1')
    with pytest.raises(UserError, match=r'dist_cfg\.timeout must be a number of seconds above 0'):
        start_processes(Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(timeout=timeout)))))


@pytest.mark.parametrize(
    ('found', 'said'),
    [(['epoch_2.pth', 'epoch_2.pth'], None), (['epoch_2.pth', 'none'], 'different checkpoints .epoch_2.pth, none.')],
)
def test_ranks_that_find_different_checkpoints_stop(monkeypatch, found, said):
    monkeypatch.setattr(runner, 'gather_objects', lambda own: found)
    run = SimpleNamespace(_resume=True, _load_from='/a/epoch_2.pth')
    if said is None:
        runner.PretrainRunner._demand_one_checkpoint(run)
    else:
        with pytest.raises(UserError, match=said):
            runner.PretrainRunner._demand_one_checkpoint(run)


def test_only_a_rank_that_is_gone_counts_as_lost():
    assert lost_ranks(RuntimeError('[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:41'))
    assert lost_ranks(RuntimeError('Timed out waiting 2000ms for recv operation to complete'))
    assert not lost_ranks(RuntimeError('shapes (3, 4) and (5, 6) do not fit'))
