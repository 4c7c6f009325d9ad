"""A small training that takes orders for faults: python benchmarks/faults_soak_run.py FOLDER EPOCHS (of faults_soak.py)

FOLDER holds data/ (Impacts) and gets run/. An order is an empty file in FOLDER/orders, for the first reader that sees it.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

from mmengine.config import ConfigDict
from mmengine.hooks import Hook

from gmscavp.datasets import Impacts
from gmscavp.datasets.manifest import ClipRecord
from gmscavp.engine.checkpoints import newest_checkpoint
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import load_config
from gmscavp.engine.runner import build_runner
from gmscavp.structures import Clip

HANG, NAN = 'hang', 'nan'
BATCH, WORKERS, LIMIT_S = 8, 2, 10
STEPS_FILE = 'steps.txt'
_SMALL = {
    'batch_size': BATCH,
    'num_workers': WORKERS,
    'clip.size': 32,
    'train_dataloader.dataset.clip.size': 32,
    'model.video_backbone.width': 4,
    'model.audio_backbone.width': 4,
    'model.video_pyramid.dim': 8,
    'model.audio_pyramid.dim': 8,
    'model.video_pyramid.grids': [1, 2],
    'model.diffusion.denoiser.width': 16,
}


class OrderedFaults(Impacts):
    """Impacts that hang or are no numbers where that was ordered."""

    def _read(self, record: ClipRecord, rng: np.random.Generator) -> Clip | list[Clip]:
        clip = super()._read(record, rng)
        assert isinstance(clip, Clip)
        for order in (HANG, NAN):
            file = self.root.parent / 'orders' / order
            if file.exists():
                # Another reader may have taken it first.
                file.unlink(missing_ok=True)
                if order == HANG:
                    time.sleep(1e6)
                clip.audio.fill_(torch.nan)
        return clip


class StepLog(Hook):
    """Writes the number of every step that is done."""

    def __init__(self, file: str) -> None:
        self.file = file

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write it."""
        with open(self.file, 'a', encoding='ascii') as stream:
            stream.write(f'{runner.iter + 1}\n')


def main() -> None:
    """Train, from the newest checkpoint if there is one."""
    folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    config = load_config(str(ROOT / 'configs/gmscavp_impacts.py'), {'data_root': str(folder / 'data'), **_SMALL})
    config.work_dir = str(folder / 'run')
    # By name, as a class of a script cannot be dumped with the config.
    config.train_dataloader.dataset.update(type='faults_soak_run.OrderedFaults', data_root=str(folder / 'data'))
    config.train_cfg.max_epochs = epochs
    # The length of training is not known from the beginning.
    config.param_scheduler = None
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    config.default_hooks.checkpoint.save_best = None
    for hook in config.custom_hooks:
        if 'BadClipHook' in str(hook['type']):
            hook.update(limit_s=LIMIT_S, max_lost=10_000, max_share=0.6)
    config.custom_hooks.append(ConfigDict(type='faults_soak_run.StepLog', file=str(folder / STEPS_FILE)))
    newest = newest_checkpoint(folder / 'run')
    if newest:
        config.resume, config.load_from = True, str(newest)
    build_runner(config).train()


if __name__ == '__main__':
    run_tool(main)
