"""Plan a run before it is started: python tools/plan_run.py configs/gmscavp_vggsound.py --data vggsound --gpus 8"""

import argparse
import json
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import add_config_options, load_config
from gmscavp.engine.planning.clips import clip_shape
from gmscavp.engine.planning.costs import Network, Shares
from gmscavp.engine.planning.counting import Counted, count_step
from gmscavp.engine.planning.plan import Cluster, Memory, Plan, Reading, make_plan, memory_of, needed_bytes
from gmscavp.engine.planning.switches import batch_that_fits, tried, ways
from gmscavp.engine.planning.tables import DATA_SETS, GIGA, SOURCES, DataSet, find_accelerator
from gmscavp.errors import UserError, near_names
from gmscavp.registry import DATASETS

MEASURE_S = 5.0
ASSUMED = (
    'A prediction, not a measurement: docs/scaling.md says what it stands on. Forward, loss, backward, optimiser and the '
    'exchange of tokens follow each other; gradients are exchanged during the backward pass; reading and decoding go on '
    'beside all that. Evaluation, start-up and stragglers are not in it.'
)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='The model is counted on shapes alone: nothing is trained, and no GPU is needed. docs/scaling.md has the '
        'formulas. --traceback shows where an error came from.',
    )
    add = parser.add_argument
    add('config', help='config file, for example configs/gmscavp_vggsound.py')
    size = parser.add_mutually_exclusive_group()
    size.add_argument('--clips', type=int, metavar='N', help='clips of an epoch')
    size.add_argument('--data', metavar='NAME', help=f'data set: {", ".join(DATA_SETS)} (default: vggsound)')
    add('--gpus', type=int, default=8, metavar='N', help='of all nodes together (default: 8)')
    add('--nodes', type=int, default=1, metavar='N', help='(default: 1)')
    add(
        '--gpu',
        default='a100',
        metavar='NAME',
        help='a100, h100, ... or cpu, which is measured at once (default: a100)',
    )
    add('--batch', type=int, metavar='N', help="clips a step of one GPU (default: the config's)")
    add('--epochs', type=int, metavar='N', help="(default: the config's)")
    add('--precision', choices=('fp32', 'bf16'), help='bf16 is train.py --amp (default: bf16, on cpu fp32)')
    add(
        '--sharded',
        action='store_true',
        help='plan with model_sharding.enabled=True: weights, gradients, moments in parts',
    )
    add(
        '--source', choices=tuple(SOURCES), default='files', help='what is read: original files, rewritten ones, shards'
    )
    add('--storage', type=float, default=2.0, metavar='GB/s', help='read by all nodes together (default: 2)')
    add(
        '--network',
        type=float,
        default=12.5,
        metavar='GB/s',
        help='of a node, between nodes (default: 12.5, 100 Gbit/s)',
    )
    add('--cores-per-gpu', type=float, metavar='N', help="for decoding (default: the loader's num_workers)")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument('--clips-per-core', type=float, metavar='R', help='windows that one core reads in a second')
    rate.add_argument('--measure', action='store_true', help=f"measure that on the config's own clips, {MEASURE_S:g} s")
    add('--mfu', type=float, default=Shares.arithmetic, metavar='SHARE', help='of peak rate that products reach')
    add(
        '--bandwidth-share',
        type=float,
        default=Shares.memory,
        metavar='SHARE',
        help='of memory bandwidth that is reached',
    )
    add('--json', type=Path, metavar='FILE', help='write the figures to this file as well')
    add_config_options(parser)
    args = parser.parse_args()
    check(args)
    return args


def check(args: argparse.Namespace) -> None:
    """Raise UserError for numbers that make no plan."""
    for name in ('clips', 'gpus', 'nodes', 'batch', 'epochs', 'storage', 'network', 'cores_per_gpu', 'clips_per_core'):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise UserError(f'--{name.replace("_", "-")} must be above 0; it is {value:g}.')
    for name in ('mfu', 'bandwidth_share'):
        if not 0 < getattr(args, name) <= 1:
            raise UserError(f'--{name.replace("_", "-")} must be above 0 and at most 1; it is {getattr(args, name):g}.')
    if args.gpus % args.nodes:
        raise UserError(f'--gpus {args.gpus} do not share out over --nodes {args.nodes}; --gpus counts all of them.')
    if args.data and args.data not in DATA_SETS:
        near = near_names(args.data, DATA_SETS)
        raise UserError(f"--data: '{args.data}' is not known.{near} Known are {', '.join(DATA_SETS)}, or give --clips.")
    if args.json and not args.json.parent.is_dir():
        raise UserError(f'--json: folder {args.json.parent} does not exist.')


