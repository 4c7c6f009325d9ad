"""Whether damage is survived: python benchmarks/faults.py media

media: whole files (h264 in mp4, VP9 in WebM, PNG in mov, large pictures in few bytes, wav, a shard and its JPEGs) are
damaged by rules, drawn from numbers, and read by every decoding library in child processes with a limit of time and of
memory. What comes back is compared with the whole file's clip:

  right clip     the same pictures and sound
  typed error    ClipError or UserError, which a run skips and counts
  other content  a well-formed clip of other pictures or sound, where the format has no checksum that could tell
  wrong clip     another shape or type, frames repeated or sound silent that the file's index does not explain, or any
                 change where there are checksums (shards)
  memory         refused for lack of memory
  untyped error  any other exception
  crash, timeout what the child did; its parent goes on

The last three and wrong clips fail the run, and their files are kept. Writes docs/results/faults.md.
"""

import argparse
import os
import re
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

# Before any library starts its threads.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# Inherited by the children: the libraries' own complaints would bury the table.
os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

from faults_media import BAD, CRASH, ERROR, KINDS, RIGHT, SEEDS, TIMEOUT, Outcome, Task, attempt, whole
from faults_seeds import RULES, mutant, write_seeds
from measuring import markdown
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gmscavp.datasets import ClipError
from gmscavp.datasets.preparing.pool import Lost, run_each
from gmscavp.engine.cli import run_tool
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError

# The seeds that cost most are drawn less often: (file, share of the inputs of its library).
_RARE = {'bomb.mp4': 0.05, 'png.mov': 0.1}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=('media',), help='what is damaged')
    parser.add_argument('--inputs', type=int, default=20_000, help='damaged files for each library')
    parser.add_argument('--first', type=int, default=0, metavar='N', help='number of the first, to make one again')
    parser.add_argument('--backends', nargs='+', choices=list(SEEDS), default=list(SEEDS))
    parser.add_argument('--timeout', type=float, default=20.0, metavar='S', help='seconds for a clip')
    parser.add_argument('--memory', type=int, default=2048, metavar='MIB', help='for a child, beyond its libraries')
    parser.add_argument('--workers', type=int, default=1, help='child processes at a time')
    parser.add_argument(
        '--work-dir', type=Path, default=ROOT / 'work_dirs/faults', help='for the files, wrong ones kept'
    )
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/faults.md', help='page to write')
    parser.add_argument('--smoke', action='store_true', help='two dozen files for each library; writes no page')
    args = parser.parse_args()
    if args.smoke:
        args.inputs = 24
    if min(args.inputs, args.workers, args.memory) < 1 or args.timeout <= 0:
        raise UserError('--inputs, --workers, --memory and --timeout must be above 0.')
    return args


def tasks_of(backend: str, args: argparse.Namespace, folder: Path) -> Iterator[Task]:
    """Every rule for every seed file in turn, the rare ones now and then."""
    rare = [name for name in SEEDS[backend] if name in _RARE]
    common = [name for name in SEEDS[backend] if name not in _RARE]
    rules = list(RULES)
    for number in range(args.first, args.first + args.inputs):
        turn = number // len(rules)
        name = common[turn % len(common)]
        for other in rare:
            period = round(1 / _RARE[other])
            if turn % period == period // 2:
                name = other
        yield Task(number, backend, name, rules[number % len(rules)], str(folder))


Found = list[tuple[Task, Outcome]]


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


def read_all(args: argparse.Namespace, folder: Path) -> Found:
    """Every damaged file of every library."""
    found: Found = []
    for backend in args.backends:
        answers = run_each(
            attempt, tasks_of(backend, args, folder), args.workers, lambda _: args.timeout, args.memory << 20
        )
        for task, answer in track(answers, f'{backend:10}', args.inputs, transient=True, console=Console(stderr=True)):
            outcome = answer
            if isinstance(answer, Lost):
                outcome = Outcome(TIMEOUT if answer.cause == 'timed out' else CRASH, answer.cause, 0.0)
            found.append((task, outcome))
            if outcome.kind in BAD:
                keep(task, outcome, folder, args.work_dir / 'kept')
    return found


