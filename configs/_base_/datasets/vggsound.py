"""VGGSound in the paper's setting: 4 s at 4 frames/s, 224 x 224, 16 kHz.

Expects `<youtube id>_<start, 6 digits>.mp4` anywhere below data_root and the official vggsound.csv as annotations.
"""

from mmengine.dataset import DefaultSampler

from gmscavp.datasets import CentreCrop, CentreWindow, Flip, RandomWindow, ResizedCrop, VGGSound
from gmscavp.evaluation.metrics import RetrievalMetric

data_root = 'data/vggsound/video'
annotations = 'data/vggsound/vggsound.csv'
# Files with a VGGSound name that the csv does not list: 'skip', or 'train' to train on them too.
unlisted = 'skip'
batch_size = 90
num_workers = 12

clip = dict(duration_s=4.0, fps=4, size=256, sample_rate=16000, backend='pyav')

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=VGGSound,
        data_root=data_root,
        annotations=annotations,
        unlisted=unlisted,
        split='train',
        clip=clip,
        window=dict(type=RandomWindow),
        transforms=[dict(type=ResizedCrop, size=224), dict(type=Flip)],
    ),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    drop_last=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=VGGSound,
        data_root=data_root,
        annotations=annotations,
        split='test',
        clip=clip,
        window=dict(type=CentreWindow),
        transforms=[dict(type=CentreCrop, size=224)],
        replace_bad=False,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=RetrievalMetric)
test_evaluator = val_evaluator
