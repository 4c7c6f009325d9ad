"""A codec of frames, trained on Impacts: minutes on one CPU core.

python tools/train.py configs/frame_autoencoder_impacts.py
A generator starts from it with init=dict(codec='work_dirs/frame_autoencoder_impacts/<checkpoint>').
"""

from mmengine.config import read_base

from gmscavp.datasets import RandomWindow

with read_base():
    from ._base_.datasets.impacts import *
    from ._base_.default_runtime import *
    from ._base_.models.frame_autoencoder_tiny import *
    from ._base_.schedules.autoencoder import *

val_evaluator = reconstruction
test_evaluator = reconstruction
default_hooks['checkpoint'].update(**best_reconstruction)

# Frames that lie apart differ more than successive ones: two of every clip, a second from each other, anywhere in it.
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader['dataset']['clip'].update(duration_s=2.0, fps=1)
train_dataloader['dataset']['window'] = dict(type=RandomWindow)
# Of so small a codec many small steps make more than a few large ones.
batch_size = 4
train_dataloader.update(batch_size=batch_size)
max_epochs = 20
train_cfg.update(max_epochs=max_epochs)
