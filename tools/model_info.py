"""Show what a model is made of and what it costs: python tools/model_info.py configs/gmscavp_impacts.py"""

import argparse
import copy
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import add_config_options, load_config
from gmscavp.engine.planning.clips import blank_batch, clip_shape
from gmscavp.errors import UserError
from gmscavp.registry import BACKBONES, MODELS

# The paper's clip: 4 s at 4 frames/s, 224 x 224, 128 mel bands at hop 250 and 16 kHz.
PAPER_CLIP = {'video': (3, 16, 224, 224), 'mel': (1, 256, 128)}
WHAT_COUNTS = (
    'FLOPs = 2 x multiply-adds of matrix products, convolutions and attention, forward; no norms, no spectrogram'
)
BYTES = 4  # of a weight in float32


class Part(NamedTuple):
    """A line of the table. level: 0 for a part of the model, 1 for a part of a backbone; output: shapes, '' if unknown."""

    name: str
    level: int
    parameters: int
    trainable: int
    flops: int
    output: str

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file, with the weights' bytes in float32."""
        return self._asdict() | {'bytes': self.parameters * BYTES}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f'{WHAT_COUNTS}. Nothing is trained or read: the shape of a clip is taken from train_dataloader. '
        '--traceback shows where an error came from.',
    )
    parser.add_argument('config', nargs='?', help='config file, for example configs/gmscavp_impacts.py')
    parser.add_argument('--batch', type=int, default=1, metavar='N', help='clips a batch (default: 1)')
    parser.add_argument('--backbones', action='store_true', help='list all backbones at their default settings instead')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures to this file as well')
    add_config_options(parser)
    args = parser.parse_args()
    if bool(args.config) == args.backbones:
        parser.error('give a config or --backbones, one of them.')
    if args.batch < 1:
        parser.error('--batch must be at least 1.')
    if args.json and not args.json.parent.is_dir():
        parser.error(f'--json: folder {args.json.parent} does not exist.')
    return args


def main() -> None:
    """Count, print the table and write the file."""
    args = parse_args()
    report = backbones_report(args.batch) if args.backbones else model_report(args)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + '\n')
        print(f'{args.json}: written')


def model_report(args: argparse.Namespace) -> dict[str, Any]:
    """Count the model of a config and print its table."""
    config = load_config(args.config, args.cfg_options)
    # One window a clip, as in evaluation.
    blank = blank_batch(clip_shape(config)._replace(segments=1), args.batch)
    if not config.get('model') or 'data_preprocessor' not in config.model:
        raise UserError(f'config {args.config} has no model with a data_preprocessor; give one that trains a model.')
    model = MODELS.build(config.model).eval()
    batch = model.data_preprocessor(blank)
    parts = parts_of(model, batch, lambda model, batch: model(**batch, mode='loss'))
    shapes = {name: list(value.shape) for name, value in batch.items()}
    print_parts(f'{Path(args.config).name}: {said(shapes)}', parts)
    return {'config': str(args.config), 'batch': shapes, 'parts': [part.as_dict() for part in parts]}


