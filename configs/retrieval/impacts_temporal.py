"""Impacts, temporal gallery: 256 scenes in groups of 8 with the same objects. When things happen decides.

python tools/test.py CONFIG CHECKPOINT --protocol configs/retrieval/impacts_temporal.py
with --cfg-options data_root=PATH
"""

from mmengine.config import read_base

with read_base():
    from .impacts_semantic import *

test_dataloader['dataset'].update(protocol='Impacts, temporal')
test_dataloader['dataset']['dataset'].update(gallery='temporal')
