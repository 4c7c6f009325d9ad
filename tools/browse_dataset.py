"""Draw clips as the model gets them, frames above the mel: python tools/browse_dataset.py configs/gmscavp_impacts.py"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.progress import track

from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import add_config_options, load_config
from gmscavp.errors import UserError
from gmscavp.pictures import contact_sheet, film_strip, png_bytes
from gmscavp.registry import DATASETS, MODELS


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog='--traceback shows where an error came from.')
    parser.add_argument('config', help='config file, for example configs/gmscavp_impacts.py')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train', help='default: train')
    parser.add_argument('--num', type=int, default=16, help='how many clips, drawn at random (default: 16)')
    parser.add_argument('--out', type=Path, default=Path('sheet.png'), help='picture to write (default: sheet.png)')
    parser.add_argument('--columns', type=int, default=2, help='clips beside each other (default: 2)')
    parser.add_argument('--seed', type=int, default=0, help='choice of clips and of their transforms (default: 0)')
    add_config_options(parser)
    args = parser.parse_args()
    for name in ('num', 'columns'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1.')
    if not args.out.parent.is_dir():
        parser.error(f'--out: folder {args.out.parent} does not exist.')
    return args


def main() -> None:
    """Draw the sheet; say at the end which clips could not be read."""
    args = parse_args()
    config = load_config(args.config, args.cfg_options)
    loader = config.get(f'{args.split}_dataloader')
    if loader is None:
        raise UserError(f'config {args.config} has no {args.split}_dataloader; choose another --split.')
    dataset = DATASETS.build(loader.dataset)
    preprocessor = MODELS.build(config.model.data_preprocessor)
    torch.manual_seed(args.seed)
    chosen = torch.randperm(len(dataset))[: args.num].sort().values.tolist()
    strips, captions, failures = [], [], []
    for index in track(chosen, 'drawing'):
        sample = dataset[index]
        failures += sample['failures'].splitlines()
        if sample['valid']:
            strips.append(draw(sample, preprocessor, training=args.split == 'train'))
            captions.append(caption(sample, dataset, index))
    say_failures(failures)
    if not strips:
        raise UserError(f'none of the {len(chosen)} clips could be drawn; nothing was written.')
    args.out.write_bytes(png_bytes(contact_sheet(strips, captions, args.columns)))
    print(f'{args.out}: {len(strips)} of the {len(dataset):,} clips of {args.split}')


def draw(sample: dict[str, Any], preprocessor: torch.nn.Module, training: bool) -> Any:
    """The film strip of a sample; its mel goes through the preprocessor, in training with the mel transforms."""
    batch = preprocessor({'video': sample['video'][None], 'audio': sample['audio'][None]}, training)
    # Several windows of a clip follow each other.
    frames, mel = sample['video'].flatten(0, -4).permute(0, 2, 3, 1), batch['mel'].flatten(0, 2)
    return film_strip(frames.numpy(), mel.numpy())


def caption(sample: dict[str, Any], dataset: Any, index: int) -> str:
    """'clip_id   from 2.40 s   label, label', the labels where the data set has a manifest that names them."""
    starts = ', '.join(f'{start:.2f}' for start in torch.as_tensor(sample['start_s']).flatten().tolist())
    return '   '.join([sample['clip_id'], f'from {starts} s', *labels(sample, dataset, index)])


def labels(sample: dict[str, Any], dataset: Any, index: int) -> Iterator[str]:
    """The labels of the row, none when the clip stands in for one that could not be read."""
    if hasattr(dataset, 'manifest'):
        record = dataset.manifest[index]
        if record.clip_id == sample['clip_id'] and record.labels:
            yield ', '.join(record.labels)


def say_failures(failures: list[str]) -> None:
    """Print 'cause: file' once for each clip that could not be read."""
    failures = list(dict.fromkeys(failures))
    print(f'skipped: {len(failures) or "none"}')
    for failure in failures:
        print('  ' + ': '.join(failure.split('\t')))


if __name__ == '__main__':
    run_tool(main)
