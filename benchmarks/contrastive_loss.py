"""Time and memory of the contrastive loss, dense against tiles: python benchmarks/contrastive_loss.py

MultiScaleInfoNCE (the semantic term at every scale) on random tokens, forward and backward, in float32. Ways take turns,
each run in a process of its own; medians over rounds. Seconds are processor time on a CPU and time by the clock on a GPU.
Extra memory is the highest above what the tokens themselves take, their gradient included: of the process on a CPU
(resident, in one more run that gives memory back at once), of the allocator on a GPU. A run that is not expected to fit in
memory, or within --limit, is left out. Writes docs/results/contrastive_loss.md, which docs/large_batches.md refers to.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from measuring import exponent, extra_memory, markdown
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gmscavp.engine.cli import run_tool
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError
from gmscavp.models.heads import MultiScaleInfoNCE

DENSE = 'dense'
TARGET_CLIPS, TARGET_MEMORY, TARGET_TIME = 32_768, 0.1, 1.3
HEADINGS = ('clips', 'loss', 'seconds', 'times dense', 'extra MB', 'of dense')


class Cost(NamedTuple):
    """What a forward and backward pass took."""

    seconds: float
    extra: float  # bytes


# (way, clips) -> its cost; a way is DENSE or 'tile N'.
Found = dict[tuple[str, int], Cost]


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clips', type=int, nargs='+', default=[1024, 2048, 4096, 8192], help='batch sizes B')
    parser.add_argument('--tiles', type=int, nargs='+', default=[256, 1024, 2048], help='tile sizes')
    parser.add_argument('--lengths', type=int, nargs='+', default=[16, 8, 4, 2, 1], help='tokens of every scale')
    parser.add_argument('--dim', type=int, default=512, help='D, width of a token')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--limit', type=float, default=120.0, help='seconds that a run may be expected to take')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--smoke', action='store_true', help='small sizes and one round, in seconds; writes no page')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/contrastive_loss.md', help='page to write')
    args = parser.parse_args()
    if args.smoke:
        args.clips, args.tiles, args.lengths, args.dim, args.rounds = [128, 256, 512], [128], [4, 2, 1], 64, 1
    if min(args.clips + args.tiles + args.lengths + [args.dim, args.rounds, args.threads]) < 1:
        raise UserError('--clips, --tiles, --lengths, --dim, --rounds and --threads must be numbers from 1 on.')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch sees no GPU here; measure with --device cpu.')
    args.clips = sorted(set(args.clips))
    return args


def measured(way: str, clips: int, lengths: Sequence[int], dim: int, threads: int, device: str, memory: bool) -> Cost:
    """One pass of the head over tokens that are alike enough to be neither solved nor at chance.

    memory: it is the memory that counts, not the time.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tile = None if way == DENSE else int(way.removeprefix('tile '))
    head = MultiScaleInfoNCE(list(lengths), temporal_weight=0.0, per_scale=True, tile=tile).to(device)
    video = [torch.randn(clips, length, dim, device=device) for length in lengths]
    audio = [x + 5 * torch.randn_like(x) for x in video]
    for x in [*video, *audio]:
        x.requires_grad_()
    # What the libraries load when they are first used is no cost of the loss.
    head([x[:8].detach().requires_grad_() for x in video], [x[:8].detach() for x in audio])['loss_semantic'].backward()

    def both_passes() -> None:
        head(video, audio)['loss_semantic'].backward()

    if memory:
        return Cost(math.nan, extra_memory(both_passes, device))
    started = moment(device)
    both_passes()
    return Cost(moment(device) - started, math.nan)


def moment(device: str) -> float:
    """Seconds: of the clock once the GPU has done its work, of the processor without one."""
    if device == 'cuda':
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def free_bytes(device: str) -> int:
    """Memory that a run may take."""
    if device == 'cuda':
        return torch.cuda.mem_get_info()[0]
    return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def pairs_bytes(clips: int, scales: int) -> float:
    """What the dense loss keeps at least, in bytes: similarities and their log-softmax, two directions, every scale."""
    return 4.0 * 4 * clips**2 * scales


def all_costs(args: argparse.Namespace, device: str) -> Found:
    """Medians over rounds of everything that fits."""
    ways = [DENSE, *(f'tile {tile}' for tile in args.tiles)]
    # Started once, so that a run begins with its imports done; a GPU cannot be used in a fork of a user of it.
    context = multiprocessing.get_context('spawn' if device == 'cuda' else 'fork')
    found: Found = {}
    for clips in args.clips:
        tokens = 2 * 4 * clips * sum(args.lengths) * args.dim
        costs: dict[str, list[Cost]] = {}
        # The first round is for the memory.
        for way in track(ways * (args.rounds + 1), description=f'{clips} clips', transient=True):
            needed = 4 * tokens + (1.2 * pairs_bytes(clips, len(args.lengths)) if way == DENSE else 0)
            smaller = [cost.seconds * (clips / n) ** 2 for (other, n), cost in found.items() if other == way]
            if needed > 0.9 * free_bytes(device) or (smaller and smaller[-1] > args.limit):
                continue
            with context.Pool(1) as process:
                settings = (clips, args.lengths, args.dim, args.threads, device, way not in costs)
                costs.setdefault(way, []).append(process.apply(measured, (way, *settings)))
        for way, (first, *timed) in costs.items():
            found[way, clips] = Cost(statistics.median(cost.seconds for cost in timed), first.extra)
    return found


