"""Sound from video on Impacts: minutes on two CPU cores.

python tools/train.py configs/v2a_impacts.py
python tools/generate.py configs/v2a_impacts.py work_dirs/v2a_impacts --video IN.mp4 --out OUT.mp4
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.impacts import *
    from ._base_.default_runtime import *
    from ._base_.models.v2a_tiny import *
    from ._base_.schedules.adamw import *

# A sound must begin within 50 ms: the frames that retrieval takes, 250 ms apart, are too few.
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader['dataset']['clip'].update(fps=16)
