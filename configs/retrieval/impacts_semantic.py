"""Impacts, semantic gallery: 256 scenes that all differ in their objects. What things are decides.

python tools/test.py CONFIG CHECKPOINT --protocol configs/retrieval/impacts_semantic.py
with --cfg-options data_root=PATH
"""

from gmscavp.datasets import CentreWindow, GallerySubset, Impacts

data_root = 'data/impacts'

test_dataloader = dict(
    dataset=dict(
        type=GallerySubset,
        protocol='Impacts, semantic',
        gallery=dict(rule='all'),
        dataset=dict(
            type=Impacts,
            data_root=data_root,
            split='test',
            gallery='semantic',
            clips=256,
            window=dict(type=CentreWindow),
        ),
    ),
)
