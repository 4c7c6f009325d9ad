"""Clips a second of the whole pipeline against bare decoding: python benchmarks/data.py

Original files of 720p, the same rewritten for training (tools/prepare_data.py --rewrite), and as shards. A clip is 16
frames of 4 s with a short side of 256 pixels, and its sound at 16 kHz; the pipeline is decoding, resizing, resampling and
collating, in this process. Beside it, in the same rounds, the decoding library alone on the same windows. Everything on one
thread, in seconds of the processor, so that another program on the machine counts little. Then, by the clock, how loading
grows with worker processes, and the memory of workers over --soak clips. Without a folder, or one that holds no clips of
720p, clips are rendered. Writes docs/results/data.md.
"""

import argparse
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

# Before any library starts its threads.
os.environ.setdefault('OMP_NUM_THREADS', '1')
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2
import numpy as np
import torch
from data_sources import (
    BACKENDS,
    BARE,
    Window,
    bare_jpegs,
    clips_of,
    jpegs_of,
    large_clips,
    least_pyav,
    read_shards,
    render_clips,
    rewrite_clips,
    shards_of,
)
from data_workers import BATCH, BLOCKS, Loading, growth, loadings, slope, soak
from measuring import markdown
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import default_collate

from gmscavp.compat import cores
from gmscavp.datasets import Flip, ResizedCrop, probe
from gmscavp.engine.cli import run_tool
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--folder', type=Path, help='folder of videos; rendered ones by default')
    parser.add_argument('--clips', type=int, default=6, help='how many files')
    parser.add_argument('--windows', type=int, default=2, help='clips read of each file')
    parser.add_argument('--repeats', type=int, default=7, help='rounds; medians are over these')
    parser.add_argument('--backends', nargs='+', choices=list(BARE), default=list(BACKENDS))
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2, 3, 4], help='numbers of worker processes')
    parser.add_argument('--soak', type=int, default=2000, help='clips over which the memory of workers is watched')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/data_benchmark', help='for what is made')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/data.md', help='page to write')
    parser.add_argument('--smoke', action='store_true', help='everything once on one short clip; writes no page')
    args = parser.parse_args()
    args.length_s, args.duration_s = (3.0, 2.0) if args.smoke else (10.0, 4.0)
    if args.smoke:
        args.clips, args.windows, args.repeats, args.soak, args.workers = 1, 1, 1, 2 * BLOCKS, [0, 1]
    if min(args.clips, args.windows, args.repeats) < 1 or args.soak < 2 * BLOCKS:
        raise UserError(f'--clips, --windows, --repeats must be 1 or more, --soak {2 * BLOCKS} or more.')
    return args


# Pixels of the square that training cuts out.
CROP = 224


@dataclass(frozen=True)
class Row:
    """A source read by a backend: clips a second of each round, of the library alone, and that of what is needed alone."""

    source: str
    backend: str
    megabytes: float
    whole: list[float]
    bare: list[float]
    least: list[float]


Work = Callable[[], Any]


def rounds(jobs: Sequence[Work], clips: int, repeats: int) -> list[list[float]]:
    """Clips a second of processor time of every job, all jobs in turn in every round; one round before warms caches."""
    rates: list[list[float]] = [[] for _ in jobs]
    for _ in range(repeats + 1):
        for job, kept in zip(jobs, rates, strict=True):
            started = time.process_time()
            job()
            kept.append(clips / (time.process_time() - started))
    return [kept[1:] for kept in rates]


def whole_pipeline(data: Any) -> None:
    """Every clip of a data set, in batches, each let go before the next, as training does."""
    for first in range(0, len(data), BATCH):
        default_collate([data[k] for k in range(first, min(first + BATCH, len(data)))])


def for_all(decode: Callable[[Path, Window], None], folder: Path, windows: Sequence[Window]) -> None:
    """Decode every window."""
    for window in windows:
        decode(folder, window)


