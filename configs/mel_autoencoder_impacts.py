"""A codec of the log-mel, trained on Impacts: minutes on one CPU core.

python tools/train.py configs/mel_autoencoder_impacts.py
A generator starts from it with init=dict(codec='work_dirs/mel_autoencoder_impacts/<checkpoint>').
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.impacts import *
    from ._base_.default_runtime import *
    from ._base_.models.mel_autoencoder_tiny import *
    from ._base_.schedules.autoencoder import *

val_evaluator = reconstruction
test_evaluator = reconstruction
default_hooks['checkpoint'].update(**best_reconstruction)

# The sound is all that counts: one small picture a clip is read.
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader['dataset']['clip'].update(fps=0.25, size=8)
# Of so small a codec many small steps make more than a few large ones.
batch_size = 4
train_dataloader.update(batch_size=batch_size)
max_epochs = 10
train_cfg.update(max_epochs=max_epochs)
