"""A codec of the log-mel, trained on VGGSound: bash tools/dist_train.sh configs/mel_autoencoder_vggsound.py 8

What is the ancestor's and what our choice: _base_/models/mel_autoencoder_base.py; batch, learning rate and epochs are
ours. v2a_vggsound.py starts from it with init.codec=CHECKPOINT.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.vggsound import *
    from ._base_.default_runtime import *
    from ._base_.models.mel_autoencoder_base import *
    from ._base_.schedules.autoencoder import *

val_evaluator = reconstruction
test_evaluator = reconstruction
default_hooks['checkpoint'].update(**best_reconstruction)

# 512 frames of the log-mel. The sound is all that counts: one small picture a clip is read.
batch_size = 16
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.update(batch_size=batch_size)
    loader['dataset']['clip'].update(duration_s=8.192, fps=0.125, size=8)
    loader['dataset']['transforms'] = []

max_epochs = 20
train_cfg.update(max_epochs=max_epochs)
optim_wrapper['optimizer'].update(lr=5e-4)
param_scheduler[0].update(end=500)
# Validations are few and epochs long: the average follows more slowly than on small data.
custom_hooks[0].update(momentum=0.001)
