"""The config's own data set: up to 1,000 clips of its test split, the first in the order of a hash.

python tools/test.py CONFIG CHECKPOINT --protocol configs/retrieval/held_out_folder.py
with --cfg-options data_root=PATH

The clips are cut as the config says. A folder with fewer clips is tested on all it has, which the report says.
"""

from gmscavp.datasets import GallerySubset

test_dataloader = dict(
    dataset=dict(
        type=GallerySubset,
        protocol='held out by hash',
        gallery=dict(rule='held_out', count=1000),
        min_found=0.0,
        dataset=dict(split='test'),
    ),
)