def main() -> None:
    """Count, plan, print."""
    args = parse_args()
    # What torch says about operations on shapes alone concerns no user.
    warnings.filterwarnings('ignore', category=UserWarning)
    gpu = find_accelerator(args.gpu)
    shares = Shares(1.0, 1.0) if gpu.name == 'cpu' else Shares(args.mfu, args.bandwidth_share)
    config = load_config(args.config, args.cfg_options)
    half = (args.precision or ('fp32' if gpu.name == 'cpu' else 'bf16')) == 'bf16'
    clips, film_s, about = data_of(args)
    batch = args.batch or config.get('train_dataloader', {}).get('batch_size')
    if not batch:
        raise UserError(f'config {args.config} has no train_dataloader.batch_size; give --batch.')
    if clips < batch * args.gpus:
        raise UserError(f'{clips} clips do not fill one batch of {batch} on each of {args.gpus} GPUs; lower --batch.')
    console = Console(width=None if sys.stdout.isatty() else 120)
    with console.status('counting the step'):
        counted = count_step(config, batch, half)
    network = Network(
        args.gpus // args.nodes, args.nodes, gpu.link * shares.network, args.network * GIGA * shares.network
    )
    cores = args.cores_per_gpu or max(1, config.train_dataloader.get('num_workers', 1))
    cluster = Cluster(gpu, network, args.storage * GIGA, cores, shares, args.sharded)
    reading = reading_of(args, config, film_s)
    averaged, moments = kept_of(config)
    plan = make_plan(counted, cluster, reading, averaged, moments)
    epochs = args.epochs or config.get('train_cfg', {}).get('max_epochs') or 1
    print_plan(
        console, plan, cluster, reading, (clips, about, epochs), f'{Path(args.config).stem}, {batch} clips a GPU'
    )
    said = [f'Bottleneck: {plan.bottleneck}. {relief(plan, cluster, reading, half)}']
    room = needed_bytes(plan.memory, gpu) - gpu.memory
    if room > 0:
        said += switches(console, args, config, counted, cluster, half)
    for line in said:
        console.print(line, soft_wrap=True, highlight=False)
    console.print(ASSUMED, style='dim', highlight=False)
    if args.json:
        args.json.write_text(json.dumps(report_of(plan, cluster, clips, epochs, said), indent=2) + '\n')
        print(f'{args.json}: written')


def data_of(args: argparse.Namespace) -> tuple[int, float, str]:
    """Clips of an epoch, seconds of film of each, and words for both."""
    data: DataSet = DATA_SETS[args.data or 'vggsound']
    if args.clips:
        return args.clips, data.film_s, f'{args.clips:,} clips'
    return data.clips, data.film_s, f'{data.name}, {data.clips:,} clips'


def reading_of(args: argparse.Namespace, config: Config, film_s: float) -> Reading:
    """Bytes and core seconds of a window."""
    source, window_s = SOURCES[args.source], clip_shape(config).duration_s
    rate = args.clips_per_core or source.clips_per_core_of(window_s)
    if args.measure:
        rate = measured_rate(DATASETS.build(config.train_dataloader.dataset), clip_shape(config).segments)
    return Reading(source, rate, source.bytes_of(window_s, film_s))


def measured_rate(dataset: Any, segments: int) -> float:
    """Windows that this process reads in a second of the processor."""
    # What libraries load when they are first used is no cost of a clip.
    dataset[0]
    started, read = time.process_time(), 0
    while time.process_time() - started < MEASURE_S:
        read += 1
        dataset[read % len(dataset)]
    return read * segments / (time.process_time() - started)


def kept_of(config: Config) -> tuple[bool, int]:
    """Whether an average of the weights is kept, and how many values the optimiser keeps of each."""
    hooks = config.get('custom_hooks') or []
    averaged = any('EMA' in str(hook.get('type')) for hook in hooks)
    optimizer = (config.get('optim_wrapper') or {}).get('optimizer') or {}
    plain = 'SGD' in str(optimizer.get('type'))
    return averaged, (1 if optimizer.get('momentum') else 0) if plain else 2


def print_plan(
    console: Console, plan: Plan, cluster: Cluster, reading: Reading, data: tuple[int, str, int], title: str
) -> None:
    """The parts of a step, then what follows from them."""
    network, (clips, about, epochs) = cluster.network, data
    table = Table(title=f'{title}, {network.ranks} x {cluster.accelerator.name} on {network.nodes} node(s); {about}')
    for name in ('part of a step', 'ms', 'of the step', 'what it is'):
        table.add_column(name, justify='right' if name in ('ms', 'of the step') else 'left')
    for name, seconds, what in parts_of(plan, cluster, reading):
        table.add_row(name, f'{1000 * seconds:,.1f}', f'{seconds / plan.step:.0%}', what)
    table.add_section()
    table.add_row('step', f'{1000 * plan.step:,.1f}', '', f'{plan.clips:,} clips on all GPUs')
    console.print(table)
    hours = plan.hours(clips)
    console.print(
        f'{plan.clips_per_s:,.0f} clips/s; {hours:,.2f} hours an epoch, {epochs * hours:,.1f} hours for {epochs} epochs, '
        f'{epochs * hours * network.ranks:,.0f} GPU-hours; a checkpoint takes {plan.checkpoint:.1f} s.',
        highlight=False,
    )
    print_memory(console, plan.memory, cluster)


