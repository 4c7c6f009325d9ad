"""P2 on VGGSound: 16 frames against 16 windows of sound, mean of the matched pairs, among 1,545 clips.

python tools/test.py CONFIG CHECKPOINT --protocol configs/retrieval/p2_vggsound.py
with --cfg-options data_root=PATH gallery_file=PATH

What the model sees: 16 windows of 4 s at even distances over the clip (every 0.4 s of 10 s); the sound of each, and beside
it the middle frame of that window as often as the model takes frames. To show the moving pictures instead, which is more
than the published figures had: --cfg-options test_dataloader.dataset.still=None

Published R@1, video to audio / back: CAV-MAE Sync 27.9 / 23.2.
"""

from mmengine.config import read_base

with read_base():
    from .p1_vggsound import *

test_dataloader.update(batch_size=4)
test_dataloader['dataset'].update(protocol='P2 VGGSound', still='window')
test_dataloader['dataset']['dataset'].update(clip=dict(duration_s=4.0))
test_dataloader['dataset']['dataset']['window'].update(segments=16)
