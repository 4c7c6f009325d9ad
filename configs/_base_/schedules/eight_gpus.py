"""The recipe for 8 GPUs and 720 clips a step: CAVP's optimiser, 100 epochs (our choice)."""

from mmengine.config import read_base

with read_base():
    from .adamw import *

max_epochs = 100
train_cfg.update(max_epochs=max_epochs, val_interval=5)
optim_wrapper['optimizer'].update(lr=8e-4)
param_scheduler[0].update(end=200)
