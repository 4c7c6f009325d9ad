"""What generating costs, in seconds a second of sound: python benchmarks/sampling.py

Sound from video by the networks of configs/v2a_impacts.py, untrained: weights do not change what they cost. Three tables:
by sampler and steps; what it saves to work out once what a condition is at every step, to compile the denoiser, and to
make several clips at once; and how cost and memory grow with the length of the video. Writes docs/results/sampling.md.
"""

import argparse
import copy
import multiprocessing
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from measuring import exponent, extra_memory, give_memory_back, markdown, timed
from rich.progress import track

from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import load_config
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError
from gmscavp.inference.compiling import compile_denoiser, cxx_compiler
from gmscavp.models.denoisers.base import LatentDenoiser
from gmscavp.models.sampling import Sampling
from gmscavp.registry import MODELS, SAMPLERS

CONFIG = ROOT / 'configs/v2a_impacts.py'
SOLVERS = ('Euler', 'DDIM', 'EulerAncestral', 'Heun', 'Midpoint', 'DPMSolver2M')
FRAME_RATE, CLIP_S = 16, 4.0
# Log-mels are from 0 to 1.
TOLERANCE = 1e-4


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', nargs='+', type=int, default=[5, 10, 25, 50])
    parser.add_argument('--lengths', nargs='+', type=float, default=[4, 8, 16, 32, 64], help='seconds of video')
    parser.add_argument('--batches', nargs='+', type=int, default=[1, 4, 16])
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--smoke', action='store_true', help='the least of everything: only whether it runs')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/sampling.md')
    return parser.parse_args()


def generator(device: str) -> Any:
    """The config's model, at random."""
    MODELS.import_from_location()
    torch.manual_seed(0)
    model = MODELS.build(load_config(CONFIG).model).eval().to(device)
    # Layers that start at zero would hide what differs between ways.
    for weight in model.denoiser.parameters():
        if weight.dim() > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return model


def silent_video(seconds: float, clips: int, device: str) -> torch.Tensor:
    """(clips, 3, T, 64, 64) of noise."""
    made = torch.rand(clips, 3, round(seconds * FRAME_RATE), 64, 64, generator=torch.Generator().manual_seed(1))
    return (2 * made - 1).to(device)


def by_sampler(model: Any, args: argparse.Namespace) -> list[str]:
    """Seconds a second of sound, of the log-mel without vocoder."""
    video, rows = silent_video(CLIP_S, 1, args.device), []
    for solver in track(SOLVERS, description='samplers'):
        kind = dict(type=solver)
        ways = {
            str(steps): partial(model.generate, video, Sampling(steps=steps, guidance=3.0, sampler=kind))
            for steps in args.steps
        }
        found = timed(ways, args.repeats, args.device)
        cells = []
        for steps in args.steps:
            timing, evaluations = found[str(steps)], SAMPLERS.build(dict(kind)).evaluations(steps)
            cells.append(f'{timing.median / CLIP_S:.3f} ± {100 * timing.spread:.0f} % ({evaluations})')
        rows.append([solver, *cells])
    return markdown(['', *(f'{steps} steps' for steps in args.steps)], rows)


class Forgetful(LatentDenoiser):
    """The plain way: every evaluation works the condition out again."""

    def __init__(self, denoiser: Any) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, *signal_and_condition: Any) -> torch.Tensor:
        """See LatentDenoiser."""
        return self.denoiser(*signal_and_condition)


def ways_of(model: Any, smoke: bool) -> dict[str, Any]:
    """The same denoiser in every way; compiled only where it can be, in a smoke test without making machine code."""
    ways = {'plain': Forgetful(model.denoiser), 'remembered': model.denoiser}
    device = next(model.parameters()).device
    if smoke or device.type != 'cpu' or cxx_compiler():
        ways['compiled'] = copy.deepcopy(model.denoiser)
        if smoke:
            ways['compiled'].compile_steps('eager')
        else:
            model.denoiser = ways['compiled']
            compile_denoiser(model, device)
    return ways


