"""GMS-CAVP on VGGSound with the 8-GPU recipe: bash tools/dist_train.sh configs/gmscavp_vggsound.py 8 --amp

From the papers: SlowOnly-R50 and Cnn14; clips of 4 s at 4 frames/s, 224 x 224, 128 mel bins at hop 250; width 512; 720
clips a step (8 x 90), AdamW at 8e-4, betas (.9, .999), weight decay .2, warm-up over 200 steps, cosine decay; contrast and
diffusion at several scales of time and place. Our choice: how both are built, the scales' lengths, all weights of terms,
100 epochs, the moving average. Backbones that are trained already start from files: init (docs/weights.md). Where a GPU's
memory is short: --cfg-options model.video_backbone.gradient_checkpointing=True
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.vggsound import *
    from ._base_.default_runtime import *
    from ._base_.models.gmscavp_base import *
    from ._base_.schedules.eight_gpus import *

# 16 epochs of VGGSound are about 4,000 steps: the average follows more slowly than on small data.
custom_hooks[0].update(momentum=0.001)
