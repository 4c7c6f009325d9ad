"""A vocoder for the sounds of any folder of videos, sized for CPU or one small GPU; mels as in gmscavp_folder.py.

python tools/train.py configs/vocoder_folder.py --cfg-options data_root=PATH
"""

from mmengine.config import read_base

from gmscavp.datasets import Gain
from gmscavp.evaluation.vocoding import VocodingMetric
from gmscavp.models import IstftVocoder, SoundPreprocessor, VocoderTraining

with read_base():
    from ._base_.datasets.folder import *
    from ._base_.default_runtime import *
    from ._base_.schedules.adamw import *

batch_size = 8
max_epochs = 30

# The video is read with the sound and not used: one small picture a clip takes the least time.
train_clip.update(fps=0.5, size=16)
test_clip.update(fps=0.5, size=16)
train_dataloader.update(batch_size=batch_size)
train_dataloader['dataset'].update(clip=train_clip, transforms=[dict(type=Gain, low_db=-12, high_db=6)])
val_dataloader['dataset'].update(clip=test_clip, transforms=[])
test_dataloader = val_dataloader

model = dict(
    type=VocoderTraining,
    data_preprocessor=dict(type=SoundPreprocessor, sample_rate=16000, hop=250, bands=64),
    vocoder=dict(type=IstftVocoder, width=192, depth=6, refinements=4),
    window_frames=32,
    windows_per_clip=2,
    convergence_weight=0.25,
    log_spectral_weight=8.0,
    mel_weight=10.0,
)

train_cfg.update(max_epochs=max_epochs)
optim_wrapper['optimizer'].update(lr=1e-3, betas=(0.8, 0.99), weight_decay=0.01)
default_hooks['checkpoint'].update(save_best='vocoding/mel_distance', rule='less')
val_evaluator = dict(type=VocodingMetric)
test_evaluator = val_evaluator
