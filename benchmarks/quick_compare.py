"""GMS-CAVP against CAVP on Impacts at the same steps, batch and seed: python benchmarks/quick_compare.py

Trains both from their configs (or goes on where it was stopped), evaluates the last checkpoint of each on the `mixed`
gallery of 256 clips, and prints mean R@1 and their ratio.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.table import Table

from gmscavp.engine.cli import run_tool
from gmscavp.errors import UserError

RUNS = {'CAVP': 'configs/cavp_impacts.py', 'GMS-CAVP': 'configs/gmscavp_impacts.py'}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', default=str(ROOT / 'data/impacts'), help='folder that holds Impacts')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/quick_compare', help='folder for both runs')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def train_and_test(config: str, work_dir: Path, args: argparse.Namespace) -> dict[str, float]:
    """One run to its figures; minutes of training stand beside them as 'minutes', of this call only."""
    options = ['--cfg-options', f'data_root={args.data_root}', f'randomness.seed={args.seed}']
    out = work_dir / 'metrics.json'
    started = time.monotonic()
    run('train.py', config, '--work-dir', str(work_dir), '--resume', *options)
    minutes = (time.monotonic() - started) / 60
    run('test.py', config, str(work_dir), '--out', str(out), *options)
    figures = json.loads(out.read_text())['metrics']
    return {name.removeprefix('retrieval/'): value for name, value in figures.items()} | {'minutes': minutes}


def run(tool: str, *arguments: str) -> None:
    """Run a tool of the project in a process of its own."""
    done = subprocess.run([sys.executable, str(ROOT / 'tools' / tool), *arguments], cwd=ROOT, check=False)
    if done.returncode:
        raise UserError(f'tools/{tool} {arguments[0]} ended with code {done.returncode}; its message stands above.')


def main() -> None:
    """Run both and print the table."""
    args = parse_args()
    figures = {name: train_and_test(config, args.work_dir / name.lower(), args) for name, config in RUNS.items()}
    table = Table(title=f'Impacts, mixed gallery of {figures["CAVP"]["N"]:.0f} clips, seed {args.seed}')
    for heading in ('model', 'v2a R@1 %', 'a2v R@1 %', 'mean R@1 %', 'minutes'):
        table.add_column(heading, justify='right')
    for name, of in figures.items():
        table.add_row(name, *(f'{of[key]:.1f}' for key in ('v2a_R1', 'a2v_R1', 'mean_R1', 'minutes')))
    chance = f'{figures["CAVP"]["chance_R1"]:.1f}'
    table.add_row('chance', chance, chance, chance, '')
    Console().print(table)
    baseline = figures['CAVP']['mean_R1']
    if baseline:
        print(f'GMS-CAVP / CAVP: {figures["GMS-CAVP"]["mean_R1"] / baseline:.2f}')
    (args.work_dir / 'figures.json').write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
    run_tool(main)
