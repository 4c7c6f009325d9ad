"""Sound from video on Impacts under a pretrained encoder that stays as it is: minutes on one CPU core.

python tools/train.py configs/v2a_frozen_impacts.py --cfg-options \\
    init.video_backbone=work_dirs/gmscavp_impacts/epoch_20.pth init.video_pyramid=work_dirs/gmscavp_impacts/epoch_20.pth

The frames are those of retrieval, 250 ms apart. configs/v2a_impacts.py trains its encoder on four times as many.
"""

from mmengine.config import read_base

with read_base():
    from .v2a_impacts import *

for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader['dataset']['clip'].update(fps=4)
window = 16
dim = 64
model.update(window=window, frozen=True)
model['pyramid'].update(dim=dim, lengths=[16, 8, 4, 2, 1], detail=True)

max_epochs = 10
train_cfg.update(max_epochs=max_epochs, val_interval=max_epochs)
