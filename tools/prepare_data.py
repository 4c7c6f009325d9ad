"""Make a data set ready for training: one subcommand per data set."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.engine.cli import run_tool


def main() -> None:
    """Read the command line and prepare the data set it names."""
    parser = argparse.ArgumentParser(description=__doc__, epilog='`<data set> --help` explains the options of each.')
    datasets = parser.add_subparsers(title='data sets', dest='dataset', metavar='<data set>', required=True)
    add_impacts(datasets)
    arguments = parser.parse_args()
    arguments.prepare(arguments)


def add_impacts(datasets: 'argparse._SubParsersAction[argparse.ArgumentParser]') -> None:
    """`impacts`: needs no download, everything is rendered here."""
    parser = datasets.add_parser(
        'impacts',
        help='the embedded data set: render bouncing objects and their sounds',
        description='Render IMPACTS: clips of 4 s (64 x 64 pixels, 16 frames/s, 16 kHz) in which one to three objects '
        'bounce; shape is timbre, colour is pitch, size is decay, speed is loudness. Nothing is downloaded. '
        'A stopped run goes on where it was when started again.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--out', type=Path, default=Path('data/impacts'), help='folder to render into')
    parser.add_argument('--train', type=_count, default=1024, help='number of training clips')
    parser.add_argument('--test', type=_count, default=256, help='number of clips in each of the two test galleries')
    parser.add_argument('--seed', type=_count, default=0, help='the same seed gives the same clips')
    parser.add_argument('--workers', type=_count, default=0, help='processes that render; 0 is one per core')
    parser.add_argument('--force', action='store_true', help='replace a rendering with other numbers in this folder')
    parser.set_defaults(prepare=prepare_impacts)


def prepare_impacts(arguments: argparse.Namespace) -> None:
    """Render, then say what there is now and what comes next."""
    root = render_impacts(
        arguments.out,
        train=arguments.train,
        test=arguments.test,
        seed=arguments.seed,
        workers=arguments.workers or None,
        force=arguments.force,
    )
    megabytes = sum(file.stat().st_size for file in (root / 'video').glob('*.mp4')) / 1e6
    print(
        f'{root}: {arguments.train} training clips and 2 x {arguments.test} test clips ({megabytes:.0f} MB in video/),'
    )
    print('listed in manifest.csv (for training), impacts.csv (as VGGSound) and events.jsonl (every impact).')
    print('Next: python tools/train.py configs/gmscavp_impacts.py')


def _count(text: str) -> int:
    """An integer from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 0')
    return int(text)


if __name__ == '__main__':
    run_tool(main)