def measure_files(source: str, folder: Path, windows: Sequence[Window], args: argparse.Namespace) -> list[Row]:
    """Files by every backend."""
    rows = []
    megabytes = sum((folder / file).stat().st_size for file in {window.file for window in windows}) / 1e6
    for backend in track(args.backends, f'reading {source}', transient=True):
        jobs: list[Work] = [
            partial(whole_pipeline, clips_of(folder, windows, backend)),
            partial(for_all, BARE[backend], folder, windows),
        ]
        if backend == 'pyav':
            jobs.append(partial(for_all, least_pyav, folder, windows))
        whole, bare, *least = rounds(jobs, len(windows), args.repeats)
        rows.append(Row(source, backend, megabytes, whole, bare, least[0] if least else []))
    return rows


def measure_shards(data: Any, out: Path, args: argparse.Namespace) -> list[Row]:
    """Shards as they are and as they are trained on, against decoding their pictures alone."""
    jpegs = jpegs_of(out, data.clip.frames)
    cropped = read_shards(out, args.duration_s, [dict(type=ResizedCrop, size=CROP), dict(type=Flip)])
    # A pass over few clips would be shorter than the clock is exact.
    passes = 8
    whole, trained, bare = rounds(
        [
            lambda: [whole_pipeline(data) for _ in range(passes)],
            lambda: [whole_pipeline(cropped) for _ in range(passes)],
            partial(bare_jpegs, jpegs * passes),
        ],
        passes * len(data),
        args.repeats,
    )
    megabytes = sum(file.stat().st_size for file in out.glob('*.tar')) / 1e6
    return [
        Row('shards', 'cv2', megabytes, whole, bare, []),
        Row('shards, cropped', 'cv2', megabytes, trained, bare, []),
    ]


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the ratios of rounds measured side by side."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True)) if under else float('nan')


Cells = list[list[str]]


def rate_cells(rows: Sequence[Row]) -> Cells:
    """A line of text a row."""
    originals = {row.backend: row.whole for row in rows if row.source == 'originals'}
    lines = []
    for row in rows:
        # Shards have no backend: they stand against the fastest way to read the files.
        files = originals.get(row.backend) or max(originals.values(), key=statistics.median)
        figures = (ratio(row.whole, row.bare), ratio(row.whole, row.least), statistics.median(row.whole))
        times = figures[2] / statistics.median(files)
        spread = f'{min(row.whole):.1f}..{max(row.whole):.1f}'
        least = f'{figures[1]:.2f}' if row.least else ''
        lines.append(
            [
                *(row.source, row.backend, f'{figures[2]:.1f}', spread),
                *(f'{figures[0]:.2f}', least, f'{times:.1f}', f'{row.megabytes:.1f}'),
            ]
        )
    return lines


RATE_HEADINGS = ['source', 'backend', 'clips/s', 'spread', 'of bare', 'of least', 'times originals', 'MB']


def worker_cells(found: Mapping[int, Loading]) -> Cells:
    """A line of text for each number of workers."""
    first = (found.get(1) or next(iter(found.values()))).rate
    return [
        [
            str(workers),
            f'{loading.rate:.1f}',
            f'{min(loading.rates):.1f}..{max(loading.rates):.1f}',
            f'{loading.rate / first:.2f}',
            f'{loading.megabytes:,.0f}' if workers else '',
        ]
        for workers, loading in found.items()
    ]


WORKER_HEADINGS = ['workers', 'clips/s', 'spread', 'times one', 'MB of all']


def soak_cells(memory: dict[str, dict[int, list[int]]]) -> Cells:
    """A line of text for each worker."""
    lines = []
    for source, workers in memory.items():
        for number, sizes in enumerate(workers.values()):
            grown, error = slope(sizes)
            lines.append(
                [source, str(number), str(len(sizes)), f'{sizes[-1] / 1024:.0f}', f'{grown:.2f} ± {error:.2f}']
            )
    return lines


SOAK_HEADINGS = ['source', 'worker', 'clips', 'MiB at the end', 'KiB a clip ± standard error']


