"""Plans against runs: python benchmarks/plan.py

What tools/plan_run.py predicts of a training step (time, peak memory), against real steps on rendered clips at several
sizes: batch, width, frames, pixels, methods, one process and two over loopback. One size alone calibrates: how much longer
its work takes than predicted, how fast its clips are read, and by how much its peak is above the predicted; every other
size is predicted with these three figures. Processor seconds of a process, so that another program on the machine counts
little. Sizes take turns, medians over rounds. Writes docs/results/plan.md. --smoke takes seconds and writes no page.
"""

import argparse
import os
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

# Before any library starts its threads.
os.environ.setdefault('OMP_NUM_THREADS', '1')
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from measuring import markdown
from plan_runs import Size, Step, loopback, measured
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.engine.cli import run_tool
from gmscavp.engine.facts import machine_facts
from gmscavp.engine.planning.costs import Network, Shares
from gmscavp.engine.planning.counting import count_step
from gmscavp.engine.planning.plan import Cluster, Plan, Reading, make_plan
from gmscavp.engine.planning.tables import SOURCES, Accelerator, measured_cpu
from gmscavp.errors import UserError

OURS, WIDE = 'gmscavp_impacts', {'model.video_backbone.width': 32, 'model.audio_backbone.width': 32}
# The first calibrates.
SIZES = [
    Size('batch 16', OURS, {}, 16),
    Size('batch 8', OURS, {}, 8),
    Size('batch 32', OURS, {}, 32),
    Size('width 32', OURS, WIDE, 16),
    Size('32 frames', OURS, {'train_dataloader.dataset.clip.fps': 8}, 16),
    Size('96 pixels', OURS, {'train_dataloader.dataset.clip.size': 96}, 16),
    Size('CAVP', 'cavp_impacts', {}, 16),
    Size('DiffGAP', 'diffgap_impacts', {}, 16),
    Size('tiles of 8', OURS, {'model.head.tile': 8}, 16),
    Size('2 processes', OURS, {}, 16, 2),
    Size('2 processes, ring', OURS, {'model.head.gather': 'ring'}, 8, 2),
]
SMOKE = [Size('batch 2', OURS, {}, 2), Size('2 processes', OURS, {}, 2, 2)]
HEADINGS = ['size', 'ms measured', 'spread', 'ms predicted', 'error', 'MB measured', 'MB predicted', 'error']


class Row(NamedTuple):
    """A size: measured steps of every round, the plan, and seconds and bytes as predicted with the calibration."""

    size: Size
    steps: list[Step]
    plan: Plan
    seconds: float
    peak: float

    @property
    def measured_s(self) -> float:
        """Median of the rounds, reading included."""
        return statistics.median(step.work + step.reading for step in self.steps)

    @property
    def measured_peak(self) -> float:
        """Of the round for memory."""
        return max(step.peak for step in self.steps)

    @property
    def errors(self) -> tuple[float, float]:
        """Of time and memory: predicted / measured - 1."""
        return self.seconds / self.measured_s - 1, self.peak / self.measured_peak - 1


class Calibration(NamedTuple):
    """From the first size: how much longer work takes than planned, windows read a second, bytes above the plan."""

    factor: float
    windows: float
    above: float


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=5, help='that count in each run')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/plan.md', help='page to write')
    parser.add_argument('--smoke', action='store_true', help='two small sizes, everything once; writes no page')
    args = parser.parse_args()
    if args.smoke:
        # The run for the memory tells the time as well.
        args.rounds, args.steps = 0, 1
    elif min(args.rounds, args.steps) < 1:
        raise UserError('--rounds and --steps must be 1 or more.')
    return args


def measure_all(sizes: list[Size], data: Path, folder: Path, args: argparse.Namespace) -> list[list[Step]]:
    """Steps of every size in every round. One round before is for the memory; its times count only where it is alone."""
    first = [measured(size, data, folder, 1, True) for size in track(sizes, 'memory', transient=True)]
    steps: list[list[Step]] = [[] for _ in sizes]
    for _ in track(range(args.rounds), 'time', transient=True):
        for size, found in zip(sizes, steps, strict=True):
            found.append(measured(size, data, folder, args.steps, False))
    return [[step._replace(peak=own.peak) for step in found or [own]] for found, own in zip(steps, first, strict=True)]


def plan_of(size: Size, data: Path, cpu: Accelerator, network: tuple[float, float], windows: float) -> Plan:
    """The plan of a size on this machine."""
    rate, latency = network
    cluster = Cluster(cpu, Network(size.processes, 1, rate, rate, latency), 1e12, 1, Shares(1, 1, 1))
    counted = count_step(size.load(data), size.batch)
    return make_plan(counted, cluster, Reading(SOURCES['files'], windows, 0.0))