def backbones_report(batch: int) -> dict[str, Any]:
    """Count every registered backbone at its default settings on the paper's clip and print the table."""
    BACKBONES.import_from_location()
    example = {name: torch.zeros(batch, *shape) for name, shape in PAPER_CLIP.items()}
    parts, skipped = [], {}
    for name, kind in track(sorted(BACKBONES.module_dict.items()), 'counting', transient=True):
        missing = [p.name for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
        # The house's word for what a backbone takes is the name of its argument.
        takes = list(inspect.signature(kind.forward).parameters)[1]
        if missing or takes not in example:
            skipped[name] = f'needs {", ".join(missing)}' if missing else f'takes {takes}, not video or mel'
        else:
            lines = parts_of(kind().eval(), [example[takes]], lambda backbone, batch: backbone(*batch))
            parts.append(lines[-1]._replace(name=name))
    shapes = {name: list(value.shape) for name, value in example.items()}
    print_parts(f'backbones at their default settings: {said(shapes)}', parts)
    for name, reason in skipped.items():
        print(f'{name} is left out: it {reason}')
    return {'batch': shapes, 'parts': [part.as_dict() for part in parts], 'skipped': skipped}


def said(shapes: Mapping[str, list[int]]) -> str:
    """'video 1 x 3 x 16 x 64 x 64, mel 1 x 1 x 256 x 64'."""
    return ', '.join(f'{name} {" x ".join(map(str, shape))}' for name, shape in shapes.items())


def parts_of(model: nn.Module, batch: Any, forward: Callable[[nn.Module, Any], Any]) -> list[Part]:
    """A line for every part of the model that has weights or works, for the parts of every backbone, and the total.

    forward: runs a model on a batch.
    """
    names = {module: name for name, module in model.named_modules()}
    flops, outputs = measure(model, batch, forward)

    def line(module: nn.Module, name: str, level: int) -> Part:
        weights = list(module.parameters())
        # A part that was put together for counting has no name in the model: its pieces have.
        pieces = [module] if module in names else list(module.children())
        return Part(
            name,
            level,
            sum(p.numel() for p in weights),
            sum(p.numel() for p in weights if p.requires_grad),
            sum(flops.get(names[piece], 0) for piece in pieces),
            outputs.get(names.get(module, ' '), ''),
        )

    parts = []
    for name, child in model.named_children():
        whole = line(child, name, 0)
        if whole.parameters or whole.flops:
            parts.append(whole)
            by_depth: Any = getattr(child, 'by_depth', list)
            parts += [line(part, f'{d} {type(part).__name__.strip("_")}', 1) for d, part in enumerate(by_depth())]
    return [*parts, line(model, 'total', 0)]


def measure(
    model: nn.Module, batch: Any, forward: Callable[[nn.Module, Any], Any]
) -> tuple[dict[str, int], dict[str, str]]:
    """FLOPs and output shapes of every module by its name in the model, '' for the whole."""
    shadow = copy.deepcopy(model).to('meta')
    try:
        return run_counted(shadow, without_values(batch), forward)
    except (NotImplementedError, RuntimeError):
        # Something looks at values, or is wrong and will say so again. A CPU's fused attention would not be counted.
        with sdpa_kernel(SDPBackend.MATH):
            return run_counted(model, batch, forward)


def run_counted(
    model: nn.Module, batch: Any, forward: Callable[[nn.Module, Any], Any]
) -> tuple[dict[str, int], dict[str, str]]:
    """One forward pass: FLOPs and output shapes by module."""
    outputs: dict[str, str] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _module, _given, out: outputs.update({name: shapes_of(out)})

    hooks = [module.register_forward_hook(note(name)) for name, module in model.named_modules()]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        forward(model, batch)
    for hook in hooks:
        hook.remove()
    # The counter's names begin with the class of the module that was called.
    flops = {
        name.partition('.')[2]: sum(by_kind.values())
        for name, by_kind in counter.get_flop_counts().items()
        if name != 'Global'
    }
    return flops, outputs


def without_values(batch: Any) -> Any:
    """The tensors of a batch as shapes alone."""
    if isinstance(batch, dict):
        return {name: without_values(value) for name, value in batch.items()}
    if isinstance(batch, list):
        return [without_values(value) for value in batch]
    return batch.to('meta') if torch.is_tensor(batch) else batch


def shapes_of(value: Any) -> str:
    """'16 x 196 x 192' for a tensor, several joined by commas; names of losses for a dictionary."""
    if torch.is_tensor(value):
        return ' x '.join(map(str, value.shape)) or 'scalar'
    if isinstance(value, dict):
        return ', '.join(value)
    return ', '.join(map(shapes_of, value)) if isinstance(value, list | tuple) else ''


def print_parts(title: str, parts: list[Part]) -> None:
    """The table."""
    table = Table(title=title, caption=WHAT_COUNTS, title_justify='left', caption_justify='left')
    for name in ('part', 'parameters', 'trainable', 'FLOPs', 'fp32'):
        table.add_column(name, justify='left' if name == 'part' else 'right', no_wrap=True)
    table.add_column('output', overflow='fold')
    for part in parts:
        if part.name == 'total':
            table.add_section()
        table.add_row(
            '  ' * part.level + part.name,
            f'{part.parameters:,}',
            f'{part.trainable:,}',
            short(part.flops),
            f'{part.parameters * BYTES / 1e6:.1f} MB',
            part.output,
        )
    # A pipe has no width of its own, and rich's eighty columns would fold every line.
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def short(number: float) -> str:
    """'12.8 G'."""
    for unit in ('', ' k', ' M', ' G', ' T'):
        if number < 1000:
            return f'{number:.3g}{unit}'
        number /= 1000
    return f'{number:.3g} P'


if __name__ == '__main__':
    run_tool(main)
