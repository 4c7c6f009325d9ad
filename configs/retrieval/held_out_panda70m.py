"""Panda-70M: 5,000 clips that training never saw, the first in the order of a hash. Ours; nothing published compares.

python tools/test.py CONFIG CHECKPOINT --protocol configs/retrieval/held_out_panda70m.py
with --cfg-options data_root=PATH annotations=PATH

The model sees the window that its config takes, the middle of the clip. All clips of a video are on one side of the split.
"""

from gmscavp.datasets import GallerySubset, Panda70M

data_root = 'data/panda70m/video'
annotations = 'data/panda70m/panda70m_training_2m.csv'

test_dataloader = dict(
    dataset=dict(
        type=GallerySubset,
        protocol='Panda-70M, held out by hash',
        gallery=dict(rule='held_out', count=5000),
        dataset=dict(type=Panda70M, data_root=data_root, annotations=annotations, split='test'),
    ),
)
