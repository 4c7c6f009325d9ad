"""How well picture and sound of Impacts are brought together again: python benchmarks/synchronise.py RUN

The sound of held-out clips is moved by a known offset, drawn evenly from -800 to 800 ms, with silence where there is none;
beside each such pair the same pictures stand with the sound of another clip. Model.synchronise is asked of both. Errors
are of the right pairs, where it calls an offset right to half a step of the finest scale. The second table holds the
confidence against how often the offset was right, of all pairs, half of which have no right offset. Writes
docs/results/synchronise.md. --smoke takes four clips and an untrained model, and writes no page.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from measuring import markdown
from rich.progress import track
from torch import Tensor

from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import load_config
from gmscavp.errors import UserError
from gmscavp.inference import Model, Pictures, Sound
from gmscavp.registry import DATASETS, MODELS

LARGEST_S = 0.8
BINS = 5


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'runs',
        type=Path,
        nargs='*',
        default=[ROOT / 'work_dirs/quickstart'],
        help='work directories or checkpoints of GMSCAVP on Impacts (default: that of the quickstart)',
    )
    parser.add_argument('--data-root', default=str(ROOT / 'data/impacts'), help='folder that holds Impacts')
    parser.add_argument('--clips', type=int, default=200, help='how many test clips (default: 200)')
    parser.add_argument('--seed', type=int, default=1, help='of clips and offsets (default: 1)')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/synchronise.md', help='page to write')
    parser.add_argument('--smoke', action='store_true', help='four clips and an untrained model; writes no page')
    return parser.parse_args()


class Found(NamedTuple):
    """Of every pair: error_ms (N,), nan where the sound is another clip's, and confidence (N,)."""

    error_ms: np.ndarray
    confidence: np.ndarray


def moved(wave: Tensor, samples: int) -> Tensor:
    """(S,) later by so many samples, earlier where negative; silence where nothing is left."""
    silence = wave.new_zeros(min(abs(samples), len(wave)))
    return torch.cat([silence, wave])[: len(wave)] if samples >= 0 else torch.cat([wave, silence])[-len(wave) :]


def synchronised(model: Model, data_root: str, clips: int, seed: int) -> Found:
    """Every clip with its own sound, moved, and with that of another."""
    settings = dict(
        type='Impacts', data_root=data_root, split='test', replace_bad=False, window=dict(type='CentreWindow')
    )
    dataset = DATASETS.build(settings | dict(clip=vars(model.clip)))
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(dataset))[:clips]
    errors, confidences = [], []
    for index, other in zip(track(chosen, 'synchronising'), np.roll(chosen, 1), strict=False):
        sample, stranger = dataset[int(index)], dataset[int(other)]
        if not (sample['valid'] and stranger['valid']):
            continue
        pictures = Pictures(sample['video'].permute(0, 2, 3, 1), model.clip.fps)
        offset = round(rng.uniform(-LARGEST_S, LARGEST_S) * model.clip.sample_rate)
        for wave in (sample['audio'], stranger['audio']):
            found = model.synchronise(pictures, Sound(moved(wave, offset), model.clip.sample_rate))
            own = wave is sample['audio']
            errors.append(found.offset_ms - 1000 * offset / model.clip.sample_rate if own else np.nan)
            confidences.append(found.confidence)
    if not errors:
        raise UserError(f'no clip of {data_root} could be read; render Impacts anew.')
    return Found(np.array(errors), np.array(confidences))


def error_row(found: Found, step_ms: float) -> list[str]:
    """Median, 90 %, bias and how many are right, of the right pairs."""
    own = ~np.isnan(found.error_ms)
    error = np.abs(found.error_ms[own])
    right = 100 * (error <= step_ms / 2).mean()
    sure = found.confidence[own].mean(), found.confidence[~own].mean()
    figures = (np.median(error), np.quantile(error, 0.9), np.median(found.error_ms[own]))
    return [*(f'{x:.0f}' for x in figures), f'{right:.1f}', *(f'{x:.2f}' for x in sure)]


def calibration_rows(found: Found, step_ms: float) -> tuple[list[list[str]], float]:
    """Confidence in bins against the share that was right, and their mean distance (expected calibration error)."""
    right = np.abs(np.nan_to_num(found.error_ms, nan=np.inf)) <= step_ms / 2
    bins = np.minimum((found.confidence * BINS).astype(int), BINS - 1)
    rows, apart = [], 0.0
    for k in range(BINS):
        here = bins == k
        label = f'{k / BINS:.1f} to {(k + 1) / BINS:.1f}'
        if not here.any():
            rows.append([label, '0', '', ''])
            continue
        said, was = found.confidence[here].mean(), right[here].mean()
        apart += here.mean() * abs(said - was)
        rows.append([label, str(here.sum()), f'{said:.2f}', f'{was:.2f}'])
    return rows, apart


def page_of(models: dict[str, Model], args: argparse.Namespace) -> list[str]:
    """The page's lines: one table of errors, and one of confidence for each run."""
    errors, parts = [], []
    for name, model in models.items():
        step_ms = 1000 * model.clip.duration_s / model.model.video_pyramid.lengths[0]
        found = synchronised(model, args.data_root, args.clips, args.seed)
        errors.append([name, f'{step_ms:g}', *error_row(found, step_ms)])
        rows, apart = calibration_rows(found, step_ms)
        parts += ['', f'Confidence of {name}; expected calibration error {apart:.3f}:', '']
        parts += markdown(['confidence', 'pairs', 'mean', 'share right'], rows)
    heads = ['run', 'step ms', 'median ms', '90 % ms', 'bias ms', 'right %', 'confidence, own', "another's"]
    return [
        '# Synchronising picture and sound of Impacts',
        '',
        f'`python benchmarks/synchronise.py`: up to {args.clips} held-out clips of 4 s with offsets of -800 to 800 ms, '
        'searched from -1000 to 1000 ms; each also with the sound of another clip. Definitions: '
        '[docs/inference.md](../inference.md).',
        '',
        *markdown(heads, errors),
        *parts,
    ]


def main() -> None:
    """Ask of every run, print, write."""
    args = parse_args()
    if args.smoke:
        config = load_config(ROOT / 'configs/gmscavp_impacts.py')
        untrained = Model(MODELS.build(config.model).eval(), config, Path('untrained'), torch.device('cpu'))
        with tempfile.TemporaryDirectory() as folder:
            render_impacts(Path(folder), train=4, test=8, workers=1, progress=False)
            args.data_root, args.clips = folder, 4
            print('\n'.join(page_of({'untrained': untrained}, args)))
        return
    page = page_of({run.name: Model.from_run(run, 'cpu') for run in args.runs}, args)
    print('\n'.join(page))
    args.out.write_text('\n'.join(page) + '\n')
    print(f'written: {args.out}')


if __name__ == '__main__':
    run_tool(main)
