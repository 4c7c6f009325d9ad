"""GMS-CAVP on VGGSound with the 8-GPU recipe: bash tools/dist_train.sh configs/gmscavp_vggsound.py 8

From the papers: clips of 4 s at 4 frames/s, 224 x 224, 128 mel bins at hop 250; 720 clips a step (8 x 90), AdamW at 8e-4,
betas (.9, .999), weight decay .2, warm-up over 200 steps, cosine decay. Our choice: everything else. The backbones are
the small convolutional ones, wider, until SlowOnly-R50 and Cnn14 are here: expect less than the papers' figures.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.vggsound import *
    from ._base_.default_runtime import *
    from ._base_.models.gmscavp_tiny import *
    from ._base_.schedules.adamw import *

max_epochs = 100
train_cfg.update(max_epochs=max_epochs, val_interval=5)
optim_wrapper['optimizer'].update(lr=8e-4)
param_scheduler[0].update(end=200)

model['data_preprocessor'].update(bands=128)
model['video_backbone'].update(width=64, stages=4)
model['audio_backbone'].update(width=64, strides=[(2, 2), (2, 2), (2, 2), (1, 2)])
model['video_pyramid'].update(dim=512)
model['audio_pyramid'].update(dim=512)
model['diffusion']['denoiser'].update(width=512, depth=4, heads=8)
# 16 epochs of VGGSound are about 4,000 steps: the average follows more slowly than on small data.
custom_hooks[0].update(momentum=0.001)
