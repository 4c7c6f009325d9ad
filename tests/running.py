"""Scripts in processes that are forked: one that is started anew spends its first seconds in imports."""

import multiprocessing
import os
import random
import runpy
import socket
import sys
import tempfile
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

ROOT = Path(__file__).parents[1]
SMALL = {
    'batch_size': 4,
    'num_workers': 0,
    'model.video_backbone.width': 4,
    'model.audio_backbone.width': 4,
    'model.video_pyramid.dim': 8,
    'model.audio_pyramid.dim': 8,
    'model.diffusion.denoiser.width': 16,
}
"""Settings that make GMS-CAVP as small as it goes."""


def forget_runs():
    """Nothing of an earlier run is the current one; its log's stream may be closed since."""
    for kind in (DefaultScope, MMLogger, MessageHub, Visualizer):
        kind._instance_dict.clear()


def free_port():
    """A TCP port of this machine at which nobody listens; none that the system gives to a connection in the meantime."""
    while True:
        port = random.SystemRandom().randint(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(('127.0.0.1', port))
            return port


def say_into(file, *descriptors):
    """From now on what this process writes to these (1: stdout, 2: stderr) goes to the end of a file."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in descriptors:
        os.dup2(opened, descriptor)
        # pytest's stand elsewhere.
        setattr(sys, ('stdout', 'stderr')[descriptor - 1], os.fdopen(descriptor, 'w', buffering=1, closefd=False))


def refusal_of(monkeypatch, capsys, name, *arguments):
    """(exit code, stdout, stderr) of tools/NAME, run in this process, which is faster still; it must refuse and end."""
    monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
    monkeypatch.chdir(ROOT)
    forget_runs()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
    return ended.value.code, *capsys.readouterr()


def tool(name, *arguments, code=0):
    """What tools/NAME prints."""
    return script(f'tools/{name}', *arguments, code=code)


def script(path, *arguments, code=0, within_s=280):
    """What a script of the repository prints, run with these arguments in a fork, which must end with this code."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, 'said')
        child = multiprocessing.get_context('fork').Process(target=_script, args=(ROOT / path, arguments, said))
        child.start()
        child.join(within_s)
        child.kill()
        child.join()
        text = said.read_text()
    assert child.exitcode == code, text[-6000:]
    return text


def _script(path, arguments, said):
    say_into(said, 1, 2)
    os.chdir(ROOT)
    # Python's server of processes, once used, is the parent's child, for which this process cannot wait; Python would.
    forkserver._forkserver._forkserver_pid = None
    # OpenMP's threads do not survive a fork.
    torch.set_num_threads(1)
    forget_runs()
    sys.path.insert(0, str(path.parent))
    sys.argv = [path.name, *map(str, arguments)]
    code = 0
    try:
        runpy.run_path(str(path), run_name='__main__')
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    # Not by way of pytest, which this process is a copy of.
    os._exit(code)