def by_batch(model: Any, args: argparse.Namespace) -> list[str]:
    """Seconds a second of sound: nothing remembered of a condition, remembered, and compiled too."""
    settings, denoisers, rows, apart = Sampling(steps=args.steps[0], guidance=3.0), ways_of(model, args.smoke), [], 0.0

    def run(name: str, video: torch.Tensor) -> torch.Tensor:
        model.denoiser = denoisers[name]
        return model.generate(video, settings)

    for clips in track(args.batches, description='batches'):
        video = silent_video(CLIP_S, clips, args.device)
        started = time.perf_counter()
        made = {name: run(name, video) for name in reversed(denoisers)}
        first_s = time.perf_counter() - started
        apart = max(apart, *((made[name] - made['plain']).abs().max().item() for name in denoisers))
        if not apart <= TOLERANCE:
            raise RuntimeError(f'the ways make sounds that are {apart:.2g} apart, more than {TOLERANCE:g}.')
        found = timed({name: partial(run, name, video) for name in denoisers}, args.repeats, args.device)
        costs = [found[name].median / (clips * CLIP_S) for name in denoisers]
        spread = 100 * max(timing.spread for timing in found.values())
        ratios = [f'{cost / costs[0]:.2f}' for cost in costs[1:]]
        rows.append([str(clips), *(f'{cost:.4f}' for cost in costs), *ratios, f'{spread:.0f} %', f'{first_s:.0f}'])
    model.denoiser = denoisers['remembered']
    names = list(denoisers)
    headings = ['clips at once', *(f's per s, {name}' for name in names), *(f'{name} / plain' for name in names[1:])]
    said = f'All make the same log-mels: at most {apart:.1g} apart (they go from 0 to 1; {TOLERANCE:g} is allowed).'
    return [*markdown([*headings, 'spread', 'first time, s'], rows), '', said]


def peak_of(seconds: float, steps: int, threads: int, device: str) -> float:
    """Bytes, beyond the network and the video, to give a video of so many seconds a sound; in a process of its own."""
    torch.set_num_threads(threads)
    if device == 'cpu':
        give_memory_back()
    model, video, settings = generator(device), silent_video(seconds, 1, device), Sampling(steps=steps, guidance=3.0)
    # What the libraries load when they are first used is no cost of the length.
    model.generate(silent_video(CLIP_S, 1, device), Sampling(steps=1, guidance=3.0))
    if device == 'cpu':
        return extra_memory(partial(model.generate, video, settings))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model.generate(video, settings)
    return torch.cuda.max_memory_allocated() - before


def by_length(model: Any, args: argparse.Namespace) -> list[str]:
    """Seconds and memory by length of the video, and how they grow."""
    processes, steps, rows, costs, peaks = multiprocessing.get_context('spawn'), args.steps[0], [], [], []
    for seconds in track(args.lengths, description='lengths'):
        video = silent_video(seconds, 1, args.device)
        way = partial(model.generate, video, Sampling(steps=steps, guidance=3.0))
        timing = timed({'': way}, args.repeats, args.device)['']
        with processes.Pool(1) as pool:
            peaks.append(pool.apply(peak_of, (seconds, steps, args.threads, args.device)))
        costs.append(timing.median)
        rows.append(
            [
                f'{seconds:g}',
                f'{timing.median:.2f} ± {100 * timing.spread:.0f} %',
                f'{timing.median / seconds:.3f}',
                f'{peaks[-1] / 1e6:,.0f}',
            ]
        )
    lines = markdown(['seconds of video', 'seconds', 's per s', 'extra MB'], rows)
    if len(costs) > 1:
        powers = [exponent(args.lengths, grown) for grown in (costs, peaks)]
        lines += ['', 'Time grows as length^{:.2f}, extra memory as length^{:.2f}.'.format(*powers)]
    return lines


def main() -> None:
    """Measure and write the page."""
    args = parse_args()
    if args.smoke:
        args.steps, args.lengths, args.batches, args.repeats = [1], [CLIP_S], [1], 1
    if min(args.steps + args.batches + [args.repeats, args.threads]) < 1 or min(args.lengths) <= 0:
        raise UserError('--steps, --batches, --repeats and --threads are numbers from 1 on, --lengths above 0.')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch sees no GPU here; leave --device out to measure on the CPU.')
    torch.set_num_threads(args.threads)
    model = generator(args.device)
    page = [
        '# What generating costs',
        '',
        f'`python benchmarks/sampling.py`: sound from video by the networks of configs/{CONFIG.name}, guidance 3 (two '
        f'passes an evaluation), the log-mel without vocoder. Medians of {args.repeats} repeats, ± half the distance '
        f'between the quartiles; seconds of {"the processor" if args.device == "cpu" else "the clock"}. '
        f'{", ".join(" ".join(fact) for fact in machine_facts().items())}; threads {args.threads}.',
        '',
        f'## By sampler: seconds a second of sound (evaluations), a clip of {CLIP_S:g} s',
        '',
        *by_sampler(model, args),
        '',
        f'## Remembering, compiling and batches, {args.steps[0]} steps of {SOLVERS[0]}',
        '',
        'The keys and values of the condition are the same at every step; `plain` works them out every time, `remembered` '
        'and `compiled` once. `first time`: of all ways by the clock, compiling included.',
        '',
        *by_batch(model, args),
        '',
        f'## By length, {args.steps[0]} steps of {SOLVERS[0]}',
        '',
        'Longer than a clip: overlapping windows that agree at every step. Extra memory is that beyond network and video.',
        '',
        *by_length(model, args),
    ]
    text = '\n'.join(page) + '\n'
    print(text)
    if not args.smoke:
        args.out.write_text(text)
        print(f'written: {args.out}')


if __name__ == '__main__':
    run_tool(main)
