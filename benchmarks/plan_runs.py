"""What benchmarks/plan.py measures: real training steps in processes of their own."""

import logging
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from measuring import give_memory_back, peak, reset_peak
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger

from gmscavp.distributed import gather_batch, start_gloo, stop, world
from gmscavp.engine.config import load_config
from gmscavp.engine.runner import build_runner

_WARM_STEPS = 2
_MESSAGE = 1 << 22


@dataclass(frozen=True)
class Size:
    """A run: what is said of it, its config, what is changed in that, clips a step of each process, and processes."""

    name: str
    config: str
    options: Mapping[str, Any]
    batch: int
    processes: int = 1

    def load(self, data: Path) -> Config:
        """Its config, with the clips in the folder `data`, read in the process that trains."""
        loader = {'train_dataloader.num_workers': 0, 'train_dataloader.batch_size': self.batch}
        options = {'data_root': str(data), **loader, **self.options}
        return load_config(ROOT / 'configs' / f'{self.config}.py', options)


class Step(NamedTuple):
    """Processor seconds of a step in one process, for work and for reading its clips; bytes at the peak, 0 if not asked."""

    work: float
    reading: float
    peak: float


class _Clock(Hook):
    """Processor seconds between the hooks of MMEngine's loop."""

    def __init__(self) -> None:
        self.work: list[float] = []
        self.reading: list[float] = []
        self.last = 0.0

    def before_train_epoch(self, runner: Any) -> None:
        self.last = time.process_time()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        now = time.process_time()
        self.reading.append(now - self.last)
        self.last = now

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        now = time.process_time()
        self.work.append(now - self.last)
        self.last = now


def measured(size: Size, data: Path, folder: Path, steps: int, memory: bool) -> Step:
    """Steps of one size: medians over steps, means over processes, after two steps that do not count.

    memory: the peak counts rather than the time, which what is done for it spoils.
    """
    found = _in_processes(_train, size.processes, size, data, folder, steps + _WARM_STEPS, memory)
    return Step(*(statistics.fmean(values) for values in zip(*found, strict=True)))


def loopback() -> tuple[float, float]:
    """What messages between two processes here cost each: bytes a second of the processor, and its seconds a message."""
    found = _in_processes(_gather, 2)
    rate, latency = (statistics.fmean(values) for values in zip(*found, strict=True))
    return rate, latency


def _in_processes(work: Any, processes: int, *settings: Any) -> list[Any]:
    """What `work` gives in each of so many processes, which know of each other as torchrun's do."""
    # A fork has its imports done; no thread of torch's runs here that it would miss.
    context = multiprocessing.get_context('fork')
    port = _free_port()
    said: Any = context.SimpleQueue()
    running = [
        context.Process(target=_process, args=(said, work, rank, processes, port, settings))
        for rank in range(processes)
    ]
    for process in running:
        process.start()
    found = [said.get() for _ in running]
    for process in running:
        process.join()
    if wrong := [each for each in found if isinstance(each, str)]:
        raise RuntimeError(f'a process ended with {wrong[0]}')
    return found


def _process(said: Any, work: Any, rank: int, processes: int, port: int, settings: tuple[Any, ...]) -> None:
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
    os.environ |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    try:
        found = work(*settings)
    except BaseException as error:
        # Whoever waits for this process must be told, whatever ended it.
        said.put(f'{type(error).__name__}: {error}')
        raise
    said.put(found)
    stop()


def _train(size: Size, data: Path, folder: Path, steps: int, memory: bool) -> Step:
    config = size.load(data)
    config.work_dir = str(folder)
    config.default_hooks.checkpoint = None
    for part in ('val', 'test'):
        for key in (f'{part}_dataloader', f'{part}_evaluator', f'{part}_cfg'):
            config[key] = None
    # Pictures and lists of bad clips are no part of a step.
    config.custom_hooks = [hook for hook in config.custom_hooks if 'EMA' in str(hook['type'])]
    config.visualizer = None
    config.log_level = 'ERROR'
    clips = config.train_dataloader.batch_size * size.processes
    config.train_dataloader.num_batch_per_epoch = max(1, min(steps, _listed(data) // clips))
    epochs = -(-steps // config.train_dataloader.num_batch_per_epoch)
    config.train_cfg.update(max_epochs=epochs, val_interval=epochs + 1)
    if memory:
        give_memory_back()
    before = reset_peak()
    runner = build_runner(config, 'pytorch' if size.processes > 1 else 'none')
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    clock = _Clock()
    runner.register_hook(clock, 'LOWEST')
    runner.train()
    work, reading = (statistics.median(each[_WARM_STEPS:]) for each in (clock.work, clock.reading))
    return Step(work, reading, float(peak() - before) if memory else 0.0)


def _gather() -> tuple[float, float]:
    """Bytes/s and seconds of a message, of the processor."""
    start_gloo()
    ranks = world()[1]
    seconds = []
    for count in (8, _MESSAGE // 4):
        rows, found = torch.zeros(1, count), []
        for _ in range(12):
            started = time.process_time()
            gather_batch(rows, [1] * ranks)
            found.append(time.process_time() - started)
        seconds.append(statistics.median(found[2:]))
    return _MESSAGE * (ranks - 1) / max(seconds[1] - seconds[0], 1e-9), seconds[0] / (ranks - 1)


def _listed(data: Path) -> int:
    """Clips that train."""
    return sum(line.endswith('train') for line in (data / 'impacts.csv').read_text().splitlines())


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return int(free.getsockname()[1])
