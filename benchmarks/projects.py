"""The projects against what they replace, at equal data, steps and seeds: python benchmarks/projects.py

The head and the pyramid take the place of the quickstart's (retrieval among 256 clips), the noise scheduler that of a
generator of sound on the quickstart's encoder. Trains each from its config, or goes on where it was stopped, evaluates the
last checkpoint and writes docs/results/projects.md. Some forty minutes of one core a seed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

from measuring import markdown
from rich.console import Console
from rich.markdown import Markdown

from gmscavp.engine.checkpoints import newest_checkpoint
from gmscavp.engine.cli import run_tool
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError

ENCODER = 'gmscavp_impacts'
RETRIEVAL = {'v2a_R1': 'v2a R@1, %', 'a2v_R1': 'a2v R@1, %', 'mean_R1': 'mean R@1, %', 'chance_R1': 'chance, %'}
GENERATION = {
    'onset_f1': 'seen impacts heard: F1, %',
    'shuffled_onset_f1': "against another clip's truth, %",
    'pitch_accuracy': 'right pitch, %',
    'timing_error_ms': 'timing: median error, ms',
}


@dataclass(frozen=True)
class Trial:
    """name: of its folder. config: below the repository's root. what: it tries."""

    name: str
    config: str
    what: str

    @property
    def generates(self) -> bool:
        """Whether it is a generator, which stands on the encoder of the first trial."""
        return self.name in ('flow', 'sigmoid')


TRIALS = (
    Trial(ENCODER, 'configs/gmscavp_impacts.py', 'default'),
    Trial('debiased', 'projects/debiased_head/debiased_impacts.py', 'debiased head'),
    Trial('laplacian', 'projects/laplacian_pyramid/laplacian_impacts.py', 'Laplacian pyramid'),
    Trial('flow', 'configs/v2a_frozen_impacts.py', 'default (rectified flow)'),
    Trial('sigmoid', 'projects/sigmoid_schedule/sigmoid_impacts.py', 'sigmoid schedule'),
)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', default=str(ROOT / 'data/impacts'), help='folder that holds Impacts')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/projects', help='folder for all runs')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--epochs', type=int, help="of every run (default: its config's); for a trial of the benchmark")
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/projects.md', help='page to write')
    return parser.parse_args()


def figures_of(trial: Trial, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Train and test one; what is done already is not done again."""
    folder = args.work_dir / f'seed_{seed}'
    out = folder / trial.name / 'metrics.json'
    if not out.is_file():
        options = [f'data_root={args.data_root}', f'randomness.seed={seed}']
        if trial.generates:
            encoder = newest_checkpoint(folder / ENCODER)
            options += [f'truth={args.data_root}/events.jsonl']
            options += [f'init.{part}={encoder}' for part in ('video_backbone', 'video_pyramid')]
        if args.epochs:
            options += [f'max_epochs={args.epochs}', f'val_interval={args.epochs}']
        work_dir = str(folder / trial.name)
        run('train.py', trial.config, '--work-dir', work_dir, '--resume', '--cfg-options', *options)
        run('test.py', trial.config, work_dir, '--out', str(out), '--cfg-options', *options)
    metrics = json.loads(out.read_text())['metrics']
    return {name.split('/')[-1]: value for name, value in metrics.items()}


def run(tool: str, *arguments: str) -> None:
    """A tool of the project in a process of its own."""
    done = subprocess.run([sys.executable, str(ROOT / 'tools' / tool), *arguments], cwd=ROOT, check=False)
    if done.returncode:
        raise UserError(f'tools/{tool} {arguments[0]} ended with code {done.returncode}; its message stands above.')


def table(found: dict[str, list[dict[str, float]]], generators: bool) -> list[str]:
    """Means over seeds, and from the least to the greatest where there are several."""
    columns = GENERATION if generators else RETRIEVAL
    rows = []
    for trial in TRIALS:
        if trial.generates == generators:
            values = [[seed[name] for seed in found[trial.name]] for name in columns]
            rows.append([trial.what, f'`{trial.config}`', *map(cell, values)])
    return markdown(['', 'config', *columns.values()], rows)


def cell(values: list[float]) -> str:
    """'93.4', or '93.4 (91.0 to 95.1)'."""
    mean = f'{statistics.fmean(values):.1f}'
    return mean if len(values) == 1 else f'{mean} ({min(values):.1f} to {max(values):.1f})'


def page(found: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> str:
    """What is printed and written."""
    facts = machine_facts()
    lines = [
        '# Projects against what they replace',
        '',
        f'`python benchmarks/projects.py --seeds {" ".join(map(str, args.seeds))}`: Impacts, the same clips, batch, steps '
        "and seeds for all; means over seeds. Nothing was tuned: each project runs with its config's settings.",
        '',
        'Retrieval among 256 clips:',
        '',
        *table(found, generators=False),
        '',
        "Sound from video on the default's frozen encoder, 256 clips:",
        '',
        *table(found, generators=True),
        '',
        ', '.join(f'{name} {value}' for name, value in facts.items()) + '.',
    ]
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Run all and write the page."""
    args = parse_args()
    found = {trial.name: [figures_of(trial, seed, args) for seed in args.seeds] for trial in TRIALS}
    text = page(found, args)
    Console().print(Markdown(text))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)


if __name__ == '__main__':
    run_tool(main)
