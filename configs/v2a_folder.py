"""Sound from video on any folder of videos, sized for CPU or one small GPU.

python tools/train.py configs/v2a_folder.py --cfg-options data_root=PATH
"""

from mmengine.config import read_base

from gmscavp.datasets import Flip, ResizedCrop

with read_base():
    from ._base_.datasets.folder import *
    from ._base_.default_runtime import *
    from ._base_.generation import *
    from ._base_.models.v2a_tiny import *
    from ._base_.schedules.adamw import *

# Windows of 2 s at 16 frames/s, half of those that the model is laid out for.
for clip in (train_clip, test_clip):
    clip.update(fps=16)
window = 32
batch_size = 16
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.update(batch_size=batch_size)
    loader['dataset']['clip'].update(fps=16)
train_dataloader['dataset'].update(transforms=[dict(type=ResizedCrop, size=64), dict(type=Flip)])
model.update(window=window, size=[128, 64])
model['pyramid'].update(lengths=[32, 16, 8, 4, 2, 1])
# Of the log-mels of filmed clips; those of Impacts are quieter and more even.
model['codec'].update(mean=0.44, std=0.17)

max_epochs = 60
train_cfg.update(max_epochs=max_epochs, val_interval=10)
optim_wrapper['optimizer'].update(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
optim_wrapper['clip_grad'].update(max_norm=1.0)
custom_hooks[0].update(momentum=0.005)
default_hooks['checkpoint'].update(save_best=None)
