"""GMS-CAVP on shards, sized for CPU or one small GPU.

python tools/prepare_data.py ... --shards DIR
python tools/train.py configs/gmscavp_shards.py --cfg-options data_root=DIR
"""

from mmengine.config import read_base

from gmscavp.datasets import SpecMask

with read_base():
    from ._base_.datasets.shards import *
    from ._base_.default_runtime import *
    from ._base_.models.gmscavp_tiny import *
    from ._base_.schedules.adamw import *

max_epochs = 30
train_cfg.update(max_epochs=max_epochs, val_interval=5)
model['data_preprocessor'].update(mel_transforms=[dict(type=SpecMask)])
# The test split is only reported: choosing the checkpoint by it would be tuning on it. The last one counts.
default_hooks['checkpoint'].update(save_best=None)
