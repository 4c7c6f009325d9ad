"""Impacts: 4 s at 4 frames/s as in the paper, 64 x 64, 16 kHz; rendered by tools/prepare_data.py impacts."""

from mmengine.config import read_base

from gmscavp.datasets import CentreWindow, Flip, Gain, Impacts

with read_base():
    from .loaders import *

data_root = 'data/impacts'
batch_size = 48

# PyAV opens a file once for both streams (docs/data.md).
clip = dict(duration_s=4.0, fps=4, size=64, sample_rate=16000, backend='pyav')
dataset = dict(type=Impacts, data_root=data_root, clip=clip, window=dict(type=CentreWindow))

train_dataloader.update(
    batch_size=batch_size,
    dataset=dict(**dataset, split='train', transforms=[dict(type=Flip), dict(type=Gain, low_db=-3, high_db=3)]),
)
val_dataloader.update(
    batch_size=32,
    dataset=dict(**dataset, split='test', gallery='mixed', clips=256, replace_bad=False),
)
test_dataloader = val_dataloader
