"""Impacts: 4 s at 8 frames/s, 64 x 64, 16 kHz; rendered by tools/prepare_data.py impacts."""

from mmengine.dataset import DefaultSampler

from gmscavp.datasets import CentreWindow, Flip, Gain, Impacts
from gmscavp.evaluation.metrics import RetrievalMetric

data_root = 'data/impacts'
batch_size = 48
num_workers = 2

# PyAV opens a file once for both streams (docs/data.md).
clip = dict(duration_s=4.0, fps=8, size=64, sample_rate=16000, backend='pyav')

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=Impacts,
        data_root=data_root,
        split='train',
        clip=clip,
        window=dict(type=CentreWindow),
        transforms=[dict(type=Flip), dict(type=Gain, low_db=-3, high_db=3)],
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=num_workers,
    drop_last=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=Impacts,
        data_root=data_root,
        split='test',
        gallery='mixed',
        clips=256,
        clip=clip,
        window=dict(type=CentreWindow),
        replace_bad=False,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=RetrievalMetric)
test_evaluator = val_evaluator
