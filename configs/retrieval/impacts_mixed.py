"""Impacts, mixed gallery: 128 scenes that differ in their objects and 128 that differ, in groups of 8, in time alone.

python tools/test.py CONFIG CHECKPOINT --protocol configs/retrieval/impacts_mixed.py
with --cfg-options data_root=PATH
"""

from mmengine.config import read_base

with read_base():
    from .impacts_semantic import *

test_dataloader['dataset'].update(protocol='Impacts, mixed')
test_dataloader['dataset']['dataset'].update(gallery='mixed')
