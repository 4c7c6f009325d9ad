"""Clips a second from shards against the original files: python benchmarks/shards.py FOLDER

Trains nothing: one worker of a DataLoader reads a random window of every clip, frames and sound, from the files of FOLDER
and from shards written of them (kept in --out for the next time). Both take turns in each of --repeats rounds; prints the
median over rounds and the ratio.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from gmscavp.datasets import RandomWindow, Shards, ShardShuffle, VideoFolder, write_shards
from gmscavp.engine.cli import run_tool


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder of videos, with a manifest or without')
    parser.add_argument('--out', type=Path, help='folder for the shards; a temporary one by default')
    parser.add_argument('--clips', type=int, default=100, help='how many files')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--duration', type=float, default=4.0, help='seconds of a window')
    parser.add_argument('--fps', type=float, default=4.0)
    parser.add_argument('--size', type=int, default=128, help='short side in pixels')
    parser.add_argument('--workers', type=int, default=1, help='processes that write the shards; 0 is one per core')
    return parser.parse_args()


def clips_a_second(data: Dataset, order: list[int]) -> float:
    """One epoch through one worker, without the time that the worker takes to start."""
    loader = iter(DataLoader(data, batch_size=4, sampler=order, num_workers=1, collate_fn=len))
    read = next(loader)
    started = time.perf_counter()
    return (sum([read, *loader]) - read) / (time.perf_counter() - started)


def main() -> None:
    """Write the shards, measure, print the table."""
    args = parse_args()
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    clip = dict(duration_s=args.duration, fps=args.fps, size=args.size, sample_rate=16000, backend='pyav')
    settings = dict(clip=clip, window=dict(type=RandomWindow))
    files = VideoFolder(str(args.folder), **settings)
    files.manifest = files.manifest.pick([row < args.clips for row in range(len(files))])
    with ExitStack() as stack:
        out = args.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        form = dict(fps=args.fps, size=args.size, sample_rate=16000)
        started = time.perf_counter()
        counts = write_shards(files.manifest, args.folder, out, **form, clips_per_shard=64, workers=args.workers)
        written_s = time.perf_counter() - started
        shards = Shards(str(out), **settings)
        sources: dict[str, Dataset] = {'files': files, 'shards': shards}
        rates: dict[str, list[float]] = {name: [] for name in sources}
        for _ in track(range(args.repeats), description='rounds', transient=True):
            rates['files'].append(clips_a_second(files, list(range(len(files)))))
            rates['shards'].append(clips_a_second(shards, list(ShardShuffle(shards))))
        stored = sum(file.stat().st_size for file in out.glob('*.tar'))
    original = sum((args.folder / file).stat().st_size for file in files.manifest.column('file'))
    print_table(args, rates, {'files': original, 'shards': stored})
    print(f'written: {counts}, in {written_s:.0f} s')


def print_table(args: argparse.Namespace, rates: dict[str, list[float]], sizes: dict[str, int]) -> None:
    """One row a source."""
    frames = round(args.duration * args.fps)
    table = Table(title=f'{frames} frames of {args.duration:g} s, {args.size} px, and the sound; one worker')
    for heading in ('source', 'clips/s', 'spread', 'times files', 'MB'):
        table.add_column(heading, justify='right')
    for name, values in rates.items():
        median = statistics.median(values)
        ratio = median / statistics.median(rates['files'])
        spread = f'{min(values):.1f}..{max(values):.1f}'
        table.add_row(name, f'{median:.1f}', spread, f'{ratio:.1f}', f'{sizes[name] / 1e6:.0f}')
    Console().print(table)


if __name__ == '__main__':
    run_tool(main)
