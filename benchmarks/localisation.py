"""Does the heat map find the object that sounds, on Impacts: python benchmarks/localisation.py

Trains configs/dense_impacts.py (or goes on where it was stopped), or takes --checkpoint. For every window of a test clip in
which objects on screen strike the floor, the hottest cell is a hit when it overlaps one of these objects as the window's
frame shows it. Beside it stand chance (the mean share of cells that would be hits), the middle of the picture, and the
one cell that is right most often, which knows where objects are in general. In windows with other objects on screen,
`right object` says how often the hottest cell is nearest to an object that strikes, among all that bounce or glide.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gmscavp.datasets.impacts_render import Difficulty, Scene, make_scenes
from gmscavp.datasets.impacts_render.scenes import DURATION_S, FLOOR_Y, SIDE
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import add_config_options, load_config
from gmscavp.engine.trained import load_model
from gmscavp.errors import UserError
from gmscavp.registry import DATASETS


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=str(ROOT / 'configs/dense_impacts.py'), help='config of a dense model')
    parser.add_argument('--checkpoint', type=Path, help='.pth file or work directory; without it the model is trained')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/localisation', help='folder for the run')
    parser.add_argument('--data-root', default=str(ROOT / 'data/impacts'), help='folder that holds Impacts')
    add_config_options(parser)
    return parser.parse_args()


@dataclass(frozen=True)
class Window:
    """What is where while a window's frame is on screen, in pixels of the 64 x 64 picture, x right and y down.

    boxes: (K, 4) left, top, right, bottom of every object. sounding: (K,) bool, which of them strike the floor in it.
    """

    boxes: np.ndarray
    sounding: np.ndarray


def windows_of(scene: Scene, count: int) -> list[Window]:
    """The scene as `count` equal windows, each seen at the moment in its middle, the frame that the model gets."""
    length = DURATION_S / count
    times = (np.arange(count) + 0.5) * length
    places, sounding, sizes = [], [], []
    for bouncer in scene.bouncers:
        y = FLOOR_Y - bouncer.look.size - bouncer.height(times)
        places.append(np.stack([np.full(count, bouncer.x), y], axis=1))
        struck = {int(impact.time_s / length) for impact in bouncer.impacts}
        sounding.append([k in struck for k in range(count)])
        sizes.append(bouncer.look.size)
    for mover in scene.movers:
        places.append(mover.position(times))
        sounding.append([False] * count)
        sizes.append(mover.look.size)
    middle, half = np.stack(places, axis=1), np.array(sizes)[None, :, None]
    boxes, strikes = np.concatenate([middle - half, middle + half], axis=2), np.array(sounding).T
    return [Window(*pair) for pair in zip(boxes, strikes, strict=True)]


def hit_cells(boxes: np.ndarray, grid: int) -> np.ndarray:
    """Which cells overlap one of the boxes (K, 4): (grid, grid) bool."""
    edges = np.arange(grid + 1) * SIDE / grid
    hits = np.zeros((grid, grid), dtype=bool)
    for left, top, right, bottom in boxes:
        columns = (edges[:-1] < right) & (edges[1:] > left)
        rows = (edges[:-1] < bottom) & (edges[1:] > top)
        hits |= rows[:, None] & columns
    return hits


def nearest_sounds(window: Window, cell: tuple[int, int], grid: int) -> bool:
    """Whether the object whose middle is nearest to the middle of a cell (row, column) is one that strikes."""
    y, x = ((place + 0.5) * SIDE / grid for place in cell)
    middles = (window.boxes[:, :2] + window.boxes[:, 2:]) / 2
    return bool(window.sounding[np.hypot(*(middles - (x, y)).T).argmin()])


def figures(heats: np.ndarray, windows: list[Window]) -> dict[str, tuple[float, float]]:
    """Percent of hits, and percent of the right object among several, of the model and of what it must beat.

    heats: (N, g, g) of the N windows, each with an object that strikes.
    """
    grid = heats.shape[-1]
    hits = np.stack([hit_cells(window.boxes[window.sounding], grid) for window in windows])
    several = [k for k, window in enumerate(windows) if not window.sounding.all()]

    def right_object(cells: np.ndarray) -> float:
        right = [nearest_sounds(windows[k], divmod(int(cells[k]), grid), grid) for k in several]
        return 100 * float(np.mean(right)) if right else float('nan')

    chosen = {
        'heat map': heats.reshape(len(heats), -1).argmax(axis=1),
        'middle of the picture': np.full(len(heats), (grid // 2) * grid + grid // 2),
        'best fixed cell': np.full(len(heats), hits.mean(axis=0).argmax()),
    }
    rows = np.arange(len(heats))
    found = {
        name: (100 * float(hits.reshape(len(hits), -1)[rows, cells].mean()), right_object(cells))
        for name, cells in chosen.items()
    }
    object_chance = 100 * float(np.mean([windows[k].sounding.mean() for k in several])) if several else float('nan')
    return found | {'chance': (100 * float(hits.mean()), object_chance)}


def heat_maps(config: Any, checkpoint: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(clip_id, (L, g, g)) of every test clip that can be read."""
    model: Any = load_model(config, checkpoint)
    if not hasattr(model.head, 'heat_map'):
        raise UserError(f'{type(model.head).__name__} has no heat maps; give the config of a model with DenseHead.')
    dataset = DATASETS.build(config.test_dataloader.dataset)
    for index in track(range(len(dataset)), 'looking'):
        sample = dataset[index]
        if not sample['valid']:
            continue
        with torch.inference_mode():
            batch = model.data_preprocessor({'video': sample['video'][None], 'audio': sample['audio'][None]}, False)
            (v,), (a,) = model.encode_video(batch['video']), model.encode_audio(batch['mel'])
            yield sample['clip_id'], model.head.heat_map(v, a)[0].numpy()


