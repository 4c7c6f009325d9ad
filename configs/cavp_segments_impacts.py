"""CAVP on Impacts with its contrast between windows of one video: three windows of 2 s of every clip of 4 s.

The starts are drawn by CAVP's rule, half a second apart or more. As many videos a step, steps and epochs as
cavp_impacts.py; evaluation joins two windows of 2 s, which cover the clip.
"""

from mmengine.config import read_base

from gmscavp.datasets import EvenWindows, SegmentWindows
from gmscavp.models import MultiScaleInfoNCE

with read_base():
    from .cavp_impacts import *

clip = dict(duration_s=2.0, fps=4, size=64, sample_rate=16000, backend='pyav')
train_dataloader['dataset'].update(clip=clip, window=dict(type=SegmentWindows, segments=3, fps=4))
val_dataloader['dataset'].update(clip=clip, window=dict(type=EvenWindows, segments=2))
test_dataloader = val_dataloader
model['head'] = dict(type=MultiScaleInfoNCE, temporal_weight=0.0, segment_weight=1.0)
