"""The least that several processes can train, in no hurry; a config names it by custom_imports."""

import os
import time
from pathlib import Path

import torch
from mmengine.model import BaseModel
from torch.utils.data import Dataset

from gmscavp.errors import UserError
from gmscavp.registry import DATASETS, MODELS

CONFIG = """
custom_imports = dict(imports=['tests.slow_line'])
default_scope = 'gmscavp'
model = dict(type='SlowLine')
train_dataloader = dict(
    dataset=dict(type='Points'),
    batch_size={batch},
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
train_cfg = dict(by_epoch=True, max_epochs=4)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=8)]
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', interval=1), param_scheduler=dict(type='ParamSchedulerHook')
)
env_cfg = dict(dist_cfg=dict(backend='nccl', timeout={timeout}))
randomness = dict(seed=0)
"""
POINTS = 8


def write_config(file: Path, ranks: int, timeout: float | None = None) -> Path:
    """A config of four epochs of two steps, by however many ranks."""
    file.write_text(CONFIG.format(batch=POINTS // 2 // ranks, timeout=timeout))
    return file


@DATASETS.register_module()
class Points(Dataset):
    """Numbers that are all different."""

    def __len__(self):
        return POINTS

    def __getitem__(self, index):
        return dict(x=torch.sin(torch.arange(4) * (index + 1.0)))


@MODELS.register_module()
class SlowLine(BaseModel):
    """Rank 1 of SLOW_LINE=fails fails in its third step; of SLOW_LINE=hangs it stops there."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.steps = 0

    def forward(self, x, mode='loss'):
        time.sleep(float(os.environ.get('SLOW_LINE_S', '0')))
        self.steps += 1
        if self.steps == 3 and os.environ.get('RANK') == '1' and os.environ.get('TORCHELASTIC_RESTART_COUNT') == '0':
            if os.environ.get('SLOW_LINE') == 'fails':
                raise UserError('the third step is too much for rank 1.')
            if os.environ.get('SLOW_LINE') == 'hangs':
                time.sleep(1000)
        return {'loss': (self.layer(x) - x.sum(1, keepdim=True)).square().mean()}
