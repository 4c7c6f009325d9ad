"""Any folder of videos: windows of 2 s at 8 frames/s, 64 x 64, 16 kHz; sized for CPU or one small GPU.

A manifest (csv or parquet) in the folder, or beside it under the folder's name, is used when it is there; its column
`split` decides what trains ('train') and what is evaluated ('test'). Without one, a tenth of the files is evaluated.
"""

from mmengine.dataset import DefaultSampler

from gmscavp.datasets import CentreCrop, CentreWindow, Flip, Gain, RandomWindow, ResizedCrop, VideoFolder
from gmscavp.evaluation.metrics import RetrievalMetric

data_root = 'data/videos'
manifest = None
batch_size = 32
num_workers = 2

train_clip = dict(duration_s=2.0, fps=8, size=80, sample_rate=16000, backend='pyav')
test_clip = dict(duration_s=2.0, fps=8, size=64, sample_rate=16000, backend='pyav')

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=VideoFolder,
        data_root=data_root,
        manifest=manifest,
        split='train',
        clip=train_clip,
        window=dict(type=RandomWindow),
        transforms=[dict(type=ResizedCrop, size=64), dict(type=Flip), dict(type=Gain)],
    ),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    drop_last=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=VideoFolder,
        data_root=data_root,
        manifest=manifest,
        split='test',
        clip=test_clip,
        window=dict(type=CentreWindow),
        transforms=[dict(type=CentreCrop, size=64)],
        replace_bad=False,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=RetrievalMetric)
test_evaluator = val_evaluator
