"""AdamW for generators on 8 GPUs: a constant learning rate after warm-up, for long runs that may be stopped at any time."""

from mmengine.config import read_base
from mmengine.optim import LinearLR

with read_base():
    from .adamw import *

max_epochs = 200
train_cfg.update(max_epochs=max_epochs, val_interval=20)
optim_wrapper['optimizer'].update(lr=1e-4, weight_decay=0.01)
param_scheduler = [dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=1000)]