def predict(sizes: list[Size], steps: list[list[Step]], data: Path) -> tuple[list[Row], Calibration]:
    """Every size from the machine's rates and from what the first one took."""
    cpu, network = measured_cpu(), loopback()
    first, own = sizes[0], steps[0]
    windows = first.batch / statistics.median(step.reading for step in own)
    plans = [plan_of(size, data, cpu, network, windows) for size in track(sizes, 'planning', transient=True)]
    work = plans[0].compute + plans[0].loss
    factor = statistics.median(step.work for step in own) / work
    above = own[0].peak - plans[0].memory.total
    rows = []
    for size, found, plan in zip(sizes, steps, plans, strict=True):
        seconds = factor * (plan.compute + plan.loss) + plan.tokens + plan.gradients + plan.decode
        rows.append(Row(size, found, plan, seconds, plan.memory.total + above))
    return rows, Calibration(factor, windows, above)


def cells_of(rows: list[Row]) -> list[list[str]]:
    """The table, cell by cell."""
    lines = []
    for row in rows:
        taken = [1000 * (step.work + step.reading) for step in row.steps]
        late, large = (f'{error:+.0%}' for error in row.errors)
        lines.append(
            [
                row.size.name + (' (calibrates)' if row is rows[0] else ''),
                *(
                    f'{1000 * row.measured_s:.0f}',
                    f'{min(taken):.0f}..{max(taken):.0f}',
                    f'{1000 * row.seconds:.0f}',
                    late,
                ),
                *(f'{row.measured_peak / 1e6:.0f}', f'{row.peak / 1e6:.0f}', large),
            ]
        )
    return lines


def verdict(rows: list[Row], found: Calibration) -> list[str]:
    """What the table says, a sentence each; the size that calibrates is left out."""
    late, large = (statistics.median(abs(row.errors[i]) for row in rows[1:]) for i in (0, 1))
    worst_time, worst_memory = (max(rows[1:], key=lambda row: abs(row.errors[i])) for i in (0, 1))
    bare = statistics.median(abs((row.peak - found.above) / row.measured_peak - 1) for row in rows)
    return [
        f'Median absolute error over the {len(rows) - 1} predicted sizes: time {late:.0%}, memory {large:.0%}.',
        f'Largest: time {worst_time.errors[0]:+.0%} ({worst_time.size.name}), memory {worst_memory.errors[1]:+.0%} '
        f'({worst_memory.size.name}).',
        f'Calibration from {rows[0].size.name} alone: work takes {found.factor:.2f} times as long as the roofline of the '
        f'measured rates, {found.windows:.0f} windows read a second of one core, {found.above / 1e6:.0f} MB above the '
        f'counted peak (libraries and their scratch memory). Without the latter the median error of memory is {bare:.0%}.',
    ]


def main() -> None:
    """Render, measure, predict, print, write the page."""
    args = parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore', category=UserWarning)
    sizes = SMOKE if args.smoke else SIZES
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, 'impacts')
        render_impacts(data, train=8 if args.smoke else 160, test=8, progress=False)
        steps = measure_all(sizes, data, Path(folder, 'run'), args)
        rows, found = predict(sizes, steps, data)
    cells, said = cells_of(rows), verdict(rows, found)
    table = Table(*HEADINGS)
    for line in cells:
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print('\n'.join(said))
    if not args.smoke:
        args.out.write_text(page_of(cells, said, args))
        print(f'{args.out}: written')


def page_of(cells: list[list[str]], said: list[str], args: argparse.Namespace) -> str:
    """The page, in Markdown."""
    facts = ', '.join(f'{name} {text}' for name, text in machine_facts().items())
    load = ', '.join(f'{value:.1f}' for value in os.getloadavg())
    about = (
        f'`python benchmarks/plan.py`: steps of training on Impacts, processor milliseconds of one process (its clips read '
        f'in it), medians of {args.rounds} rounds of {args.steps} steps; peak of resident memory above that before the '
        'model is built. The first size calibrates three figures, the others are predicted.'
    )
    lines = ['# Plans against runs', '', about, '', f'{facts}; load {load}.', '', *markdown(HEADINGS, cells), '']
    return '\n'.join(
        [*lines, *(f'- {sentence}' for sentence in said), '', 'The model: [docs/scaling.md](../scaling.md).', '']
    )


if __name__ == '__main__':
    run_tool(main)