def test_scenes(data_root: Path) -> dict[str, Scene]:
    """The scenes behind the test clips, drawn anew from the numbers that the rendering left."""
    stamp_file = data_root / 'render.json'
    if not stamp_file.is_file():
        raise UserError(f'{data_root} holds no Impacts; make them with: python tools/prepare_data.py impacts')
    stamp = json.loads(stamp_file.read_text())
    difficulty = Difficulty(**stamp['difficulty'])
    galleries = ('semantic', 'temporal')
    scenes = [s for g in galleries for s in make_scenes(stamp['seed'], stamp['test'], g, difficulty, split='test')]
    return {scene.clip_id: scene for scene in scenes}


def trained(args: argparse.Namespace) -> Path:
    """The checkpoint that was given, or the work directory of a run brought to its end."""
    if args.checkpoint:
        return args.checkpoint
    options = [f'{key}={value}' for key, value in (args.cfg_options or {}).items()]
    command = ['--work-dir', str(args.work_dir), '--resume', '--cfg-options', f'data_root={args.data_root}', *options]
    done = subprocess.run([sys.executable, str(ROOT / 'tools/train.py'), args.config, *command], cwd=ROOT, check=False)
    if done.returncode:
        raise UserError(f'tools/train.py ended with code {done.returncode}; its message stands above.')
    return args.work_dir


def main() -> None:
    """Train or load, look at every test clip, print the table."""
    args = parse_args()
    scenes = test_scenes(Path(args.data_root))
    config = load_config(args.config, (args.cfg_options or {}) | {'data_root': args.data_root})
    heats, windows, clips = [], [], 0
    for clip_id, heat in heat_maps(config, trained(args)):
        if clip_id not in scenes:
            raise UserError(
                f'clip {clip_id} is not among the scenes of {args.data_root}/render.json; render Impacts anew.'
            )
        clips += 1
        for window, cells in zip(windows_of(scenes[clip_id], len(heat)), heat, strict=True):
            if window.sounding.any():
                windows.append(window)
                heats.append(cells)
    if not windows:
        raise UserError(f'no object strikes in the {clips} clips that could be read; render Impacts anew.')
    of = figures(np.stack(heats), windows)
    table = Table(title=f'{len(windows)} windows with impacts in {clips} clips, {heats[0].shape[0]}^2 cells')
    for heading in ('', 'on a sounding object %', 'right object %'):
        table.add_column(heading, justify='right')
    for name, (hit, right) in of.items():
        table.add_row(name, f'{hit:.1f}', f'{right:.1f}')
    Console().print(table)


if __name__ == '__main__':
    run_tool(main)
