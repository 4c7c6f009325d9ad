"""The alignment classifier on Impacts, for measuring generated sound: minutes on one CPU core.

16 frames/s, so that a shift of 0.3 s is five frames. Windows of 2 s, shifts of 0.3 to 2 s.
"""

from mmengine.config import read_base

from gmscavp.evaluation.alignment import AlignmentMetric
from gmscavp.models import AlignmentClassifier, ClipPreprocessor, ConvPyramid, TinyAudioNet, TinyVideoNet

with read_base():
    from ._base_.datasets.impacts import *
    from ._base_.default_runtime import *
    from ._base_.schedules.adamw import *

batch_size = 32
train_dataloader.update(batch_size=batch_size)
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader['dataset']['clip'].update(fps=16)

# Frames of a window, each with its own token.
lengths = [32]
dim = 48

model = dict(
    type=AlignmentClassifier,
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=250, bands=64),
    video_backbone=dict(type=TinyVideoNet, width=8),
    audio_backbone=dict(type=TinyAudioNet, width=16, strides=[(2, 2), (1, 2)]),
    # What a clip shows throughout tells whose sound it is, so that tokens keep it.
    video_pyramid=dict(type=ConvPyramid, dim=dim, lengths=lengths, places='image', grids=[2, 4], detail=False),
    audio_pyramid=dict(type=ConvPyramid, dim=dim, lengths=lengths, places='bands', grids=[8], detail=False),
    window=0.5,
    least_shift_s=0.3,
    step_weight=1.0,
)

max_epochs = 10
train_cfg.update(max_epochs=max_epochs, val_interval=5)
optim_wrapper['optimizer'].update(lr=2e-3, weight_decay=0.05)
param_scheduler[0].update(end=40)

val_evaluator = dict(type=AlignmentMetric)
test_evaluator = val_evaluator
default_hooks['checkpoint'].update(save_best='alignment/accuracy')
# A few hundred steps: the average follows fast.
custom_hooks[0].update(momentum=0.05)
