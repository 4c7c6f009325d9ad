"""Panda-70M in the paper's setting: 4 s at 4 frames/s, 224 x 224, 16 kHz; 8 GPUs x 90 = 720 clips a step.

Expects whole videos `<video id>.mp4`, clips `<video id>_<number>.mp4`, or what the data set's own download tool wrote with
its json files, anywhere below data_root, and one of the csv files as they are distributed. After tools/prepare_data.py
panda70m, train from its manifest instead: _base_/datasets/folder.py with data_root and manifest.
"""

from mmengine.config import read_base

from gmscavp.datasets import CentreCrop, CentreWindow, Flip, Panda70M, RandomWindow, ResizedCrop

with read_base():
    from .loaders import *

data_root = 'data/panda70m/video'
annotations = 'data/panda70m/panda70m_training_2m.csv'
# Of the videos, chosen by a hash of their id: with all clips of a video, what is evaluated and never trained on.
test_share = 0.001
# The least matching score of caption and clip; the csv files of 2M and 10M clips hold only scores above 0.43.
min_score = 0.0
# Only clips that the csv calls desirable (its newer versions do).
desirable_only = False
batch_size = 90
num_workers = 12

clip = dict(duration_s=4.0, fps=4, size=256, sample_rate=16000, backend='pyav')
dataset = dict(
    type=Panda70M,
    data_root=data_root,
    annotations=annotations,
    test_share=test_share,
    min_score=min_score,
    desirable_only=desirable_only,
    clip=clip,
)

train_dataloader.update(
    batch_size=batch_size,
    num_workers=num_workers,
    pin_memory=True,
    dataset=dict(
        **dataset,
        split='train',
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
