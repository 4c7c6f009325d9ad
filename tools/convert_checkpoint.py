"""Turn released weights into a .safetensors file of ours, or back: docs/weights.md lists the layouts."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from gmscavp.compat import SAFETENSORS, differences, load_checkpoint_file
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import load_config
from gmscavp.engine.weights import (
    LAYOUTS,
    Conversion,
    Layout,
    guess_layout,
    refuse_partial,
    to_ours,
    to_released,
    unwrap,
    write_released,
    write_weights,
)
from gmscavp.errors import UserError
from gmscavp.registry import MODELS


def parse_args() -> argparse.Namespace:
    """The command line."""
    layouts = '\n'.join(f'  {name}: {layout.about}\n    Licence: {layout.licence}.' for name, layout in LAYOUTS.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f'layouts:\n{layouts}\n\nPATTERN is a key of the source with * for anything.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('source', type=Path, help='released checkpoint (with --to-released: a file of ours)')
    parser.add_argument('--layout', required=True, choices=LAYOUTS, help='how the released weights are laid out')
    parser.add_argument(
        '--out', required=True, type=Path, help=f'file to write, {SAFETENSORS}; back also .pth or .ckpt'
    )
    parser.add_argument('--to-released', action='store_true', help='the way back: from ours to the released keys')
    parser.add_argument('--config', metavar='CONFIG', help='see that the weights fit the model of this config')
    parser.add_argument(
        '--allow-missing', nargs='+', default=[], metavar='PATTERN', help='keys that the source may lack'
    )
    parser.add_argument('--leave-out', nargs='+', default=[], metavar='PATTERN', help='keys not to take over')
    parser.add_argument(
        '--licence', help='licence of the source, to be recorded instead of what is known of the layout'
    )
    return parser.parse_args()


def main() -> None:
    """Read, convert, give an account, and write."""
    args = parse_args()
    layout, console = LAYOUTS[args.layout], Console()
    check_files(args)
    with console.status(f'reading {args.source}'):
        weights = unwrap(load_checkpoint_file(args.source))
    converted = (to_released if args.to_released else to_ours)(weights, layout, args.leave_out)
    print_account(console, converted, layout, args)
    if not args.to_released and not converted.used:
        refuse_layout(weights, layout)
    refuse_partial(converted, layout, args.allow_missing)
    if args.config and not args.to_released:
        print(f'fits {args.config}: {", ".join(fitting_parts(converted, args.config))}')
    with console.status(f'writing {args.out}'):
        if args.to_released:
            write_released(args.out, converted, layout)
            recorded = {}
        else:
            recorded = write_weights(args.out, converted, layout, args.source, args.licence or layout.licence)
    for name in ('source_sha256', 'licence'):
        if name in recorded:
            print(f'{name}: {recorded[name]}')
    print(f'written: {args.out}')


def check_files(args: argparse.Namespace) -> None:
    """Refuse before anything is read what could not be written."""
    if not args.to_released and args.out.suffix != SAFETENSORS:
        raise UserError(f'--out {args.out}: converted weights are written as {SAFETENSORS}; give the file that ending.')
    if args.out.exists() and args.source.exists() and args.out.samefile(args.source):
        raise UserError(f'--out {args.out} is the source itself; give another file.')


def refuse_layout(weights: dict, layout: Layout) -> None:
    """Say which layout the source seems to have, where it has nothing of the one given."""
    likely = guess_layout(weights, LAYOUTS.values())
    hint = f"it looks like '{likely.name}'" if likely else f'its keys are like {next(iter(weights))}'
    raise UserError(f"the source has no key of the layout '{layout.name}'; {hint}.")


def print_account(console: Console, converted: Conversion, layout: Layout, args: argparse.Namespace) -> None:
    """How many keys of the source were used, and which were not."""
    table = Table(
        title=f'{args.source.name}: {layout.name}' + (', back to the released keys' if args.to_released else '')
    )
    for heading in ('keys', 'number', 'which'):
        table.add_column(heading, justify='right' if heading == 'number' else 'left', overflow='fold')
    table.add_row('used', str(len(converted.used)), f'{len(converted.weights)} written')
    for heading, names in (
        ('ignored (not needed)', converted.ignored),
        ('left out (--leave-out)', converted.left_out),
        ('missing', converted.missing),
        ('unexpected', converted.unexpected),
        ('of another shape', converted.misshapen),
    ):
        table.add_row(heading, str(len(names)), ', '.join(names[:4]) + (', ...' if len(names) > 4 else ''))
    console.print(table)


def fitting_parts(converted: Conversion, config: str) -> list[str]:
    """The parts of the config's model that the weights fill. Raises UserError where they do not fit."""
    own = MODELS.build(load_config(config).model).state_dict()
    parts = sorted({name.partition('.')[0] for name in converted.weights})
    for part in parts:
        given = {name: value for name, value in converted.weights.items() if name.startswith(f'{part}.')}
        wanted = {name: value for name, value in own.items() if name.startswith(f'{part}.')}
        said = differences({k: v for k, v in wanted.items() if k not in converted.absent}, given)
        if said:
            raise UserError(f'the weights do not fit {part} of {config}: of its {len(wanted)} weights {said}.')
    return parts


if __name__ == '__main__':
    run_tool(main)
