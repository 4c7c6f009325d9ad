"""The alignment classifier on VGGSound, for measuring sound that v2a_vggsound makes, with the 8-GPU recipe:

bash tools/dist_train.sh configs/align_classifier_vggsound.py 8 --amp --cfg-options init.video_backbone=PRETRAINED.pth \
    init.video_pyramid=PRETRAINED.pth init.audio_backbone=PRETRAINED.pth init.audio_pyramid=PRETRAINED.pth

PRETRAINED is a run of gmscavp_vggsound.py: a window, half of 8.192 s, is as long as its clips. Clips are those of the
generator, at 3.9 frames/s, so that the least shift is two frames, half a second. From the paper (Luo et al. 2023): a
classifier on pretrained video features, wrong pairs by shifts and by other videos. Our choice: all else.
"""

from mmengine.config import read_base

from gmscavp.evaluation.alignment import AlignmentMetric
from gmscavp.models import AlignmentClassifier, ClipPreprocessor, Cnn14, ConvPyramid, SlowOnlyR50

with read_base():
    from ._base_.datasets.vggsound import *
    from ._base_.default_runtime import *
    from ._base_.schedules.eight_gpus import *

batch_size = 32
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.update(batch_size=batch_size)
    loader['dataset']['clip'].update(duration_s=8.192, fps=3.90625)

lengths = [16, 8, 4, 2, 1]
dim = 512

model = dict(
    type=AlignmentClassifier,
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=256, bands=128),
    video_backbone=dict(type=SlowOnlyR50),
    audio_backbone=dict(type=Cnn14, summary=False),
    video_pyramid=dict(type=ConvPyramid, dim=dim, lengths=lengths, places='image', grids=[1, 2, 4]),
    audio_pyramid=dict(type=ConvPyramid, dim=dim, lengths=lengths, places='bands', grids=[1, 2, 4]),
    fusion=dict(width=512, depth=4, heads=8),
    window=0.5,
    least_shift_s=0.3,
    video_frozen=True,
)

max_epochs = 20
train_cfg.update(max_epochs=max_epochs, val_interval=2)
optim_wrapper['optimizer'].update(lr=3e-4, weight_decay=0.05)

val_evaluator = dict(type=AlignmentMetric)
test_evaluator = val_evaluator
default_hooks['checkpoint'].update(save_best='alignment/accuracy')
custom_hooks[0].update(momentum=0.001)