def keep(task: Task, outcome: Outcome, folder: Path, kept: Path) -> None:
    """Save a file that was read wrongly, under a name that says how to make it again."""
    kept.mkdir(parents=True, exist_ok=True)
    name = f'{outcome.kind}-{task.backend}-{task.rule}-{task.number}-{task.seed_file}'.replace(' ', '_')
    (kept / name).write_bytes(mutant(folder, task.seed_file, task.rule, task.number))
    (kept / f'{name}.txt').write_text(f'{task}\n{outcome}\n')


Cells = list[list[str]]


def cells_of(found: Found, by: str) -> Cells:
    """Counts of every kind: a line for each value of a field of Task."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    peaks: dict[str, float] = defaultdict(float)
    for task, outcome in found:
        value = getattr(task, by)
        counts[value][outcome.kind] += 1
        peaks[value] = max(peaks[value], outcome.peak_mib)
    return [
        [value, *(f'{counter[kind]:,}' if counter[kind] else '' for kind in KINDS), f'{peaks[value]:,.0f}']
        for value, counter in counts.items()
    ]


def reasons_of(found: Found) -> Cells:
    """What was seen of all that is neither a right clip nor a typed error, numbers left out."""
    counts = Counter(
        (outcome.kind, task.seed_file, re.sub(r'\d[\d.,]*', 'N', outcome.detail))
        for task, outcome in found
        if outcome.kind not in (RIGHT, ERROR)
    )
    return [[*reason, f'{count:,}'] for reason, count in sorted(counts.items(), key=lambda item: -item[1])]


REASONS = ['kind', 'seed_file', 'seen', 'files']


def page_of(args: argparse.Namespace, tables: list[tuple[str, Cells]], seconds: float, kept: int) -> str:
    """The page, in Markdown."""
    facts = ', '.join(f'{name} {text}' for name, text in machine_facts().items())
    docstring = (__doc__ or '').split('\n\n', 1)[1]
    lines = [
        '# Damage survived',
        '',
        f'`python benchmarks/faults.py media --inputs {args.inputs} --backends {" ".join(args.backends)}`: '
        f'{args.timeout:g} s a clip, {args.memory} MiB beyond the libraries, {seconds / 60:.0f} minutes, '
        f'{kept} files to look at. {facts}.',
        '',
        docstring.replace('\n  ', '\n    ').strip(),
        '',
    ]
    for by, cells in tables:
        lines += [*markdown([by, *KINDS, 'most MiB'] if by else REASONS, cells), '']
    return '\n'.join(lines)


def main() -> None:
    """Make the whole files, damage and read them, print the tables, write the page."""
    args, console = parse_args(), Console()
    folder = args.work_dir.resolve() / 'seeds'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_seeds(folder)
    started = time.monotonic()
    args.backends = [name for name in args.backends if usable(name, folder, console)]
    found = read_all(args, folder)
    tables = [(by, cells_of(found, by)) for by in ('backend', 'rule', 'seed_file')] + [('', reasons_of(found))]
    for by, cells in tables:
        table = Table(*([by, *KINDS, 'most MiB'] if by else REASONS))
        for line in cells:
            table.add_row(*line)
        console.print(table)
    bad = [(task, outcome) for task, outcome in found if outcome.kind in BAD]
    for task, outcome in bad[:20]:
        console.print(f'{outcome.kind}: {task.backend} {task.seed_file} {task.rule} {task.number}: {outcome.detail}')
    if not args.smoke:
        args.out.write_text(page_of(args, tables, time.monotonic() - started, len(bad)))
    if bad:
        raise UserError(f'{len(bad)} of {len(found)} files were read wrongly; they lie in {args.work_dir / "kept"}.')


if __name__ == '__main__':
    run_tool(main)
