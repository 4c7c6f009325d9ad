"""Whether a run that is stopped while it saves loses nothing: SIGKILL, power cuts, full disks, flipped bits.

A small run saves after every step, keeps the last 3 checkpoints and the best, and is stopped again and again:

  SIGKILL     four of five times while it saves, else at any moment
  power cut   at a random flush, renaming or removal; what was not flushed by then, bytes and names, is lost or not by luck
  full disk   from a random byte of a file on

After each the newest checkpoint must be that of the last save that was finished, or of the one it fell into; all that
there are must be whole and hold, bit by bit, what a run never stopped holds after that step (weights, moments, counters,
random numbers); none of those kept may be missing; and the run goes on from there. Then bits of checkpoints are flipped,
anywhere, and each must be noticed. Exit code 1 where anything was lost.
"""

import argparse
import os
import random
import select
import shutil
import signal
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from faults_disk import CUT
from faults_saving_run import BATCHES, KEPT, NO_ROOM, SAVED, SAVES, STEPS, Fault, Held, held, live, never_stopped
from measuring import markdown
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gmscavp.engine.checkpoints import is_whole, newest_checkpoint, part_name
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
KILL, POWER, FULL = 'SIGKILL', 'power cut', 'full disk'
_PATIENCE_S = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument('--kills', type=int, default=50, help='by SIGKILL (50)')
    parser.add_argument('--cuts', type=int, default=50, help='of the power (50)')
    parser.add_argument('--full', type=int, default=10, help='full disks (10)')
    parser.add_argument('--flips', type=int, default=500, help='bits (500)')
    parser.add_argument('--seed', type=int, default=0, help='of all moments (0)')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/faults_saving', help='for the runs')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/faults_saving.md', help='page to write')
    parser.add_argument('--smoke', action='store_true', help='three of each; writes no page')


@dataclass
class Count:
    """Of one kind of stop."""

    stops: int = 0
    in_saves: int = 0
    unfinished: int = 0
    """Where a file was left that had not got its name."""
    lost: int = 0
    """Saves that were not finished and are not there."""
    read: int = 0
    """Checkpoints that were read and compared."""
    problems: list[str] = field(default_factory=list)


class Life:
    """A run in a process of its own, from its newest checkpoint on."""

    def __init__(self, folder: Path, fault: Fault, seed: int) -> None:
        self._reading, writing = os.pipe()
        self._said, self.began, self.took_s = '', 0, 0.0
        self.done = self.started = 0
        self._process = os.fork()
        if not self._process:
            os._exit(live(folder, writing, fault, seed))
        os.close(writing)

    def wait_for_saves(self, number: int, seconds: float) -> bool:
        """Whether so many were begun before it ended, or before the time was over."""
        end, since = time.monotonic() + seconds, time.monotonic()
        while self.began < number and (left := end - time.monotonic()) > 0:
            if not select.select([self._reading], [], [], left)[0]:
                break
            if not (said := os.read(self._reading, 4096).decode()):
                return False
            for word in self._words(said):
                if word[0] == SAVES:
                    self.began, self.started, since = self.began + 1, int(word[1:]), time.monotonic()
                elif word[0] == SAVED:
                    self.done, self.took_s = int(word[1:]), time.monotonic() - since
        return self.began >= number

    def _words(self, said: str) -> list[str]:
        *whole, self._said = (self._said + said).split(' ')
        return whole

    def end(self, number: int = 0) -> int:
        """Wait until it has ended, by a signal if one is given -> its exit code. UserError: it hangs."""
        if number:
            os.kill(self._process, number)
        if self.wait_for_saves(10**9, _PATIENCE_S) or select.select([self._reading], [], [], 0)[0] == []:
            os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
            raise UserError(f'a run did not end within {_PATIENCE_S:.0f} s.')
        os.close(self._reading)
        return os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])


