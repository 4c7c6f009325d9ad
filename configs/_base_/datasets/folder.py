"""Any folder of videos: windows of 2 s at 8 frames/s, 64 x 64, 16 kHz; sized for CPU or one small GPU.

A manifest (csv or parquet) in the folder, or beside it under the folder's name, is used when it is there; its column
`split` decides what trains ('train') and what is evaluated ('test'). Without one, a tenth of the files is evaluated.
"""

from mmengine.config import read_base

from gmscavp.datasets import CentreCrop, CentreWindow, Flip, Gain, RandomWindow, ResizedCrop, VideoFolder

with read_base():
    from .loaders import *

data_root = 'data/videos'
manifest = None
batch_size = 32

train_clip = dict(duration_s=2.0, fps=8, size=80, sample_rate=16000, backend='pyav')
test_clip = dict(duration_s=2.0, fps=8, size=64, sample_rate=16000, backend='pyav')
dataset = dict(type=VideoFolder, data_root=data_root, manifest=manifest)

train_dataloader.update(
    batch_size=batch_size,
    dataset=dict(
        **dataset,
        split='train',
        clip=train_clip,
        window=dict(type=RandomWindow),
        transforms=[dict(type=ResizedCrop, size=64), dict(type=Flip), dict(type=Gain)],
    ),
)
val_dataloader.update(
    batch_size=batch_size,
    dataset=dict(
        **dataset,
        split='test',
        clip=test_clip,
        window=dict(type=CentreWindow),
        transforms=[dict(type=CentreCrop, size=64)],
        replace_bad=False,
    ),
)
test_dataloader = val_dataloader
