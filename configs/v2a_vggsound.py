"""Sound from video on VGGSound, 8.192 s: a rectified-flow transformer under GMS-CAVP's tokens.

bash tools/dist_train.sh configs/v2a_vggsound.py 8 --amp --cfg-options \
    init.video_backbone=PRETRAINED.pth init.video_pyramid=PRETRAINED.pth init.codec=CODEC.pth init.vocoder=VOCODER.pth

PRETRAINED is a run of gmscavp_vggsound.py, CODEC one of mel_autoencoder_vggsound.py, VOCODER one of
vocoder_vggsound.py. What is the ancestor's and what our choice: _base_/models/v2a_base.py; the number of epochs and the
learning rate are ours.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.vggsound import *
    from ._base_.default_runtime import *
    from ._base_.generation import *
    from ._base_.models.v2a_base import *
    from ._base_.schedules.generation import *

batch_size = 32
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.update(batch_size=batch_size)
    # 32 frames in 8.192 s, which are 512 frames of the log-mel.
    loader['dataset']['clip'].update(duration_s=8.192, fps=3.90625)
