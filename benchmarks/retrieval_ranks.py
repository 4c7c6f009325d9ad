"""Time and memory of retrieval ranks against the whole matrix at once: python benchmarks/retrieval_ranks.py

Both directions, on random embeddings. `chunked` is what RetrievalMetric does, `dense` holds the (N, N) matrix. On a busy
machine look at the CPU seconds, of all threads together.
Each runs in a process of its own, so that the peak of its memory (RSS, all libraries included) is its own.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from gmscavp.engine.cli import run_tool
from gmscavp.errors import UserError
from gmscavp.evaluation.retrieval import rank_figures, ranks_of_rows, two_way_ranks

Ranks = tuple[Tensor, Tensor]


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clips', type=int, default=15_000, help='N, clips in the gallery')
    parser.add_argument('--width', type=int, default=512, help='E, width of the embeddings')
    parser.add_argument('--threads', type=int, default=2)
    return parser.parse_args()


def dense_ranks(video: Tensor, audio: Tensor) -> Ranks:
    """The reference: the whole matrix, counted by rows and by columns."""
    scores = video @ audio.T
    return ranks_of_rows(scores, 0), ranks_of_rows(scores.T, 0)


WAYS: dict[str, Callable[[Tensor, Tensor], Ranks]] = {'chunked': two_way_ranks, 'dense': dense_ranks}


def measured(way: str, clips: int, width: int, threads: int) -> dict[str, float]:
    """Seconds and peak GB of one way, and figures by which two ways can be compared."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    video = torch.nn.functional.normalize(torch.randn(clips, width, generator=generator), dim=1)
    audio = torch.nn.functional.normalize(video + 0.35 * torch.randn(clips, width, generator=generator), dim=1)
    started, used = time.monotonic(), time.process_time()
    ranks = WAYS[way](video, audio)
    seconds, used = time.monotonic() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sums = {f'sum {name}': float(of.sum()) for name, of in zip(('v2a', 'a2v'), ranks, strict=True)}
    return {'seconds': seconds, 'CPU seconds': used, 'peak GB': peak} | rank_figures(*ranks) | sums


def main() -> None:
    """Measure both ways and print the table."""
    args = parse_args()
    if args.clips < 1 or args.width < 1 or args.threads < 1:
        raise UserError('--clips, --width and --threads must be numbers from 1 on.')
    processes = multiprocessing.get_context('spawn')
    found = {}
    for way in track(WAYS, description='measuring'):
        with processes.Pool(1) as pool:
            found[way] = pool.apply(measured, (way, args.clips, args.width, args.threads))
    table = Table(
        title=f'Ranks of {args.clips:,} x {args.clips:,} at {args.width} dimensions, {args.threads} threads', box=SIMPLE
    )
    columns = ('seconds', 'CPU seconds', 'peak GB', 'v2a_R1', 'a2v_R1', 'v2a_MeanR', 'a2v_MeanR')
    for heading in ('', *columns):
        table.add_column(heading, justify='right', overflow='fold')
    for way, of in found.items():
        table.add_row(way, *(f'{of[name]:.2f}' for name in columns))
    Console().print(table)
    apart = sum(abs(found['chunked'][name] - found['dense'][name]) for name in ('sum v2a', 'sum a2v'))
    print(
        f'The sums of all ranks are {apart:.0f} apart of {found["dense"]["sum v2a"] + found["dense"]["sum a2v"]:,.0f}.'
    )


if __name__ == '__main__':
    run_tool(main)
