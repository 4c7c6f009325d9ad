"""P4 on VGGSound: the whole clip, both directions, nDCG@10 and R@k, among 696 clips.

python tools/test.py CONFIG CHECKPOINT --protocol configs/retrieval/p4_vggsound.py
with --cfg-options data_root=PATH gallery_file=PATH

What the model sees is as in full_vggsound.py. nDCG@10 counts a clip of the same class as relevant (docs/evaluation.md). We
know of no published file with the 696 clip_ids: bring the list, one clip_id a line, as gallery_file.

Published R@1, video to audio / back: PE-AV-large 56.6 / 69.5.
"""

from mmengine.config import read_base

with read_base():
    from .full_vggsound import *

gallery_file = 'data/vggsound/p4_696.txt'

test_dataloader['dataset'].update(protocol='P4 VGGSound', min_found=0.9)
test_dataloader['dataset']['gallery'] = dict(
    rule='list',
    gallery_file=gallery_file,
    published='as 696 clips of VGGSound, without a file of their names, by PE-AV (arXiv 2512.19687)',
)