def parts_of(plan: Plan, cluster: Cluster, reading: Reading) -> list[tuple[str, float, str]]:
    """Lines of the table: name, seconds, words."""
    each = plan.clips / cluster.network.ranks
    forward, backward = (f'{flops / each / 1e9:,.3g} GFLOP a clip' for flops in plan.flops)
    window = f'{reading.window_bytes / 1e6:.2f} MB a window from {reading.source.name}'
    exchanged = 'gradients' if not cluster.sharded else 'weights and gradients'
    return [
        ('forward', plan.forward, forward),
        ('backward', plan.backward, f'{backward}; of both {plan.waits:.0%} waits for memory'),
        ('contrastive loss', plan.loss, f'own rows with those of {cluster.network.ranks} GPUs'),
        ('optimiser', plan.optimiser, 'with clipping and the average'),
        ('tokens', plan.tokens, 'exchanged for the loss'),
        ('gradients', plan.gradients, f'{exchanged} exchanged, beside the backward pass'),
        ('storage', plan.storage, f'{window}, beside'),
        ('decode', plan.decode, f'{cluster.cores:g} cores a GPU at {reading.clips_per_core:.1f} windows/s, beside'),
    ]


def print_memory(console: Console, memory: Memory, cluster: Cluster) -> None:
    """The memory of a GPU, and whether it fits."""
    gpu, needed = cluster.accelerator, needed_bytes(memory, cluster.accelerator)
    table = Table(title=f'memory of a GPU in GB: {needed / GIGA:.1f} of {gpu.memory / GIGA:.0f}', title_justify='left')
    cells = {**asdict(memory), 'allocator, libraries': needed - memory.total}
    for name in cells:
        table.add_column(name, justify='right')
    table.add_row(*(f'{value / GIGA:.2f}' for value in cells.values()))
    console.print(table)
    console.print('It fits.' if needed <= gpu.memory else '[bold]It does not fit.[/bold]')


def relief(plan: Plan, cluster: Cluster, reading: Reading, half: bool) -> str:
    """What would help, in a sentence."""
    busy = plan.compute + plan.loss + plan.network
    if plan.bottleneck == 'decode':
        better = '' if reading.source.name == 'shards' else ', or a form that reads faster (--source friendly, shards)'
        return (
            f'{plan.cores_needed:.0f} cores a GPU would keep up with it ({cluster.cores:g} are given){better}; '
            f'the step would then take {1000 * max(busy, plan.storage):,.0f} ms.'
        )
    if plan.bottleneck == 'storage':
        needed = plan.storage / busy * cluster.storage / GIGA
        return f'Storage that gives {needed:.1f} GB/s would keep up, or a smaller form (--source friendly, shards).'
    if plan.bottleneck == 'network':
        return 'A faster network, a larger batch a GPU, or fewer, larger nodes would help.'
    if plan.bottleneck == 'loss':
        return 'model.head.tile=1024 computes each pair once; a smaller joint batch has fewer pairs.'
    waits = ' Most of it waits for memory, not arithmetic: fewer, larger operations help.' if plan.waits > 0.5 else ''
    return f'More GPUs would help{"" if half else ", and --amp (here --precision bf16)"}.{waits}'


def switches(
    console: Console, args: argparse.Namespace, config: Config, counted: Counted, cluster: Cluster, half: bool
) -> list[str]:
    """What makes the step fit, a line each: settings, then a batch."""
    gpu, ranks, kept = cluster.accelerator, cluster.network.ranks, kept_of(config)

    def needed(step: Counted) -> float:
        return needed_bytes(memory_of(step, ranks, args.sharded, *kept), gpu)

    lines = []
    with console.status('counting with other settings'):
        each = ways(counted, half, args.sharded, ranks)
        for way, memory in tried(args.config, args.cfg_options or {}, counted, each, ranks, *kept):
            size = needed_bytes(memory, gpu)
            lines.append(
                f'{way.words}: {size / GIGA:.1f} GB, {"fits" if size <= gpu.memory else "does not fit either"}'
            )
        fits = batch_that_fits(config, counted, half, needed, gpu.memory)
    lines.append(f'--batch {fits} fits as it is' if fits else 'not even one clip a GPU fits as it is')
    return ['What would make it fit:', *(f'  {line}' for line in lines)]


def report_of(plan: Plan, cluster: Cluster, clips: int, epochs: int, said: list[str]) -> dict[str, Any]:
    """For the JSON file."""
    needed = needed_bytes(plan.memory, cluster.accelerator)
    hours = plan.hours(clips)
    return asdict(plan) | {
        'cluster': asdict(cluster),
        'step': plan.step,
        'clips_per_s': plan.clips_per_s,
        'bottleneck': plan.bottleneck,
        'hours_per_epoch': hours,
        'hours': epochs * hours,
        'gpu_hours': epochs * hours * cluster.network.ranks,
        'memory_needed': needed,
        'fits': needed <= cluster.accelerator.memory,
        'said': said,
    }


if __name__ == '__main__':
    run_tool(main)
