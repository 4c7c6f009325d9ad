"""Whether damaged media are survived: every input gives the right clip or the typed error, whatever it costs a child.

Whole files (h264 in mp4, VP9 in WebM, PNG in mov, large pictures in few bytes, wav, a shard and its JPEGs) are damaged by
rules, drawn from numbers, and read by every decoding library in child processes with a limit of time and of memory: bits
flipped, bytes lost, doubled, zeroed, drawn anew, cut off; headers of other files put before or over them; sizes up to
100,000 x 100,000 pixels, durations up to infinity and tables of 4 billion entries written into the headers.
What comes back is compared with the whole file's clip:

  right clip     the same pictures and sound
  typed error    ClipError or UserError, which a run skips and counts
  other content  a well-formed clip of other pictures or sound, where the format has no checksum that could tell
  wrong clip     another shape or type, frames repeated or sound silent that the file's index does not explain, or any
                 change where there are checksums (shards)
  memory         the typed error too, for lack of memory
  untyped error  any other exception
  crash, timeout what the child did; its parent goes on

The last three and wrong clips fail the run, and their files are kept. Every outcome is written down at once; --resume goes
on where a run was stopped, and the page tells of all that the folder holds, also of other libraries' earlier runs.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from faults_media_judge import BAD, CRASH, SEEDS, TIMEOUT, Outcome, Task, attempt, whole
from faults_media_page import Run, page_of, tables_of
from faults_seeds import RULES, mutant, write_seeds
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gmscavp.datasets import ClipError
from gmscavp.datasets.preparing.pool import Lost, run_each
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

# The seeds that cost most are drawn less often: (file, share of the inputs of its library).
_RARE = {'bomb.mp4': 0.05, 'png.mov': 0.1}

# Inputs after which the page is written again.
_PAGE_EVERY = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument('--inputs', type=int, default=20_000, help='damaged files for each library (20,000)')
    parser.add_argument('--first', type=int, default=0, metavar='N', help='number of the first, to make one again')
    parser.add_argument('--backends', nargs='+', choices=list(SEEDS), default=list(SEEDS))
    parser.add_argument('--timeout', type=float, default=20.0, metavar='S', help='seconds for a clip (20)')
    parser.add_argument(
        '--memory', type=int, default=2048, metavar='MIB', help='for a child, beyond its libraries (2048)'
    )
    parser.add_argument('--workers', type=int, default=1, help='child processes at a time (1)')
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=ROOT / 'work_dirs/faults_media',
        help='for the files, outcomes, wrong ones kept',
    )
    parser.add_argument('--resume', action='store_true', help='go on after what --work-dir says is done')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/faults_media.md', help='page to write')
    parser.add_argument('--smoke', action='store_true', help='two dozen files for each library; writes no page')


def main(args: argparse.Namespace) -> int:
    """Make the whole files, damage and read them, print the tables, write the page."""
    _demand_sense(args)
    console, folder = Console(), args.work_dir.resolve() / 'seeds'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_seeds(folder)
    read = [backend for backend in args.backends if usable(backend, folder, console)]
    for backend in read:
        read_all(backend, args, folder)
    runs = [run for run in runs_in(args.work_dir) if run.backend in read]
    for head, cells in tables_of(runs):
        table = Table(*head)
        for line in cells:
            table.add_row(*line)
        # A terminal is narrow, and most counts are 0.
        table.columns = [column for column in table.columns if {*column.cells} != {'0'}]
        console.print(table)
    bad = [(run, task, outcome) for run in runs for task, outcome in run.found if outcome.kind in BAD]
    for run, task, outcome in bad[:20]:
        console.print(f'{outcome.kind}: {run.backend} {task.seed_file} {task.rule} {task.number}: {outcome.detail}')
    if bad:
        total = sum(len(run.found) for run in runs)
        raise UserError(f'{len(bad)} of {total} files were read wrongly; they lie in {args.work_dir / "kept"}.')
    return 0


def _demand_sense(args: argparse.Namespace) -> None:
    if args.smoke:
        args.inputs, args.resume = 24, False
    if min(args.inputs, args.workers, args.memory) < 1 or args.timeout <= 0 or args.first < 0:
        raise UserError('--inputs, --workers, --memory and --timeout must be above 0, and --first not below.')


def usable(backend: str, folder: Path, console: Console) -> bool:
    """Whether a library is there; says where it is not."""
    try:
        whole(str(folder), SEEDS[backend][0], backend)
    except ClipError:
        raise
    except UserError as error:
        console.print(f'left out: {error}')
        return False
    return True


def tasks_of(backend: str, numbers: range, folder: Path) -> Iterator[Task]:
    """Every rule for every seed file in turn, the rare ones now and then."""
    rare = [name for name in SEEDS[backend] if name in _RARE]
    common = [name for name in SEEDS[backend] if name not in _RARE]
    rules = list(RULES)
    for number in numbers:
        turn = number // len(rules)
        name = common[turn % len(common)]
        for other in rare:
            period = round(1 / _RARE[other])
            if turn % period == period // 2:
                name = other
        yield Task(number, backend, name, rules[number % len(rules)], str(folder))


def read_all(backend: str, args: argparse.Namespace, folder: Path) -> None:
    """Every damaged file for one library; each outcome is written down as it is known."""
    settings = dict(timeout=args.timeout, memory=args.memory)
    file = args.work_dir / f'{backend}.jsonl'
    done: set[int] = set()
    if args.resume and file.exists():
        before = Run.read(file)
        if before.settings != settings:
            raise UserError(f'{file} was made with {before.settings}: give the same, or leave out --resume.')
        done = {task.number for task, _ in before.found}
    else:
        file.write_text(json.dumps([settings, machine_facts()]) + '\n')
    numbers = range(args.first, args.first + args.inputs)
    left = [task for task in tasks_of(backend, numbers, folder) if task.number not in done]
    answers = run_each(attempt, left, args.workers, lambda _: args.timeout, args.memory << 20)
    console = Console(stderr=True)
    with file.open('a') as log:
        for place, (task, answer) in enumerate(
            track(answers, f'{backend:10}', len(left), transient=True, console=console)
        ):
            if isinstance(answer, Lost):
                kind = TIMEOUT if answer.cause == 'timed out' else CRASH
                outcome = Outcome(kind, answer.cause, 0.0, args.timeout)
            else:
                outcome = answer
            if outcome.kind in BAD:
                keep(task, outcome, folder, args.work_dir / 'kept')
            log.write(json.dumps([task, outcome]) + '\n')
            log.flush()
            if place % _PAGE_EVERY == _PAGE_EVERY - 1:
                write_page(args)
    write_page(args)


def write_page(args: argparse.Namespace) -> None:
    """The page of all outcomes that the folder holds."""
    if not args.smoke:
        args.out.write_text(page_of(runs_in(args.work_dir), __doc__ or ''))


def runs_in(work_dir: Path) -> list[Run]:
    """What has been tried, in the order of SEEDS."""
    files = [work_dir / f'{backend}.jsonl' for backend in SEEDS]
    return [Run.read(file) for file in files if file.exists()]


def keep(task: Task, outcome: Outcome, folder: Path, kept: Path) -> None:
    """Save a file that was read wrongly, under a name that says how to make it again."""
    kept.mkdir(parents=True, exist_ok=True)
    name = f'{outcome.kind}-{task.backend}-{task.rule}-{task.number}-{task.seed_file}'.replace(' ', '_')
    (kept / name).write_bytes(mutant(folder, task.seed_file, task.rule, task.number))
    (kept / f'{name}.txt').write_text(f'{task}\n{outcome}\n')
