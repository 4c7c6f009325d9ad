"""How good is what is generated on Impacts: sound from video, the tokens of CAVP and GMS-CAVP, video from sound, samplers.

    python benchmarks/generation.py                      all tables: some six hours of one core, half of it on two
    python benchmarks/generation.py --budget small       shorter trainings, fewer clips: within half an hour on two cores
    python benchmarks/generation.py --use v2a_impacts=work_dirs/v2a_impacts    a run that is there stands in
    python benchmarks/generation.py --only v2a samplers  these tables; the page keeps what was found for the others
    python benchmarks/generation.py --only samplers --clips 32 --out docs/results/samplers.md    a page of that alone

Every training and every evaluation is a process of one thread, --jobs at a time. What is finished is kept, so that a
stopped benchmark goes on where it was. The page goes to docs/results/generation.md.
"""

import argparse
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from generation_page import TABLES, Asked, Found, RunFacts, page
from generation_runs import (
    ALIGNED,
    BUDGETS,
    GUIDE,
    JUDGE,
    MORE_CLIPS,
    SCALES,
    SCALES_ALONE,
    SOLVERS,
    Budget,
    Cell,
    Training,
    cells,
    config_file,
    epochs_of,
    more_root,
    needed,
    test_config,
    train_config,
    trainings,
    whole_epochs,
)
from generation_tasks import Task, call, run_tasks
from mmengine.config import Config

from gmscavp import compat
from gmscavp.engine.checkpoints import newest_checkpoint
from gmscavp.engine.cli import run_tool
from gmscavp.errors import UserError, near_names

_CONFIGS = threading.Lock()


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--budget', choices=tuple(BUDGETS), default='full', help="'tiny' only shows in minutes that everything runs"
    )
    parser.add_argument('--only', nargs='+', choices=TABLES, default=TABLES, metavar='TABLE', help=', '.join(TABLES))
    parser.add_argument('--seeds', nargs='+', type=int, help='of the encoders and their generators')
    parser.add_argument(
        '--use',
        nargs='+',
        default=[],
        metavar='NAME=FOLDER',
        help='work folder of a run that stands in for a training; remembered for the next call. Names: config names of '
        'single runs such as v2a_impacts, and CAVP_1, GMS-CAVP_1, v2a_frozen_CAVP_1, ... of seeds',
    )
    parser.add_argument('--clips', type=int, help="so many are judged in every table (default: the budget's)")
    parser.add_argument('--no-train', action='store_true', help='judge what is there; the page names what is missing')
    parser.add_argument('--jobs', type=int, default=2, help='processes at a time, of one thread each')
    parser.add_argument('--data-root', type=Path, default=ROOT / 'data/impacts', help='rendered if it is not there')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/generation')
    parser.add_argument(
        '--out', type=Path, help='markdown file (default: docs/results/generation.md; of tiny: beside it)'
    )
    return parser.parse_args()


@dataclass(frozen=True)
class Bench:
    """Where everything lies. used: training -> folder of the run that stands in for it. epochs: of every training."""

    folder: Path
    data_root: Path
    budget: Budget
    seeds: tuple[int, ...]
    runs: Mapping[str, Training]
    used: Mapping[str, Path]
    epochs: Mapping[str, int]

    def run_folder(self, name: str) -> Path:
        """The work folder of a training."""
        return self.used.get(name, self.folder / name)

    def checkpoint(self, name: str) -> Path | None:
        """The newest one of a finished training, None while it is not finished."""
        newest = newest_checkpoint(self.run_folder(name))
        if newest is None or not newest.is_file():
            return None
        done = name in self.used or (epoch_of(newest) or 0) >= self.epochs[name]
        return newest if done else None

    def figures_file(self, cell: Cell) -> Path:
        """Where a finished evaluation leaves its figures."""
        return self.folder / 'cells' / cell.name / 'figures.json'

    def stamp(self, cell: Cell) -> dict[str, Any]:
        """What the figures of an evaluation depend on."""
        parts = {cell.run: True, JUDGE: cell.judged, ALIGNED: cell.aligned, GUIDE: cell.guided}
        files = {name: self.checkpoint(name) for name, wanted in parts.items() if wanted}
        marks = {name: [str(file), file.stat().st_mtime] for name, file in files.items() if file}
        return {'clips': cell.clips, 'options': dict(cell.options), 'data': str(self.data_root), 'files': marks}

    def figures(self, cell: Cell) -> dict[str, Any] | None:
        """Figures of an evaluation that is still what it would be if made now."""
        file = self.figures_file(cell)
        found = json.loads(file.read_text()) if file.is_file() else None
        return found if found and found['stamp'] == self.stamp(cell) else None


