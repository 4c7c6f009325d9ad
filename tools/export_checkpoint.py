"""Make one .safetensors file of a checkpoint's weights.

python tools/export_checkpoint.py work_dirs/run --out model.safetensors

For the folder that a sharded model is saved as, and for .pth files. The weights are those that evaluation uses (the moving
average, where a run keeps one). Every tool that takes a checkpoint takes the file.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from gmscavp.compat import SAFETENSORS, format_entries, weights_of
from gmscavp.engine.cli import run_tool
from gmscavp.engine.trained import find_checkpoint, whole_checkpoint
from gmscavp.engine.weights.files import write_safetensors
from gmscavp.errors import UserError


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='--traceback shows where an error came from.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('checkpoint', type=Path, help='checkpoint, file or folder, or a work directory (its newest)')
    parser.add_argument('--out', required=True, type=Path, help=f'file to write, {SAFETENSORS}')
    return parser.parse_args()


def main() -> None:
    """Read, and write under the file's name when it is whole."""
    args = parse_args()
    if args.out.suffix != SAFETENSORS:
        raise UserError(f'--out {args.out}: weights are written as {SAFETENSORS}; give the file that ending.')
    source = find_checkpoint(args.checkpoint)
    with Console().status(f'reading {source}'):
        checkpoint = whole_checkpoint(source)
    weights = weights_of(checkpoint)
    if not weights:
        raise UserError(f'{source} holds no weights.')
    counters = {name: str(checkpoint.get('meta', {}).get(name)) for name in ('epoch', 'iter')}
    with Console().status(f'writing {args.out}'):
        write_safetensors(args.out, weights, {'format': 'pt', 'source': source.name} | counters | format_entries())
    numbers = sum(value.numel() for value in weights.values())
    print(f'written: {args.out}, {len(weights)} weights of {numbers:,} numbers, from {source}')


if __name__ == '__main__':
    run_tool(main)
