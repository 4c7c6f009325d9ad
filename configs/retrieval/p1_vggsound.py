"""P1 on VGGSound: one middle frame against the sound of 10 s, among 1,545 clips (5 of each of 309 classes).

python tools/test.py CONFIG CHECKPOINT --protocol configs/retrieval/p1_vggsound.py
with --cfg-options data_root=PATH gallery_file=PATH

What a model of 4 s sees (our choice): the sound in three windows of its own length that cover the 10 s (0-4, 3-7, 6-10 s),
and in each the same frame, the middle one of the clip, as often as it takes frames. The score of a pair is the mean over
the windows. So every backbone gets the shapes it was trained on. Tokens that say when things happen see a still picture:
look at the scales by themselves too.

Published R@1, video to audio / back: CAV-MAE 14.8 / 12.8, TG-DP 31.3 / 30.3.
"""

from mmengine.config import read_base

with read_base():
    from .full_vggsound import *

gallery_file = 'data/vggsound/vgg_test_5_per_class_for_retrieval_template.json'

test_dataloader['dataset'].update(protocol='P1 VGGSound', still='clip', min_found=0.9)
test_dataloader['dataset']['gallery'] = dict(
    rule='list',
    gallery_file=gallery_file,
    published='the VGGSound retrieval subset (5 clips a class) in the data lists of github.com/YuanGongND/cav-mae',
)
