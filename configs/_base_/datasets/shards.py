"""Shards as tools/prepare_data.py writes them: windows of 4 s at 4 frames/s, 64 x 64, 16 kHz.

Shards of 8, 12, ... frames/s and of any size from 80 pixels on do as well, the sound must be at 16 kHz; `train-*.tar`
trains, `test-*.tar` is evaluated.
"""

from mmengine.config import read_base

from gmscavp.datasets import CentreCrop, CentreWindow, Flip, Gain, RandomWindow, ResizedCrop, Shards, ShardShuffle

with read_base():
    from .loaders import *

data_root = 'data/shards'
batch_size = 32

train_clip = dict(duration_s=4.0, fps=4, size=80, sample_rate=16000)
test_clip = dict(duration_s=4.0, fps=4, size=64, sample_rate=16000)
dataset = dict(type=Shards, data_root=data_root)

# Almost in the order of the files, which disks over a network need; StreamShuffle works as well.
train_dataloader['sampler'] = dict(type=ShardShuffle, window=2048)
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