def main() -> None:
    """Train and judge what is missing, write the page."""
    args = parse_args()
    bench = prepared(args)
    for root, options in wanted_clips(bench, args).items():
        if not (root / 'manifest.csv').is_file():
            command = [ROOT / 'tools/prepare_data.py', 'impacts', '--out', root, *options]
            call(command, bench.folder / f'render_{root.name}.log', f'rendering {root.name}')
    failures = run_tasks(tasks_of(bench, args), args.jobs)
    text = page_of(bench, args, failures)
    out = args.out or (bench.folder if args.budget == 'tiny' else ROOT / 'docs/results') / 'generation.md'
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(text)
    print(f'written: {out}')
    if failures:
        raise UserError(f'{len(failures)} of the runs did not end well: {next(iter(failures.values()))}')


def wanted_clips(bench: Bench, args: argparse.Namespace) -> dict[Path, list[str]]:
    """Folders of Impacts that the trainings and evaluations need, and what prepare_data.py is told of their sizes."""
    found: dict[Path, list[str]] = {bench.data_root: []}
    wanted = set().union(*(needed(table, bench.seeds) for table in args.only))
    for name in wanted if bench.budget.more_clips and not args.no_train else ():
        run = bench.runs[name]
        if run.config in MORE_CLIPS and bench.checkpoint(name) is None:
            found[more_root(run, bench.data_root)] = ['--train', str(MORE_CLIPS[run.config][1]), '--test', '8']
    return found


def prepared(args: argparse.Namespace) -> Bench:
    """Read what stands in for trainings, from now and before. UserError: a name or a folder that cannot."""
    budget = BUDGETS[args.budget]
    if args.clips is not None:
        if args.clips < 2:
            raise UserError(f'--clips must be 2 or more, not {args.clips}: chance is the truth of another clip.')
        budget = replace(budget, clips=args.clips, sampler_clips=args.clips)
    seeds = tuple(args.seeds or budget.seeds)
    runs, folder = trainings(seeds), args.work_dir.resolve() / args.budget
    memory = folder / 'used.json'
    used = {name: Path(place) for name, place in (json.loads(memory.read_text()) if memory.is_file() else {}).items()}
    for given in args.use:
        name, _, place = given.partition('=')
        if name not in runs or not place:
            raise UserError(f"--use takes NAME=FOLDER; there is no training '{name}'.{near_names(name, runs)}")
        used[name] = Path(place).resolve()
    for name, place in used.items():
        if name in runs:
            demand_run(runs[name], place)
    folder.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps({name: str(place) for name, place in used.items()}, indent=1) + '\n')
    epochs = {name: epochs_of(run, budget) for name, run in runs.items()}
    return Bench(folder, args.data_root.resolve(), budget, seeds, runs, used, epochs)


def demand_run(run: Training, place: Path) -> None:
    """Raise UserError where a folder holds no run of the training's config, which every run leaves beside its weights."""
    newest = newest_checkpoint(place)
    if newest is None or not newest.is_file():
        raise UserError(f'--use {run.name}: {place} holds no checkpoint; give the work folder of a finished run.')
    left = [file for name in (run.config, run.name) if (file := place / f'{name}.py').is_file()]
    if not left:
        raise UserError(f'--use {run.name}: {place} is no run of configs/{run.config}.py.')
    seed = Config.fromfile(str(left[0])).randomness.seed
    if run.seed is not None and seed != run.seed:
        raise UserError(f'--use {run.name}: {place} is a run of seed {seed}, not {run.seed}.')


def epoch_of(checkpoint: Path) -> int | None:
    """By its name."""
    found = re.search(r'epoch_(\d+)', checkpoint.name)
    return int(found[1]) if found else None


# What is to be done


def tasks_of(bench: Bench, args: argparse.Namespace) -> dict[str, Task]:
    """Trainings and evaluations that are missing for the tables that are asked for."""
    wanted = set().union(*(needed(table, bench.seeds) for table in args.only))
    tasks: dict[str, Task] = {}
    for name, run in bench.runs.items():
        if name in wanted and not args.no_train and not bench.checkpoint(name):
            tasks[name] = Task(partial(train, bench, run), run.needs)
    asked = [cell for cell in cells(bench.budget, bench.seeds) if cell.table in args.only]
    for cell in asked:
        parts = (cell.run, *(name for name, on in ((JUDGE, cell.judged), (ALIGNED, cell.aligned)) if on))
        parts += (GUIDE,) if cell.guided else ()
        if any(part in tasks for part in parts) or not bench.figures(cell):
            # Without its generator there is nothing to judge, without a judge only less.
            hard = [cell.run, *((GUIDE, ALIGNED) if cell.guided else ())]
            if all(part in tasks or bench.checkpoint(part) for part in hard):
                tasks[cell.name] = Task(partial(judge, bench, cell), parts)
    return tasks