def page_of(about: str, tables: Sequence[tuple[str, Sequence[str], Cells]]) -> str:
    """The page, in Markdown."""
    facts = ', '.join(f'{name} {text}' for name, text in machine_facts().items())
    load = ', '.join(f'{value:.1f}' for value in os.getloadavg())
    # Where the page is written is no setting of what it says.
    words = [word for before, word in pairwise(sys.argv) if '--out' not in (before, word)]
    command = ' '.join(['python benchmarks/data.py', *(Path(word).name for word in words)])
    lines = ['# Reading clips', '', f'`{command}`: {about}', '', f'{facts}; load {load}.', '']
    for text, headings, cells in tables:
        lines += [text, '', *markdown(headings, cells), '']
    return '\n'.join(lines)


def main() -> None:
    """Make the sources, measure, print the tables and write the page."""
    args = parse_args()
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    folder = args.folder
    names = large_clips(folder, args.clips, args.duration_s) if folder else []
    if not names:
        folder = args.work_dir / 'rendered'
        names = render_clips(folder, args.clips, args.length_s)
    small, packed = args.work_dir / 'rewritten', args.work_dir / 'shards'
    rewrite_clips(folder, names, small)
    windows = windows_of(small, names, args)
    rows = measure_files('originals', folder, windows, args) + measure_files('rewritten', small, windows, args)
    shards = shards_of(folder, names, packed, args.duration_s)
    rows += measure_shards(shards, packed, args)
    tables = [shown(RATES.format(seconds=args.duration_s), RATE_HEADINGS, rate_cells(rows))]
    rewritten = clips_of(small, windows, 'pyav')
    found = loadings(rewritten, args.workers, 8 if args.smoke else 96, args.repeats)
    powers = growth(found, cores())
    about = WORKERS.format(cores=cores(), rate=powers[0], memory=powers[1])
    tables.append(shown(about, WORKER_HEADINGS, worker_cells(found)))
    memory = {'rewritten': soak(rewritten, args.soak, min(2, cores())), 'shards': soak(shards, args.soak, 1)}
    tables.append(shown(SOAK, SOAK_HEADINGS, soak_cells(memory)))
    if not args.smoke:
        kind = 'clips of the folder' if folder == args.folder else 'rendered clips'
        about = f'{len(names)} {kind}, {len(windows)} windows, medians of {args.repeats} rounds.'
        args.out.write_text(page_of(about, tables))


def windows_of(folder: Path, names: Sequence[str], args: argparse.Namespace) -> list[Window]:
    """--windows of each file, at even distances and off its ends."""
    return [
        Window(name, float(start), args.duration_s)
        for name in names
        for start in np.linspace(0, probe(folder / name).duration_s - args.duration_s, args.windows + 2)[1:-1]
    ]


def shown(text: str, headings: Sequence[str], cells: Cells) -> tuple[str, Sequence[str], Cells]:
    """Print a table; give what it was made of."""
    table = Table(*headings)
    for line in cells:
        table.add_row(*line)
    Console().print(table)
    return text, headings, cells


RATES = (
    '`clips/s`: whole pipeline for each second of one core, windows of {seconds:g} s. `of bare`: of the rate of the '
    'library alone, which for files decodes every frame up to the last wanted one in full size (PyAV) or the wanted frames '
    '(decord, torchcodec), and their sound; for shards the JPEGs. `cropped`: with ResizedCrop and Flip, as in training. '
    '`of least`: of the rate at which PyAV decodes only what the wanted frames are made from, which is what the pipeline '
    'does before it converts. `MB`: all files.'
)
WORKERS = (
    'Rewritten files through a DataLoader, by the clock; memory is what all workers hold at the end, shared pages counted '
    'once. With the number of workers w, up to the {cores} cores, clips a second grow as w^{rate:.2f}; memory grows as '
    'w^{memory:.2f}.'
)
SOAK = 'Resident memory of workers against the clips that each has read, the first quarter left out.'

if __name__ == '__main__':
    run_tool(main)
