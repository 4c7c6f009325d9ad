"""All measurements of speed and memory, one after another, as one page: python benchmarks/run_all.py

Every benchmark runs by its own command, by itself, and writes its own page under docs/results; docs/results/performance.md
holds them all, below what this machine can do at the most, measured first. A benchmark that fails is named at the end, its
old page stays, and the others still run. --smoke runs everything in small and writes nothing. An hour and a half on two
cores.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from measuring import copy_rate, markdown, matrix_rate
from rich.console import Console

from gmscavp.engine.cli import run_tool
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError


class Benchmark(NamedTuple):
    """A file in this folder. device: it takes --device, and also measures on a GPU."""

    name: str
    device: bool


BENCHMARKS = (
    Benchmark('contrastive_loss', True),
    Benchmark('train_step', True),
    Benchmark('retrieval_ranks', False),
    Benchmark('sampling', True),
    Benchmark('data', False),
    Benchmark('plan', False),
    Benchmark('search', False),
)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument('--only', nargs='*', choices=names, default=names, help='which; none: only the joint page')
    parser.add_argument(
        '--device', choices=('cpu', 'cuda'), default='cpu', help='cuda: those that measure on a GPU, there'
    )
    parser.add_argument('--pages', type=Path, default=ROOT / 'docs/results', help='folder for the pages')
    parser.add_argument('--smoke', action='store_true', help='everything in small, in two minutes; writes no page')
    args = parser.parse_args()
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch sees no GPU here; measure with --device cpu.')
    return args


def page_name(benchmark: Benchmark, device: str) -> str:
    """A GPU's pages lie beside those of the CPU."""
    return f'{benchmark.name}_{device}.md' if device != 'cpu' else f'{benchmark.name}.md'


def command_of(benchmark: Benchmark, args: argparse.Namespace) -> list[str]:
    """What a reader types to run this benchmark alone."""
    command = ['benchmarks/' + benchmark.name + '.py']
    if benchmark.device and args.device != 'cpu':
        command += ['--device', args.device]
    return command + (['--smoke'] if args.smoke else ['--out', str(args.pages / page_name(benchmark, args.device))])


def one_lower(page: str) -> str:
    """A page as a part of another: every heading a level lower."""
    return re.sub(r'^(#+) ', r'#\1 ', page.strip(), flags=re.MULTILINE)


def ceilings(device: str) -> list[str]:
    """The table of what the machine reaches when nothing else is asked of it."""
    rates = {
        'one large matrix product, float32': (matrix_rate(torch.float32, device), 1e9, 'GFLOP/s'),
        'one large matrix product, bfloat16': (matrix_rate(torch.bfloat16, device), 1e9, 'GFLOP/s'),
        'memory, read and written by a copy': (copy_rate(device), 1e9, 'GB/s'),
    }
    rows = [[what, f'{rate / unit:,.0f} {name}'] for what, (rate, unit, name) in rates.items()]
    return markdown(['at the most', f'{torch.get_num_threads()} threads' if device == 'cpu' else 'GPU'], rows)


def performance_page(args: argparse.Namespace, most: list[str]) -> str:
    """All pages that are there, below the machine's ceilings."""
    option = f' --device {args.device}' if args.device != 'cpu' else ''
    facts = ', '.join(f'{name} {value}' for name, value in machine_facts().items())
    parts = [
        '# Speed and memory',
        f'`python benchmarks/run_all.py{option}` runs every benchmark below and writes this page; each runs alone by the '
        'command that its section names. Ratios are to the plain way, measured in the same run.',
        f'{facts}.',
        '\n'.join(most),
    ]
    for benchmark in BENCHMARKS:
        file = args.pages / page_name(benchmark, args.device)
        if file.is_file():
            parts.append(one_lower(file.read_text()))
    return '\n\n'.join(parts) + '\n'


def main() -> None:
    """Run, then write the page."""
    args, console = parse_args(), Console()
    chosen = [each for each in BENCHMARKS if each.name in args.only and (args.device == 'cpu' or each.device)]
    most = ceilings(args.device)
    failed = []
    for place, benchmark in enumerate(chosen, 1):
        command = command_of(benchmark, args)
        console.rule(f'{place} of {len(chosen)}: python {" ".join(command)}')
        started = time.monotonic()
        if subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
            failed.append(benchmark.name)
        console.print(f'{benchmark.name}: {time.monotonic() - started:.0f} s')
    if not args.smoke:
        name = 'performance.md' if args.device == 'cpu' else f'performance_{args.device}.md'
        (args.pages / name).write_text(performance_page(args, most))
        print(f'written: {args.pages / name}')
    if failed:
        raise UserError(f'{", ".join(failed)} failed; what went wrong stands above.')


if __name__ == '__main__':
    run_tool(main)
