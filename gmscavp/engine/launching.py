"""Starting the ranks of a run from what their launcher, torchrun or Slurm, tells each of them."""

import os
import re
from collections.abc import Mapping

import torch
from mmengine.config import Config
from torch import distributed

from gmscavp.distributed import start_gloo, world
from gmscavp.errors import UserError

_TORCHRUN = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
_SLURM = ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID', 'SLURM_NODELIST')
_STARTED_BY = {
    'pytorch': (_TORCHRUN, 'torchrun', 'bash tools/dist_train.sh CONFIG GPUS'),
    'slurm': (_SLURM, 'srun', 'bash tools/slurm_train.sh'),
}
_HOST = re.compile(r'([^,\[]+)(?:\[(\d+)[^\]]*\])?')


def start_processes(config: Config) -> None:
    """See that the launcher has said what it has to; without NCCL join the process group here, over gloo.

    With NCCL MMEngine joins it. env_cfg.dist_cfg.timeout: seconds that a rank waits for the others. UserError: variables of
    the launcher are missing.
    """
    if config.launcher not in _STARTED_BY:
        return
    names, launcher, command = _STARTED_BY[config.launcher]
    if missing := [name for name in names if name not in os.environ]:
        raise UserError(
            f'--launcher {config.launcher} needs {", ".join(missing)} from {launcher}; start it with {command}.'
        )
    asked = config.get('env_cfg', {}).get('dist_cfg', {})
    timeout_s = asked.get('timeout')
    if timeout_s is not None and (not isinstance(timeout_s, int | float) or timeout_s <= 0):
        raise UserError(f'env_cfg.dist_cfg.timeout must be a number of seconds above 0, not {timeout_s!r}.')
    why = without_nccl()
    if why:
        if config.launcher == 'slurm':
            os.environ.update(slurm_ranks(os.environ))
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        # MMEngine would choose a GPU here; the process group has to be there before it looks.
        start_gloo(timeout_s)
        config.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)
        rank, ranks = world()
        if rank == 0:
            print(f'{why}: ' + (f'{ranks} ranks work together over gloo' if ranks > 1 else 'one rank works by itself'))


def is_first_process() -> bool:
    """Whether this is rank 0, by what the launcher says before there is a process group; true without a launcher."""
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'


def without_nccl() -> str:
    """Why ranks cannot talk over NCCL here; '' where they can."""
    if not torch.cuda.is_available():
        return 'there is no GPU'
    return '' if distributed.is_nccl_available() else 'this torch has no NCCL'


def slurm_ranks(given: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables from those of srun; MASTER_ADDR and MASTER_PORT stay where they are set."""
    return {
        'RANK': given['SLURM_PROCID'],
        'WORLD_SIZE': given['SLURM_NTASKS'],
        'LOCAL_RANK': given['SLURM_LOCALID'],
        'MASTER_ADDR': given.get('MASTER_ADDR') or first_host(given['SLURM_NODELIST']),
        'MASTER_PORT': given.get('MASTER_PORT', '29500'),
    }


def first_host(hosts: str) -> str:
    """The first of Slurm's list of hosts, for example 'node03' of 'node[03-07,9],login1'."""
    found = _HOST.match(hosts)
    if not found:
        raise UserError(f"SLURM_NODELIST is '{hosts}', which names no host; set MASTER_ADDR to that of rank 0.")
    return found[1] + (found[2] or '')
