"""What a training step costs, plain and with every switch: python benchmarks/train_step.py

A whole step of models of three sizes (preprocessing and log-mel, forward, backward, clipping, AdamW) on random clips:
plain float32 against bfloat16, channels-last, torch.compile, activation checkpointing and fused AdamW, each alone and all
together. Every way runs in a process of its own and takes turns there with plain steps, so that what else the machine does
falls on both. Then the share of time that training waits for data, with the real loader on clips rendered for it. Ways not
begun after --limit seconds are left out. --smoke takes seconds and writes nothing but to --out. Writes
docs/results/train_step.md, which docs/training_speed.md refers to.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from measuring import Timing, extra_memory, markdown, matrix_rate, timed
from rich.progress import track
from torch.utils.flop_counter import FlopCounterMode

from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import load_config
from gmscavp.engine.facts import machine_facts
from gmscavp.engine.optim import AutocastOptimWrapper, StepOptimWrapper
from gmscavp.engine.runner import PretrainRunner
from gmscavp.engine.speed import Compiled, Speed, compile_parts, prepare
from gmscavp.errors import UserError
from gmscavp.registry import MODELS

PLAIN = 'plain'
SAMPLE_RATE = 16000
# Nearly all of the work; compiling every part takes minutes more on two cores.
REGIONS = ['video_backbone', 'audio_backbone']
HEADINGS = ('model', 'way', 'clips/s', 'of plain', 'spread', 'extra MB', 'of plain', 'MFU', 'first step s')


@dataclass(frozen=True)
class Way:
    """Which switches are on."""

    bf16: bool = False
    channels_last: bool = False
    compile: bool = False
    checkpointing: bool = False
    fused: bool = False


WAYS = {
    PLAIN: Way(),
    'bf16': Way(bf16=True),
    'channels-last': Way(channels_last=True),
    'checkpointing': Way(checkpointing=True),
    'fused AdamW': Way(fused=True),
    'compile': Way(compile=True),
    'all': Way(True, True, True, True, True),
}


class Size(NamedTuple):
    """A batch: clips, frames of pixels x pixels, seconds of sound."""

    clips: int
    frames: int
    pixels: int
    seconds: float


@dataclass(frozen=True)
class Scale:
    """A model, and batches that fit."""

    config: str
    changes: Mapping[str, Any]
    cpu: Size
    cuda: Size


SCALES = {
    'tiny': Scale('gmscavp_impacts', {}, Size(16, 16, 64, 4.0), Size(64, 16, 64, 4.0)),
    'cavp': Scale('cavp_vggsound', {}, Size(2, 4, 64, 1.0), Size(32, 16, 224, 4.0)),
    'vit': Scale(
        'cavp_vggsound',
        dict(
            video_backbone=dict(type='FrameViT', size='base'),
            audio_backbone=dict(type='SpectrogramViT', size='base'),
        ),
        Size(2, 4, 64, 1.0),
        Size(32, 16, 224, 4.0),
    ),
}


class Cost(NamedTuple):
    """What a way took in a process where plain steps took turns with it."""

    timing: Timing
    plain: Timing
    extra: float  # bytes at the most above what the model and its optimiser hold
    first: float  # seconds by the clock


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=SCALES, default=list(SCALES))
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=list(WAYS))
    parser.add_argument('--batch', type=int, help='clips a step (default: as the device takes them)')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1, help='on a CPU')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--limit', type=float, default=1800.0, help='seconds after which no other way is begun')
    parser.add_argument('--smoke', action='store_true', help='the tiny model, smaller, without compiling')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/train_step.md')
    args = parser.parse_args()
    if args.smoke:
        args.models, args.repeats, args.batch = ['tiny'], 1, args.batch or 2
        args.ways = [way for way in args.ways if not WAYS[way].compile]
    if min(args.repeats, args.threads, args.batch or 2) < 1 or args.batch == 1:
        raise UserError('--repeats and --threads are numbers from 1 on, --batch from 2: a clip is told from others.')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch sees no GPU here; leave --device out to measure on the CPU.')
    return args


def size_of(name: str, args: argparse.Namespace) -> Size:
    """The batch of a model."""
    size = getattr(SCALES[name], args.device)
    if args.smoke:
        size = size._replace(frames=16, pixels=32, seconds=1.0)
    return size._replace(clips=args.batch or size.clips)


def model_of(name: str, size: Size) -> Any:
    """A model at random, the same every time."""
    scale = SCALES[name]
    MODELS.import_from_location()
    settings = load_config(ROOT / f'configs/{scale.config}.py').model
    for part, cfg in scale.changes.items():
        # Positions are learned for the clips at hand.
        fitting = dict(image_size=size.pixels) if 'Frame' in cfg['type'] else dict(frames=round(size.seconds * 64))
        settings[part] = cfg | fitting
    torch.manual_seed(0)
    return MODELS.build(settings).train()


def batch_of(size: Size, device: str) -> dict[str, Any]:
    """Clips of noise, as a loader gives them."""
    draws = torch.Generator().manual_seed(1)
    video = torch.randint(256, (size.clips, size.frames, 3, size.pixels, size.pixels), generator=draws)
    audio = 0.1 * torch.randn(size.clips, round(size.seconds * SAMPLE_RATE), generator=draws)
    batch = dict(video=video.to(torch.uint8), audio=audio)
    return {name: x.pin_memory() if device == 'cuda' else x for name, x in batch.items()}


def stepping(name: str, way: Way, size: Size, device: str) -> partial:
    """A call that makes one step."""
    model = model_of(name, size).to(device)
    prepare(model, Speed(way.channels_last, way.checkpointing))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=way.fused)
    wrapper = (AutocastOptimWrapper if way.bf16 else StepOptimWrapper)(optimizer, clip_grad=dict(max_norm=5.0))
    if way.compile:
        compile_parts(model, Compiled(REGIONS), in_pieces=way.checkpointing)
    return partial(model.train_step, batch_of(size, device), wrapper)


def measured(name: str, way: str, size: Size, repeats: int, threads: int, device: str) -> Cost:
    """Time a way against plain steps, and what memory it takes."""
    torch.set_num_threads(threads)
    step = stepping(name, WAYS[way], size, device)
    started = time.perf_counter()
    step()
    if device == 'cuda':
        torch.cuda.synchronize()
    first = time.perf_counter() - started
    plain = step if way == PLAIN else stepping(name, WAYS[PLAIN], size, device)
    found = timed({PLAIN: plain, way: step}, repeats, device)
    # Last, for it slows down what the C library does.
    return Cost(found[way], found[PLAIN], extra_memory(step, device), first)


def flops_of(name: str, size: Size) -> int:
    """Floating-point operations of the matrix products and convolutions in a plain step, forward and backward."""
    model = model_of(name, size)
    with FlopCounterMode(display=False) as counter:
        losses = model(**model.data_preprocessor(batch_of(size, 'cpu'), True), mode='loss')
        model.parse_losses(losses)[0].backward()
    return counter.get_total_flops()


def waiting_share(workers: int, device: str, smoke: bool) -> tuple[float, int]:
    """Share of the clock that an epoch of the tiny model on rendered clips waits for its loader; and steps."""
    config = load_config(ROOT / 'configs/gmscavp_impacts.py')
    clips, batch = (8, 4) if smoke else (64, 8)
    with tempfile.TemporaryDirectory() as folder:
        data = render_impacts(Path(folder) / 'impacts', train=clips, test=2, workers=1, progress=False)
        settings = config.train_dataloader
        settings.dataset.data_root = str(data)
        loader = PretrainRunner.build_dataloader(settings | dict(num_workers=workers, batch_size=batch), seed=0)
        model = model_of('tiny', SCALES['tiny'].cpu).to(device)
        wrapper = StepOptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-4))
        waited, started = 0.0, time.perf_counter()
        batches = iter(loader)
        for _ in range(len(loader)):
            asked = time.perf_counter()
            rows = next(batches)
            waited += time.perf_counter() - asked
            model.train_step(rows, wrapper)
            if device == 'cuda':
                torch.cuda.synchronize()
        return waited / (time.perf_counter() - started), len(loader)


def all_costs(args: argparse.Namespace) -> dict[tuple[str, str], Cost]:
    """Every way of every model for which there is time, what is soon done first."""
    # Started once, so that a way begins with its imports done; a GPU cannot be used in a fork of a user of it.
    context = multiprocessing.get_context('spawn' if args.device == 'cuda' else 'fork')
    found: dict[tuple[str, str], Cost] = {}
    started = time.perf_counter()
    pairs = [(name, way) for way in args.ways for name in args.models]
    for name, way in track(pairs, description='ways', transient=True):
        if time.perf_counter() - started > args.limit:
            continue
        with context.Pool(1) as process:
            settings = (size_of(name, args), args.repeats, args.threads, args.device)
            found[name, way] = process.apply(measured, (name, way, *settings))
    return found


def rows_of(
    found: Mapping[tuple[str, str], Cost],
    flops: Mapping[str, int],
    rates: Mapping[bool, float],
    args: argparse.Namespace,
) -> list[list[str]]:
    """The table, cell by cell. MFU: of the product of matrices in the precision of the way."""
    rows = []
    for name in args.models:
        for way in args.ways:
            cost, plain = found.get((name, way)), found.get((name, PLAIN))
            if cost is None:
                rows.append([name, way, *['–'] * (len(HEADINGS) - 2)])
                continue
            rows.append(
                [
                    name,
                    way,
                    f'{size_of(name, args).clips / cost.timing.median:.2f}',
                    f'{cost.plain.median / cost.timing.median:.2f}',
                    f'{100 * max(cost.timing.spread, cost.plain.spread):.0f} %',
                    f'{cost.extra / 1e6:,.0f}',
                    f'{cost.extra / plain.extra:.2f}' if plain and plain.extra else '–',
                    f'{100 * flops[name] / cost.timing.median / rates[WAYS[way].bf16]:.0f} %',
                    f'{cost.first:.1f}',
                ]
            )
    return rows


def page_of(
    rows: Sequence[Sequence[str]],
    flops: Mapping[str, int],
    rates: Mapping[bool, float],
    waits: Mapping[int, tuple[float, int]],
    args: argparse.Namespace,
) -> str:
    """The page of figures."""
    facts = ', '.join(' '.join(fact) for fact in machine_facts().items())
    clock = 'processor' if args.device == 'cpu' else 'clock'
    small = (
        ' Few and small frames: what fits the time of a CPU, not what a GPU trains on.' if args.device == 'cpu' else ''
    )
    sizes = [
        f'- {name}: configs/{SCALES[name].config}.py{" with ViT-B on both sides" if SCALES[name].changes else ""}; '
        f'{size.clips} clips of {size.frames} frames of {size.pixels} x {size.pixels} and {size.seconds:g} s of sound; '
        f'{flops[name] / 1e9:,.1f} GFLOP a step.'
        for name in args.models
        for size in [size_of(name, args)]
    ]
    shares = [
        f'- {workers} worker process(es): {100 * share:.0f} % of {steps} steps.'
        for workers, (share, steps) in waits.items()
    ]
    return '\n'.join(
        [
            '# What a training step costs',
            '',
            f'`python benchmarks/train_step.py`: whole steps, seconds of the {clock}; medians of {args.repeats} repeats, '
            'spread: half the distance between the quartiles. "of plain" compares with plain float32 steps: of the speed '
            'in the same process, in turns; of the extra memory above what lies there between two steps. First step: by '
            f'the clock, compiling (the two backbones) included. {facts}; {args.device}, threads {args.threads}.',
            '',
            *sizes,
            '',
            f'{small} MFU: FLOPs of matrix products and convolutions in the plain step (what checkpointing computes again '
            f'is not counted) against one large matrix product here: {rates[False] / 1e9:,.0f} GFLOP/s in float32, '
            f'{rates[True] / 1e9:,.0f} in bfloat16, whichever the way computes in. Ways without figures were not begun '
            f'within {args.limit:g} s.'.strip(),
            '',
            *markdown(HEADINGS, rows),
            '',
            '## Waiting for data',
            '',
            'Share of the clock that training of the tiny model waits for its loader: clips rendered for it, decoded as in '
            'every training, batches of 8, the first batch included.',
            '',
            *shares,
            '',
        ]
    )


def main() -> None:
    """Measure, print the table, write the page."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as cache:
        # What an earlier run compiled would make the first step look quick.
        os.environ['TORCHINDUCTOR_CACHE_DIR'] = cache
        # Processes that compile beside each other would be counted nowhere.
        os.environ['TORCHINDUCTOR_COMPILE_THREADS'] = '1'
        found = all_costs(args)
    flops = {name: flops_of(name, size_of(name, args)) for name in args.models}
    rates = {
        half: matrix_rate(torch.bfloat16 if half else torch.float32, args.device, args.repeats)
        for half in (False, True)
    }
    waits = {workers: waiting_share(workers, args.device, args.smoke) for workers in ((0,) if args.smoke else (0, 2))}
    text = page_of(rows_of(found, flops, rates, args), flops, rates, waits, args)
    print(text)
    if not args.smoke or args.out != ROOT / 'docs/results/train_step.md':
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
        print(f'written: {args.out}')


if __name__ == '__main__':
    run_tool(main)
