"""GMS-CAVP on Panda-70M with the 8-GPU recipe: bash tools/dist_train.sh configs/gmscavp_panda70m.py 8 --amp

What the papers say and what is our choice: as in gmscavp_vggsound.py, but for 10 epochs: 2M clips are ten times VGGSound.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.panda70m import *
    from ._base_.default_runtime import *
    from ._base_.models.gmscavp_base import *
    from ._base_.schedules.eight_gpus import *

max_epochs = 10
train_cfg.update(max_epochs=max_epochs, val_interval=1)
custom_hooks[0].update(momentum=0.001)
