"""GMS-CAVP on AudioSet with the 8-GPU recipe: bash tools/dist_train.sh configs/gmscavp_audioset.py 8 --amp

What the papers say and what is our choice: as in gmscavp_vggsound.py.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.audioset import *
    from ._base_.default_runtime import *
    from ._base_.models.gmscavp_base import *
    from ._base_.schedules.eight_gpus import *

custom_hooks[0].update(momentum=0.001)