class Trial:
    """Stops one run after another. finished: those that came to their end in spite of it."""

    def __init__(self, work_dir: Path, seed: int) -> None:
        self.work_dir, self.folder, self.draw = work_dir, work_dir / 'run', random.Random(seed)
        self.truth = never_stopped(work_dir / 'whole')
        self.finished, self.done = 0, 0
        self._took = [0.01]
        self._afresh()

    def stop(self, kind: str, count: Count) -> None:
        """Let the run live until something happens to it, and look at what it has left."""
        while True:
            life = Life(self.folder, self._fault(kind), self.draw.getrandbits(31))
            code = self._await(life, kind)
            self.done = max(self.done, life.done)
            self._took = [*self._took, life.took_s][-20:] if life.took_s else self._took
            if code == {KILL: -signal.SIGKILL, POWER: CUT, FULL: NO_ROOM}[kind]:
                break
            self.go_on(code, life, count)
            if count.problems:
                return
        count.stops += 1
        count.in_saves += life.started > life.done
        count.unfinished += any(self.folder.glob(part_name('*')))
        if kind == FULL and any(self.folder.glob(part_name('*'))):
            count.problems.append('a full disk was left with an unfinished file')
        self._look(max(self.done, life.started), count)

    def finish(self, count: Count) -> None:
        """Let the run come to its end."""
        life = Life(self.folder, Fault(), self.draw.getrandbits(31))
        code = life.end()
        self.done = max(self.done, life.done)
        self.go_on(code, life, count)

    def go_on(self, code: int, life: Life, count: Count) -> None:
        """After a run that ended by itself, with all that it should have, begin another."""
        if code or self.done != STEPS:
            count.problems.append(f'a run ended with {code} after step {self.done}; see {self.work_dir}/log.txt')
            return
        self._look(STEPS, count)
        self.finished += 1
        self._afresh()

    def _afresh(self) -> None:
        for name in ('run', 'spare'):
            shutil.rmtree(self.work_dir / name, ignore_errors=True)
        self.folder.mkdir()
        self.done = 0

    def _fault(self, kind: str) -> Fault:
        if kind == POWER:
            return Fault(moment=self.draw.randrange(16))
        size = next((self.work_dir / 'whole').glob('iter_*.pth')).stat().st_size
        return Fault(room=self.draw.randrange(4096, size)) if kind == FULL else Fault()

    def _await(self, life: Life, kind: str) -> int:
        if kind != KILL:
            return life.end()
        if self.draw.random() < 0.8:
            if not life.wait_for_saves(self.draw.randint(1, 6), _PATIENCE_S):
                return life.end()
            time.sleep(self.draw.uniform(0, 1.3 * statistics.median(self._took)))
        else:
            life.wait_for_saves(10**9, self.draw.uniform(0, 1))
        return life.end(signal.SIGKILL)

    def _look(self, started: int, count: Count) -> None:
        """Compare all that there is with what a run never stopped has. started: step of the last save that was begun."""
        newest = newest_checkpoint(self.folder)
        found = 0 if newest is None else held(newest).step
        if not self.done <= found <= started:
            count.problems.append(f'of {self.done} saved and {started} begun, the newest is that of step {found}')
        count.lost += started > found
        for file in self.folder.glob('*.pth'):
            count.read += 1
            if not is_whole(file):
                count.problems.append(f'{file.name} has its name and is damaged')
            elif not _same(held(file), self.truth):
                count.problems.append(f'{file.name} is not that of a run never stopped')
        missing = [k for k in range(max(1, found - KEPT + 1), found) if not (self.folder / f'iter_{k}.pth').exists()]
        if missing:
            count.problems.append(f'those of steps {missing} were to be kept and are gone')
        epochs_saved = (self.done - 1) // BATCHES
        if epochs_saved > 0 and not any(self.folder.glob('best_*.pth')):
            count.problems.append('the best is gone')
        # What is there now counts from now on.
        self.done = found


def _same(one: Held, truth: dict[int, Held]) -> bool:
    whole = truth[one.step]
    return one.weights == whole.weights and one.run in ('', whole.run)


def unnoticed_flips(file: Path, copy: Path, flips: int, draw: random.Random) -> list[int]:
    """Bits of a checkpoint that can be flipped without it being refused."""
    whole, passed = file.read_bytes(), []
    for bit in (draw.randrange(8 * len(whole)) for _ in range(flips)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(changed)
        try:
            held(copy)
        except UserError:
            if not is_whole(copy):
                continue
        passed.append(bit)
    return passed


def main(args: argparse.Namespace) -> int:
    """Stop runs, flip bits, print the table, write the page -> exit code."""
    if args.smoke:
        args.kills = args.cuts = args.full = 3
        args.flips = 30
    torch.set_num_threads(1)
    work_dir = args.work_dir.resolve()
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    console, began = Console(stderr=True), time.monotonic()
    trial = Trial(work_dir, args.seed)
    counts = {KILL: Count(), POWER: Count(), FULL: Count()}
    for (kind, count), number in zip(counts.items(), (args.kills, args.cuts, args.full), strict=True):
        for _ in track(range(number), f'{kind:10}', transient=True, console=console):
            if not count.problems:
                trial.stop(kind, count)
    trial.finish(counts[KILL])
    file = work_dir / 'whole' / f'iter_{STEPS}.pth'
    passed = unnoticed_flips(file, work_dir / 'flipped.pth', args.flips, random.Random(args.seed))
    problems = [f'{kind}: {said}' for kind, count in counts.items() for said in count.problems]
    problems += [f'flipped bit {bit} of {file} is not noticed' for bit in passed]
    report(args, counts, trial.finished, passed, time.monotonic() - began)
    for said in problems:
        console.print(f'LOST: {said}', style='red', soft_wrap=True)
    if not problems:
        shutil.rmtree(work_dir)
    return 1 if problems else 0


def report(args: argparse.Namespace, counts: dict[str, Count], finished: int, passed: list[int], took_s: float) -> None:
    """The table, on the screen and as a page."""
    headings = (
        'stopped by',
        'times',
        'in a save',
        'unfinished file left',
        'save it fell into lost',
        'read',
        'problems',
    )
    rows = [
        (kind, *map(str, (one.stops, one.in_saves, one.unfinished, one.lost, one.read, len(one.problems))))
        for kind, one in counts.items()
    ]
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    told = (
        f'{finished} runs of {STEPS} steps came to their end in spite of it, each with the weights of one never stopped, '
        f'bit by bit. Of {args.flips} flipped bits {args.flips - len(passed)} were noticed.'
    )
    print(told)
    if args.smoke:
        return
    facts = machine_facts()
    page = [
        '# Runs stopped while they save',
        '',
        f'`python benchmarks/faults.py saving --kills {args.kills} --cuts {args.cuts} --full {args.full} '
        f'--flips {args.flips} --seed {args.seed}`, {took_s:.0f} s; {facts["date"]}, {facts["machine"]}, gmscavp '
        f'{facts["gmscavp"]}, torch {facts["torch"]}.',
        '',
        *(__doc__ or '').splitlines()[2:-1],
        '',
        *markdown(headings, rows),
        '',
        told,
        '',
        'read: checkpoints found after stops, each read whole and compared. A save that was lost is the one that the stop '
        'fell into; what was learned since the one before is learned again. problems: anything else that is lost.',
    ]
    args.out.write_text('\n'.join(page) + '\n', encoding='utf-8')
