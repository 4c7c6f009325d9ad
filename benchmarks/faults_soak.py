"""A training that goes on for hours while faults come at random.

A small GMS-CAVP run on rendered clips, with data workers, and beside it what goes wrong in long runs, drawn from --seed:

  damaged file     a clip's file is cut short (the one before is mended)
  reader hangs     a data worker never comes back from a clip
  worker killed    SIGKILL to a data worker
  no number        a clip whose sound is NaN
  disk full        the training can write no file of more than 64 KiB, until it has ended; then it is started again
  trainer killed   SIGKILL to the training, which is then started again
  SIGTERM          to the training and all its workers, which is then started again

A fault is survived when the training then goes on (the last three: ends as it should, and goes on when it is resumed). In
the end the run must have every step once, and as many updates as steps less those skipped. Memory (proportional set size of
the training and its workers) and open files of the training are looked at all the time. Writes docs/results/faults_soak.md.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from faults_soak_run import BATCH, HANG, NAN, STEPS_FILE, WORKERS
from measuring import markdown, proportional_mib
from rich.console import Console
from rich.table import Table

from gmscavp.compat import load_checkpoint_file
from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.engine.checkpoints import newest_checkpoint
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
_FOREVER = 1_000_000
# Steps after which whatever was being read when a fault came has been trained on.
_STEPS = 4 * WORKERS + 2
_PATIENCE_S = 600
# Less than a checkpoint, more than what a start of the training writes elsewhere.
_DISK_BYTES = 1 << 20
# A process that has just begun still grows.
_WARM_S = 60.0
# Faults with which the training ends, drawn rarely, since only long lives tell whether memory grows.
_ENDS = {'disk full': 2, 'trainer killed': -signal.SIGKILL, 'SIGTERM': 128 + signal.SIGTERM}
_WEIGHTS = {'damaged file': 6, 'reader hangs': 2, 'worker killed': 6, 'no number': 6, **dict.fromkeys(_ENDS, 0.5)}


class Look(NamedTuple):
    """What was seen of the training at a moment. life: which start of it."""

    life: int
    at_s: float
    memory_mib: float
    files: int


class Soak:
    """The training, and what is done to it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.orders = folder / 'orders'
        self.orders.mkdir(parents=True)
        self.files = sorted((folder / 'data/video').glob('*.mp4'))
        self.damaged: tuple[Path, bytes] | None = None
        self.looks: list[Look] = []
        self.life, self.begun_s = 0, 0.0
        self.trainer = self.start(_FOREVER)

    def start(self, epochs: int) -> subprocess.Popen:
        """Start the training, or go on with it."""
        self.life, self.begun_s = self.life + 1, time.monotonic()
        command = [sys.executable, str(ROOT / 'benchmarks/faults_soak_run.py'), str(self.folder), str(epochs)]
        trainer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        # Through here, where the disk is never full.
        threading.Thread(target=_keep, args=(trainer.stdout, self.folder / 'output.txt'), daemon=True).start()
        return trainer

    def steps(self) -> list[int]:
        """The steps that were done, some of them again after a kill."""
        file = self.folder / STEPS_FILE
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    def wait(self, done: Callable[[], bool]) -> bool:
        """Look at the training until `done` -> whether it came to that in time."""
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            if done():
                return True
            self.look()
            if self.trainer.poll() is not None:
                return done()
            time.sleep(1)
        return False

    def look(self) -> None:
        """Note memory and open files."""
        at_s = time.monotonic() - self.begun_s
        try:
            pids = [self.trainer.pid, *self.workers()]
            memory = sum(proportional_mib(pid) for pid in pids)
            files = len(os.listdir(f'/proc/{self.trainer.pid}/fd'))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            # It has just ended, and so may a worker.
            return
        if at_s > _WARM_S and len(pids) == WORKERS + 1:
            self.looks.append(Look(self.life, at_s, memory, files))

    def workers(self) -> list[int]:
        """Process ids of the data workers."""
        pids = Path(f'/proc/{self.trainer.pid}/task/{self.trainer.pid}/children').read_text().split()
        return [int(pid) for pid in pids if Path(f'/proc/{pid}/comm').read_text() == 'pt_data_worker\n']

    def goes_on(self) -> bool:
        """Whether the training makes so many more steps that what was being read is used up."""
        before = len(self.steps())
        return self.wait(lambda: len(self.steps()) >= before + _STEPS)

    def fault(self, kind: str) -> bool:
        """Let something go wrong -> whether that was survived."""
        if kind in _ENDS:
            self.strike(kind)
            ended = self.wait(lambda: self.trainer.poll() is not None) and self.trainer.returncode == _ENDS[kind]
            self.end()
            self.trainer = self.start(_FOREVER)
            return self.goes_on() and ended
        if kind == 'damaged file':
            self.damage()
        elif kind == 'worker killed':
            os.kill(self.random.choice(self.workers()), signal.SIGKILL)
        else:
            (self.orders / (HANG if kind == 'reader hangs' else NAN)).touch()
        return self.goes_on()

    def strike(self, kind: str) -> None:
        """Do what ends the training."""
        if kind == 'disk full':
            resource.prlimit(self.trainer.pid, resource.RLIMIT_FSIZE, (_DISK_BYTES, resource.RLIM_INFINITY))
        elif kind == 'SIGTERM':
            os.killpg(self.trainer.pid, signal.SIGTERM)
        else:
            self.trainer.kill()

    def damage(self) -> None:
        """Cut a file short, and mend the one before."""
        if self.damaged:
            self.damaged[0].write_bytes(self.damaged[1])
        file = self.random.choice(self.files)
        self.damaged = file, file.read_bytes()
        file.write_bytes(self.damaged[1][: self.random.randrange(len(self.damaged[1]))])

    def finish(self) -> dict[str, int]:
        """Stop in order, train to the end of the epoch, and count."""
        self.strike('SIGTERM')
        self.wait(lambda: self.trainer.poll() is not None)
        self.end()
        epochs = self.saved()['meta']['epoch'] + 1
        self.trainer = self.start(epochs)
        self.wait(lambda: self.trainer.poll() is not None)
        code = self.trainer.poll()
        self.end()
        last = self.saved()
        updates = {int(state['step']) for state in last['optimizer']['state'].values()}
        return {
            'exit code of the end': -1 if code is None else code,
            'steps expected': epochs * (len(self.files_of_training()) // BATCH),
            'steps done': last['meta']['iter'],
            'different steps logged': len({*self.steps()}),
            'steps skipped (not finite)': last['message_hub']['runtime_info'].get('skipped_steps', 0),
            'updates': max(updates) if len(updates) == 1 else -1,
            'starts': self.life,
        }

    def saved(self) -> dict[str, Any]:
        """What the newest checkpoint holds."""
        file = newest_checkpoint(self.folder / 'run')
        if file is None:
            raise UserError(f'the training has saved nothing; see {self.folder / "output.txt"}.')
        return load_checkpoint_file(file)

    def files_of_training(self) -> list[str]:
        """Rows of the manifest that are trained on."""
        return [row for row in (self.folder / 'data/manifest.csv').read_text().splitlines() if ',train,' in row]

    def end(self) -> None:
        """Stop the training, if it still runs, and what belongs to it."""
        if self.trainer.poll() is None:
            os.killpg(self.trainer.pid, signal.SIGKILL)
        self.trainer.wait()


def _keep(output: Any, file: Path) -> None:
    """Add what a process says to a file, until it has ended."""
    with output, file.open('ab') as kept:
        shutil.copyfileobj(output, kept)


def _has_come(at_s: float) -> bool:
    return time.monotonic() >= at_s


def slope_per_hour(looks: list[Look], of: str, draws: int = 1000) -> tuple[float, float, float]:
    """Growth within lives, least squares with a level for each, and its 95 % interval by a bootstrap.

    Drawn are stretches of a few minutes, since neighbouring looks are alike. NaN where there is too little to tell.
    """
    products = []
    for life in {look.life for look in looks}:
        own = [look for look in looks if look.life == life]
        x, y = np.array([look.at_s for look in own]), np.array([getattr(look, of) for look in own], float)
        x, y = x - x.mean(), y - y.mean()
        parts = np.array_split(np.arange(len(own)), max(1, len(own) // 120))
        products += [(x[part] @ y[part], x[part] @ x[part]) for part in parts if len(part) > 1]
    if len(products) < 2:
        return (float('nan'),) * 3
    table = np.array(products)
    chosen = np.random.default_rng(0).integers(len(table), size=(draws, len(table)))
    tops, bottoms = table[chosen].sum(1).T
    low, high = np.percentile(3600 * tops / np.maximum(bottoms, 1e-9), [2.5, 97.5])
    return float(3600 * table[:, 0].sum() / table[:, 1].sum()), float(low), float(high)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its part of the command line."""
    parser.add_argument('--minutes', type=float, default=120.0, help='how long (default: 120)')
    parser.add_argument(
        '--every', type=float, default=20.0, metavar='S', help='mean pause between faults (default: 20)'
    )
    parser.add_argument('--clips', type=int, default=256, help='training clips (default: 256)')
    parser.add_argument('--seed', type=int, default=0, help='of the faults (default: 0)')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/faults_soak.md', help='page to write')
    parser.add_argument('--smoke', action='store_true', help='two faults and the end; writes no page')


def main(args: argparse.Namespace) -> int:
    """Run it -> 0 where all was survived."""
    if min(args.minutes, args.every, args.clips // BATCH) <= 0:
        raise UserError(f'--minutes and --every must be above 0, --clips {BATCH} or more.')
    folder = Path(tempfile.mkdtemp(prefix='soak'))
    render_impacts(folder / 'data', train=2 * BATCH if args.smoke else args.clips, test=8, workers=1, progress=False)
    soak, console = Soak(folder, args.seed), Console()
    tried: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    try:
        if not soak.goes_on():
            raise UserError(f'the training did not begin; see {folder / "output.txt"}.')
        until = time.monotonic() + 60 * args.minutes
        while sum(tried.values()) < 2 if args.smoke else time.monotonic() < until:
            kinds = ['worker killed', 'no number'] if args.smoke else list(_WEIGHTS)
            kind = kinds[sum(tried.values())] if args.smoke else soak.random.choices(kinds, list(_WEIGHTS.values()))[0]
            tried[kind] += 1
            survived[kind] += soak.fault(kind)
            console.print(f'{kind}: {survived[kind]} of {tried[kind]} survived', style='dim')
            pause_until = time.monotonic() + (0 if args.smoke else soak.random.uniform(0, 2 * args.every))
            soak.wait(partial(_has_come, pause_until))
            if soak.trainer.poll() is not None:
                # Nothing was done to it: what ended it is in output.txt.
                survived[kind] -= 1
                soak.trainer = soak.start(_FOREVER)
        counts = soak.finish()
    finally:
        soak.end()
    return report(args, console, soak, tried, survived, counts)


def report(
    args: argparse.Namespace,
    console: Console,
    soak: Soak,
    tried: Counter[str],
    survived: Counter[str],
    counts: dict[str, int],
) -> int:
    """Print the tables and write the page -> 0 where all was survived and nothing grows (by its 95 % interval)."""
    faults = [[kind, str(tried[kind]), str(survived[kind])] for kind in _WEIGHTS if tried[kind]]
    growth, grows = [], False
    for name, of in (('memory, MiB an hour', 'memory_mib'), ('open files, an hour', 'files')):
        slope, low, high = slope_per_hour(soak.looks, of)
        growth.append([name, f'{slope:+.2f}', f'{low:+.2f} to {high:+.2f}'])
        grows |= low > 0
    steps, done = counts['steps expected'], counts['steps done']
    exact = done == steps == counts['different steps logged']
    exact = exact and counts['updates'] == done - counts['steps skipped (not finite)']
    survived_all = exact and counts['exit code of the end'] == 0 and tried == survived
    tables = (
        (['fault', 'tried', 'survived'], faults),
        (['count', ''], [[name, f'{value:,}'] for name, value in counts.items()]),
        (['growth', 'slope', '95 % interval'], growth),
    )
    for headings, rows in tables:
        table = Table(*headings)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    found = ['not all was survived'] * (not survived_all) + ['memory or open files grow'] * grows
    if found:
        console.print(f'{", and ".join(found)}: see {soak.folder}')
    else:
        shutil.rmtree(soak.folder)
    if not args.smoke:
        command = f'python benchmarks/faults.py soak --minutes {args.minutes:g} --seed {args.seed}'
        lines = ['# A training under faults', '', f'`{command}`', '']
        for headings, rows in tables:
            lines += [*markdown(headings, rows), '']
        lines += [f'{len(soak.looks):,} looks at memory. ' + ', '.join(f'{k} {v}' for k, v in machine_facts().items())]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text('\n'.join(lines) + '\n')
    return 1 if found else 0
