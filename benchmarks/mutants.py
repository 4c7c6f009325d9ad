"""Whether the tests would notice a mistake: python benchmarks/mutants.py

Small mistakes (benchmarks/mutating.py) are put into the maths of losses, ranks and samplers, one at a time and in memory
alone, and the tests of those modules are run against each: a mistake that a test notices is killed, one that none notices
survives. Writes docs/results/mutants.md. --every 5 tries one mutant in five. --group takes one
group and writes no page. --smoke tries a handful in seconds. Needs fork, so no Windows.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from measuring import markdown
from mutants_equivalent import EQUIVALENT
from mutants_run import survivors
from mutating import Mutant, mutants_of
from rich.console import Console
from rich.progress import Progress

from gmscavp.engine.cli import run_tool
from gmscavp.engine.facts import machine_facts


class Group(NamedTuple):
    """Modules below gmscavp and the test files, below tests, that are to hold their functions."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


_HEADS = tuple(f'models.heads.{name}' for name in ('base', 'multi_scale_nce', 'siglip', 'dense'))
_SAMPLERS = tuple(f'models.samplers.{name}' for name in ('base', 'ddim', 'dpm_solver', 'euler', 'runge_kutta'))
_SCHEDULERS = ('base', 'choices', 'ddpm', 'edm', 'flow', 'grids', 'prediction', 'times', 'weighting')
GROUPS = {
    'losses': Group(
        (*_HEADS, 'models.tiled_contrast'),
        tuple(f'models/test_{name}.py' for name in ('heads', 'siglip', 'dense', 'tiled_contrast', 'segments')),
    ),
    'ranks': Group(
        ('evaluation.retrieval', 'evaluation.one_pass'),
        tuple(f'evaluation/test_{name}.py' for name in ('retrieval', 'one_pass')),
    ),
    'samplers': Group(
        (*_SAMPLERS, *(f'models.noise_schedulers.{name}' for name in _SCHEDULERS)),
        tuple(f'models/test_{name}.py' for name in ('samplers', 'noise_schedulers', 'samplers_properties')),
    ),
}
_SMOKE = Group(('evaluation.retrieval',), ('evaluation/test_retrieval.py',))


class Outcome(NamedTuple):
    """All mutants of a group, and those that no test noticed."""

    mutants: Sequence[Mutant]
    left: Sequence[Mutant]
    seconds: float


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--group', choices=sorted(GROUPS), help='only this one; writes no page')
    parser.add_argument('--every', type=int, default=1, help='try only every n-th mutant')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/mutants.md', help='the page')
    parser.add_argument('--smoke', action='store_true', help='a handful of mutants, in seconds; writes no page')
    return parser.parse_args()


def tried(group: Group, every: int, progress: Progress, name: str) -> Outcome:
    """Run the tests of a group against its mutants."""
    mutants = [mutant for module in group.modules for mutant in mutants_of(f'gmscavp.{module}')][::every]
    bar = progress.add_task(name, total=len(mutants))
    started = time.monotonic()
    files = [ROOT / 'tests' / file for file in group.tests]

    def tell(mutant: Mutant, survived: bool) -> None:
        progress.advance(bar)
        if survived:
            progress.console.print(told(mutant), markup=False, highlight=False, soft_wrap=True)

    left = survivors(files, mutants, tell)
    return Outcome(mutants, left, time.monotonic() - started)


def counts_table(outcome: Outcome) -> list[str]:
    """Mutants, killed, survived, equivalent and the share killed of those that could be, by module and for all."""
    modules = list(dict.fromkeys(mutant.module for mutant in outcome.mutants))
    rows = [_counts(module.removeprefix('gmscavp.'), outcome, module) for module in modules]
    headings = ['module', 'mutants', 'killed', 'survived', 'equivalent', 'killed of those that are not equivalent']
    return markdown(headings, [*rows, _counts('all', outcome, None)])


def _counts(name: str, outcome: Outcome, module: str | None) -> list[str]:
    every = [mutant for mutant in outcome.mutants if module in (None, mutant.module)]
    left = Counter(mutant.key in EQUIVALENT for mutant in outcome.left if module in (None, mutant.module))
    killed = len(every) - left.total()
    share = 100 * killed / max(len(every) - left[True], 1)
    return [name, *map(str, (len(every), killed, left[False], left[True])), f'{share:.1f} %']


def survivors_list(outcome: Outcome) -> list[str]:
    """A line for each mutant that survived, those that are equivalent last, with the reason."""
    return [told(mutant) for mutant in sorted(outcome.left, key=lambda mutant: mutant.key in EQUIVALENT)]


def told(mutant: Mutant) -> str:
    """A mutant in a line."""
    place = f'{mutant.module.removeprefix("gmscavp.")}:{mutant.line} {mutant.function}'
    reason = EQUIVALENT.get(mutant.key)
    return f'- {place}: `{mutant.before}` as `{mutant.after}`' + (f' (equivalent: {reason})' if reason else '')


def page(outcomes: dict[str, Outcome], every: int) -> str:
    """The whole page."""
    sample = f' Here one mutant in {every} was tried.' if every > 1 else ''
    facts = ', '.join(f'{name} {value}' for name, value in machine_facts().items())
    lines = [
        '# What the tests notice',
        '',
        '`python benchmarks/mutants.py` puts one small mistake at a time into the functions of the modules below '
        '(comparisons, arithmetic, numbers, conditions, order of arguments, statements left out; text and errors '
        "excepted) and runs the module's tests against it. A mistake that a test notices is killed; so is one over which "
        'the tests hang. Equivalent ones do the same as the right code, for the reason given, so that no test can tell.'
        + sample,
        '',
        f'{facts}.',
    ]
    for name, outcome in outcomes.items():
        tests = ', '.join(f'`tests/{file}`' for file in GROUPS[name].tests)
        told = [f'By {tests}; {outcome.seconds / 60:.0f} minutes.', '', *counts_table(outcome)]
        lines += ['', f'## {name.capitalize()}', '', *told, '', *survivors_list(outcome)]
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Try all groups, print, write the page."""
    args = parse_args()
    # Forks of a process with threads do not end.
    torch.set_num_threads(1)
    console = Console()
    groups = {'ranks': _SMOKE} if args.smoke else GROUPS
    groups = {name: group for name, group in groups.items() if args.group in (None, name)}
    with Progress(console=Console(stderr=True)) as progress:
        every = 20 if args.smoke else args.every
        outcomes = {name: tried(group, every, progress, name) for name, group in groups.items()}
    for name, outcome in outcomes.items():
        console.rule(f'{name}: {outcome.seconds:.0f} s')
        print('\n'.join([*counts_table(outcome), '', *survivors_list(outcome)]))
    if not (args.smoke or args.group):
        args.out.write_text(page(outcomes, args.every))
        print(f'written: {args.out}')


if __name__ == '__main__':
    run_tool(main)
