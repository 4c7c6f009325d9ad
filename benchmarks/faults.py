"""Whether faults are survived: python benchmarks/faults.py media|saving|soak

Each prints its table and writes its own page, docs/results/faults_<part>.md; `--help` after its name says what it does.
The exit code is 0 where everything was survived.
"""

import argparse
import os
import sys
from pathlib import Path

# Before any library starts its threads.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# Inherited by the children: the libraries' own complaints would bury the table.
os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import faults_media
import faults_saving
import faults_soak

from gmscavp.engine.cli import run_tool

PARTS = {'media': faults_media, 'saving': faults_saving, 'soak': faults_soak}
"""Name -> module with add_arguments(parser) and main(args) -> exit code."""


def parse_args() -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    choices = parser.add_subparsers(dest='part', required=True, metavar='|'.join(PARTS))
    for name, module in PARTS.items():
        text = module.__doc__ or ''
        part = choices.add_parser(name, help=text.splitlines()[0], description=text, formatter_class=plain)
        module.add_arguments(part)
    return parser.parse_args()


def main() -> None:
    """Hand over to the part that was asked for."""
    args = parse_args()
    sys.exit(PARTS[args.part].main(args))


if __name__ == '__main__':
    run_tool(main)