def train(bench: Bench, run: Training) -> None:
    """Train, or go on with it, and add the minutes of the processor to those of before."""
    started = {name: bench.checkpoint(name) for name in run.needs}
    missing = [name for name, file in started.items() if file is None]
    if missing:
        raise UserError(f'{run.name} was not trained: {", ".join(missing)} is missing.')
    ready = {name: file for name, file in started.items() if file is not None}
    config = written(bench, run.name, lambda: train_config(run, bench.budget, bench.data_root, ready))
    folder = bench.run_folder(run.name)
    resume = ['--resume'] if newest_checkpoint(folder) else []
    cost = folder / 'cost.json'
    before = json.loads(cost.read_text())['minutes'] if cost.is_file() else 0.0
    minutes = call(
        [ROOT / 'tools/train.py', config, '--work-dir', folder, *resume], folder / 'output.log', f'training {run.name}'
    )
    cost.write_text(json.dumps({'minutes': before + minutes}) + '\n')


def judge(bench: Bench, cell: Cell) -> None:
    """Evaluate and keep the figures with what they depend on."""
    stamp, folder = bench.stamp(cell), bench.figures_file(cell).parent
    checkpoint = bench.checkpoint(cell.run)
    if checkpoint is None:
        raise UserError(f'{cell.name} was not judged: {cell.run} is missing.')
    judges = [bench.checkpoint(name) if on else None for name, on in ((JUDGE, cell.judged), (ALIGNED, cell.aligned))]
    config = written(bench, cell.name, lambda: test_config(cell, bench.runs[cell.run], bench.data_root, *judges))
    if cell.guided:
        checkpoint = with_guide(checkpoint, bench.checkpoint(GUIDE), folder / 'with_guide.pth')
    out = folder / 'out.json'
    command = [ROOT / 'tools/test.py', config, checkpoint, '--out', out, '--work-dir', folder]
    minutes = call(command, folder / 'output.log', f'judging {cell.name}')
    entry = {'stamp': stamp, 'minutes': minutes, 'metrics': json.loads(out.read_text())['metrics']}
    bench.figures_file(cell).write_text(json.dumps(entry, indent=1) + '\n')


def with_guide(generator: Path, guide: Path | None, out: Path) -> Path:
    """A file of the generator's weights with those of the classifier that guides it. UserError: there is none."""
    if guide is None:
        raise UserError(f'alignment guidance was not judged: {GUIDE} is missing.')
    weights, lent = (compat.weights_of(compat.load_checkpoint_file(file)) for file in (generator, guide))
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': weights | {f'classifier.{name}': value for name, value in lent.items()}}, out)
    return out


def written(bench: Bench, name: str, build: Callable[[], Config]) -> Path:
    """A config as a file of its own."""
    file = bench.folder / 'configs' / f'{name}.py'
    file.parent.mkdir(parents=True, exist_ok=True)
    # MMEngine changes how Python imports while it reads a config: no two threads may.
    with _CONFIGS:
        build().dump(str(file))
    return file


# The page


def page_of(bench: Bench, args: argparse.Namespace, failures: Mapping[str, str]) -> str:
    """The markdown, of all that is finished."""
    of: dict[str, Found] = {}
    for cell in cells(bench.budget, bench.seeds):
        entry = bench.figures(cell)
        if entry:
            metrics = {name.removeprefix('generation/'): value for name, value in entry['metrics'].items()}
            of[cell.name] = Found(metrics, entry['minutes'], JUDGE in entry['stamp']['files'])
    budget = bench.budget
    found = {cell.table for cell in cells(budget, bench.seeds) if cell.name in of}
    # Without --out it is the page of all tables; what is not there it says.
    tables = [table for table in TABLES if table in args.only or (table in found and not args.out)]
    wanted = set().union(*(needed(table, bench.seeds) for table in tables))
    rows = [run_facts(bench, name, failures.get(name)) for name in bench.runs if name in wanted]
    command = f'python benchmarks/generation.py --budget {args.budget}'
    command += f' --clips {args.clips}' if args.clips else ''
    command += f' --only {" ".join(args.only)}' if args.out else ''
    asked = Asked(
        budget.clips,
        budget.sampler_clips,
        bench.seeds,
        budget.evaluations,
        budget.spacings,
        SOLVERS,
        SCALES,
        SCALES_ALONE,
        budget.train_clips,
        tables,
    )
    return page(of, rows, command, asked, [said for name, said in failures.items() if name not in bench.runs])


def run_facts(bench: Bench, name: str, failure: str | None) -> RunFacts:
    """What the page says of a training."""
    run, folder, checkpoint = bench.runs[name], bench.run_folder(name), bench.checkpoint(name)
    # A run that stands in may know its minutes from the benchmark that it comes from.
    costs = [folder / file for file in ('cost.json', 'figures.json') if (folder / file).is_file()]
    minutes = json.loads(costs[0].read_text()).get('minutes') if costs and checkpoint else None
    stands_in = os.path.relpath(folder, ROOT) if name in bench.used else None
    seed = run.seed if run.seed is not None else 0
    epochs = epoch_of(checkpoint) if checkpoint else None
    config = config_file(run.config).name
    return RunFacts(name, config, seed, epochs, whole_epochs(run), minutes, stands_in, bool(checkpoint), failure)


if __name__ == '__main__':
    run_tool(main)