def ways_of(found: Found) -> list[str]:
    """In the order in which they were measured."""
    return list(dict.fromkeys(way for way, _ in found))


def series(found: Found, way: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips, seconds and bytes of one way."""
    mine = [(clips, *cost) for (other, clips), cost in found.items() if other == way]
    clips, seconds, extra = np.array(mine).T
    return clips, seconds, extra


def exponents(found: Found, way: str) -> tuple[float, float]:
    """By which power of B seconds and bytes grow: slopes of a line through the logarithms; nan from one size."""
    clips, *columns = series(found, way)
    time_slope, memory_slope = (exponent(clips, np.maximum(y, 1e-9)) for y in columns)
    return time_slope, memory_slope


def expected_extra(found: Found, way: str, clips: int, scales: int) -> float:
    """Bytes at a size that may not have been measured, from the largest that was.

    Of tiles in proportion to the clips; of the dense loss what it keeps of all pairs, and the rest in proportion, which is
    too little rather than too much.
    """
    sizes, _, extra = series(found, way)
    kept, kept_there = (pairs_bytes(n, scales) if way == DENSE else 0.0 for n in (sizes[-1], clips))
    return float(kept_there + (extra[-1] - kept) * clips / sizes[-1])


def rows_of(found: Found) -> Iterator[list[str]]:
    """The table, cell by cell."""
    for (way, clips), cost in sorted(found.items(), key=lambda item: item[0][1]):
        dense = found.get((DENSE, clips))
        ratios = (cost.seconds / dense.seconds, cost.extra / dense.extra) if dense else (math.nan, math.nan)
        cells = [f'{cost.seconds:.2f}', f'{ratios[0]:.2f}', f'{cost.extra / 1e6:,.0f}', f'{ratios[1]:.3f}']
        yield [f'{clips:,}', way, *(cell.replace('nan', '–') for cell in cells)]


def verdict(found: Found, scales: int) -> list[str]:
    """What the targets are and whether they are met, a sentence each."""
    said = []
    dense = expected_extra(found, DENSE, TARGET_CLIPS, scales)
    for way in ways_of(found)[1:]:
        tiled = expected_extra(found, way, TARGET_CLIPS, scales)
        met = 'met' if tiled <= TARGET_MEMORY * dense else 'missed'
        said.append(
            f'{way}: at {TARGET_CLIPS:,} clips {tiled / 1e9:.1f} GB of {dense / 1e9:.0f} GB dense, {tiled / dense:.3f} of '
            f'it, both computed from the largest batch measured; target at most {TARGET_MEMORY}: {met}.'
        )
        both = [clips for other, clips in found if other == way and (DENSE, clips) in found]
        worst = max(found[way, clips].seconds / found[DENSE, clips].seconds for clips in both)
        met = 'met' if worst <= TARGET_TIME else 'missed'
        said.append(f'{way}: time at most {worst:.2f} times dense where both ran; target {TARGET_TIME}: {met}.')
    return said


def growth(found: Found) -> list[str]:
    """The exponents, a sentence for each way."""
    return [
        f'{way}: time grows as B^{time_power:.2f}, extra memory as B^{memory_power:.2f}.'
        for way in ways_of(found)
        for time_power, memory_power in [exponents(found, way)]
    ]


def page_of(found: Found, scales: int, settings: Mapping[str, object]) -> str:
    """The page of figures."""
    shown = ', '.join(f'{name} {value}' for name, value in settings.items())
    lines = ['# The contrastive loss at scale', '']
    about = 'Forward and backward of the semantic term of `MultiScaleInfoNCE`, float32; extra memory is that above the'
    lines += [f'`python benchmarks/contrastive_loss.py`: {shown}. {about} tokens, their gradient included.', '']
    lines += markdown(HEADINGS, list(rows_of(found)))
    lines += ['', *(f'- {sentence}' for sentence in growth(found) + verdict(found, scales))]
    lines += ['', 'Which setting to use when: [docs/large_batches.md](../large_batches.md).', '']
    return '\n'.join(lines)


def main() -> None:
    """Measure, print the table, write the page."""
    args = parse_args()
    found = all_costs(args, args.device)
    if not any(way == DENSE for way, _ in found):
        raise UserError('the dense loss fits at none of these sizes; give smaller --clips, or a larger --limit.')
    table = Table(title=f'{len(args.lengths)} scales, D = {args.dim}', box=SIMPLE)
    for heading in HEADINGS:
        table.add_column(heading, justify='right')
    for row in rows_of(found):
        table.add_row(*row)
    Console().print(table)
    scales = len(args.lengths)
    for sentence in growth(found) + verdict(found, scales):
        print(sentence)
    if args.smoke:
        return
    settings = {'lengths': args.lengths, 'D': args.dim, 'rounds': args.rounds}
    settings |= {'threads': args.threads} if args.device == 'cpu' else {'on': 'the GPU'}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page_of(found, scales, settings | machine_facts()))
    print(f'written: {args.out}')


if __name__ == '__main__':
    run_tool(main)
