"""VGGSound in the paper's setting: 4 s at 4 frames/s, 224 x 224, 16 kHz.

Expects `<youtube id>_<start, 6 digits>.mp4` anywhere below data_root and the official vggsound.csv as annotations.
"""

from mmengine.config import read_base

from gmscavp.datasets import CentreCrop, CentreWindow, Flip, RandomWindow, ResizedCrop, VGGSound

with read_base():
    from .loaders import *

data_root = 'data/vggsound/video'
annotations = 'data/vggsound/vggsound.csv'
# Files with a VGGSound name that the csv does not list: 'skip', or 'train' to train on them too.
unlisted = 'skip'
batch_size = 90
num_workers = 12

clip = dict(duration_s=4.0, fps=4, size=256, sample_rate=16000, backend='pyav')
dataset = dict(type=VGGSound, data_root=data_root, annotations=annotations, clip=clip)

train_dataloader.update(
    batch_size=batch_size,
    num_workers=num_workers,
    pin_memory=True,
    dataset=dict(
        **dataset,
        split='train',
        unlisted=unlisted,
        window=dict(type=RandomWindow),
        transforms=[dict(type=ResizedCrop, size=224), dict(type=Flip)],
    ),
)
val_dataloader.update(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(
        **dataset,
        split='test',
        window=dict(type=CentreWindow),
        transforms=[dict(type=CentreCrop, size=224)],
        replace_bad=False,
    ),
)
test_dataloader = val_dataloader
