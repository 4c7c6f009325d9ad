"""Clips a second of every decoding backend on the same files: python benchmarks/decode_backends.py FOLDER

Reads the middle window of up to --clips files on one thread, every backend in turn in each of --repeats rounds; prints the
median over rounds and the ratio to the first backend.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.progress import track
from rich.table import Table

from gmscavp.datasets import ClipError, probe, read_clip
from gmscavp.datasets.base import list_files
from gmscavp.datasets.video_folder import VIDEO_ENDINGS
from gmscavp.engine.cli import run_tool
from gmscavp.errors import UserError


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder of videos, for example data/impacts/video')
    parser.add_argument('--clips', type=int, default=50, help='how many files')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--duration', type=float, default=2.0, help='seconds of a window')
    parser.add_argument('--fps', type=float, default=8)
    parser.add_argument('--size', type=int, default=64, help='short side in pixels')
    parser.add_argument('--backends', nargs='+', default=['pyav', 'decord'])
    return parser.parse_args()


def windows(folder: Path, clips: int, duration: float) -> list[tuple[str, float]]:
    """(file, start) of the files that are long enough."""
    found = []
    for name in list_files(folder, VIDEO_ENDINGS):
        try:
            length = probe(folder / name).duration_s
        except ClipError as error:
            print(f'left out: {error}')
            continue
        if length >= duration:
            found.append((str(folder / name), (length - duration) / 2))
        if len(found) == clips:
            break
    if not found:
        raise UserError(f'{folder} has no video of {duration:g} s or more.')
    return found


def main() -> None:
    """Measure and print the table."""
    args = parse_args()
    files = windows(args.folder, args.clips, args.duration)
    rates: dict[str, list[float]] = {backend: [] for backend in args.backends}
    for _ in track(range(args.repeats + 1), description='rounds', transient=True):
        for backend in args.backends:
            started = time.process_time()
            for file, start in files:
                read_clip(file, start, args.duration, args.fps, args.size, 16000, backend)
            rates[backend].append(len(files) / (time.process_time() - started))
    table = Table(title=f'{len(files)} clips of {args.duration:g} s at {args.fps:g}/s, {args.size} px, one core')
    for heading in ('backend', 'clips/s', 'spread', f'times {args.backends[0]}'):
        table.add_column(heading, justify='right')
    # The first round warms caches and is left out.
    medians = {backend: statistics.median(values[1:]) for backend, values in rates.items()}
    for backend, values in rates.items():
        spread = f'{min(values[1:]):.1f}..{max(values[1:]):.1f}'
        table.add_row(backend, f'{medians[backend]:.1f}', spread, f'{medians[backend] / medians[args.backends[0]]:.2f}')
    Console().print(table)


if __name__ == '__main__':
    run_tool(main)
