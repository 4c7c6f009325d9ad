"""Time and memory of retrieval against the whole matrix at once: python benchmarks/retrieval_ranks.py

Ranks and the ten best matches of both directions, on random embeddings. `one pass` is what RetrievalMetric does, tile by
tile; `two passes` works the similarities out for each direction by itself; `dense` holds the (N, N) matrix. All ways take
turns; seconds are those of the processor. Memory is the highest above the embeddings, each in a process of its own. Writes
docs/results/retrieval_ranks.md.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from measuring import Timing, exponent, extra_memory, markdown, timed
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from gmscavp.engine.cli import run_tool
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError
from gmscavp.evaluation.one_pass import CHUNK, two_way_best, two_way_ranks
from gmscavp.evaluation.retrieval import ranks_of_rows, retrieval_ranks

PLACES = 10
DENSE = 'dense'


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clips', nargs='+', type=int, default=[1000, 2000, 4000, 8000, 12_000], help='sizes N')
    parser.add_argument('--width', type=int, default=512, help='E, width of the embeddings')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--smoke', action='store_true', help='small sizes, once: only whether it runs')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/retrieval_ranks.md')
    return parser.parse_args()


def two_passes(video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Each direction by itself."""
    return retrieval_ranks(video, audio), retrieval_ranks(audio, video)


def dense_ranks(video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """The whole matrix, counted by rows and by columns."""
    scores = video @ audio.T
    return ranks_of_rows(scores, 0), ranks_of_rows(scores.T, 0)


def best(video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the ten best, of both directions."""
    v2a, a2v = two_way_best(video, audio, PLACES)
    return v2a.scores, a2v.scores


def dense_best(video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the whole matrix."""
    scores = video @ audio.T
    return scores.topk(PLACES, dim=1).values, scores.T.contiguous().topk(PLACES, dim=1).values


Way = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
WAYS: dict[str, dict[str, Way]] = {
    'ranks': {DENSE: dense_ranks, 'two passes': two_passes, 'one pass': two_way_ranks},
    f'best {PLACES}': {DENSE: dense_best, 'one pass': best},
}


def pairs(clips: int, width: int) -> tuple[Tensor, Tensor]:
    """Embeddings of clips whose sides are alike."""
    generator = torch.Generator().manual_seed(0)
    video = F.normalize(torch.randn(clips, width, generator=generator), dim=1)
    return video, F.normalize(video + 0.35 * torch.randn(clips, width, generator=generator), dim=1)


def peak_of(task: str, way: str, clips: int, width: int, threads: int) -> float:
    """Bytes beyond the embeddings; in a process of its own."""
    torch.set_num_threads(threads)
    few, given = pairs(PLACES, width), pairs(clips, width)
    # What the libraries load when they are first used is no cost of the way.
    WAYS[task][way](*few)
    return extra_memory(partial(WAYS[task][way], *given))


def difference(task: str, given: tuple[Tensor, Tensor]) -> float:
    """The greatest one between a number of any way and of the dense one."""
    answers = {way: work(*given) for way, work in WAYS[task].items()}
    return max(
        (a - b).abs().max().item() for answer in answers.values() for a, b in zip(answer, answers[DENSE], strict=True)
    )


def table_of(
    task: str, sizes: list[int], timings: list[Mapping[str, Timing]], peaks: dict[tuple[str, str, int], float]
) -> list[str]:
    """Rows of all ways and sizes, and how they grow."""
    rows = []
    for clips, found in zip(sizes, timings, strict=True):
        for way, timing in found.items():
            memory, dense = peaks[task, way, clips], peaks[task, DENSE, clips]
            cells = [f'{timing.median:.3g} ± {100 * timing.spread:.0f} %', f'{timing.median / found[DENSE].median:.2f}']
            rows.append([f'{clips:,}', way, *cells, f'{memory / 1e6:,.1f}', f'{memory / dense:.3f}'])
    lines = markdown(['clips', 'way', 'seconds', 'of dense', 'extra MB', 'of dense'], rows)
    if len(sizes) > 1:
        lines.append('')
        for way in WAYS[task]:
            seconds = exponent(sizes, [found[way].median for found in timings])
            memory = exponent(sizes, [max(peaks[task, way, clips], 1.0) for clips in sizes])
            lines.append(f'- {way}: time grows as N^{seconds:.2f}, extra memory as N^{memory:.2f}.')
    return lines


def measured(args: argparse.Namespace) -> list[str]:
    """The tables of both tasks."""
    keys = [(task, way, clips) for task, ways in WAYS.items() for way in ways for clips in args.clips]
    processes, peaks, lines = multiprocessing.get_context('fork'), {}, []
    # Before this process uses torch itself: a fork must not inherit its threads.
    for key in track(keys, description='memory'):
        with processes.Pool(1) as pool:
            peaks[key] = pool.apply(peak_of, (*key, args.width, args.threads))
    torch.set_num_threads(args.threads)
    for task, ways in WAYS.items():
        timings = []
        for clips in track(args.clips, description=task):
            given = pairs(clips, args.width)
            calls: dict[str, Callable[[], Any]] = {way: partial(work, *given) for way, work in ways.items()}
            timings.append(timed(calls, args.repeats))
        apart = difference(task, pairs(min(args.clips), args.width))
        said = f'At {min(args.clips):,} clips the numbers of all ways are at most {apart:.1g} apart.'
        lines += [f'## {task.capitalize()}', '', *table_of(task, args.clips, timings, peaks), '', said, '']
    return lines


def main() -> None:
    """Measure and write the page."""
    args = parse_args()
    if args.smoke:
        args.clips, args.width, args.repeats = [100, 200, 300, 400], 32, 1
    args.clips = sorted(set(args.clips))
    if args.clips[0] < PLACES or min(args.width, args.repeats, args.threads) < 1:
        raise UserError(f'--clips must be {PLACES} or more, --width, --repeats and --threads 1 or more.')
    page = [
        '# What retrieval costs',
        '',
        f'`python benchmarks/retrieval_ranks.py`: both directions, E {args.width}, tiles of {CHUNK} x {4 * CHUNK}; medians '
        f'of {args.repeats} repeats, ± half the distance between the quartiles, seconds of the processor; memory above the '
        f'embeddings. {", ".join(" ".join(fact) for fact in machine_facts().items())}; threads {args.threads}.',
        '',
        *measured(args),
    ]
    text = '\n'.join(page).rstrip() + '\n'
    print(text)
    if not args.smoke:
        args.out.write_text(text)
        print(f'written: {args.out}')


if __name__ == '__main__':
    run_tool(main)
