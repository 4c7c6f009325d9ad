"""A vocoder for the log-mels of the paper's setting (128 bands, hop 250), on the sound of VGGSound, with an adversary.

Sized as Siuzdak 2023 (Vocos): 512 channels, 8 blocks, 13 million parameters. Windows of 1 s, 8 GPUs x 32.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from gmscavp.datasets import Gain
from gmscavp.engine.optim import StepOptimWrapper
from gmscavp.engine.optim_parts import PartsConstructor
from gmscavp.evaluation.vocoding import VocodingMetric
from gmscavp.models import IstftVocoder, SoundPreprocessor, SpectrogramDiscriminator, VocoderTraining

with read_base():
    from ._base_.datasets.vggsound import *
    from ._base_.default_runtime import *
    from ._base_.schedules.adamw import *

batch_size = 16
max_epochs = 50

# The video is read with the sound and not used: one small picture a clip takes the least time.
clip.update(fps=0.25, size=16)
train_dataloader.update(batch_size=batch_size)
train_dataloader['dataset'].update(clip=clip, transforms=[dict(type=Gain, low_db=-12, high_db=6)])
val_dataloader['dataset'].update(clip=clip, transforms=[])
test_dataloader = val_dataloader

model = dict(
    type=VocoderTraining,
    data_preprocessor=dict(type=SoundPreprocessor, sample_rate=16000, hop=250, bands=128),
    vocoder=dict(type=IstftVocoder, width=512, depth=8, hidden=1536, refinements=4),
    window_frames=64,
    windows_per_clip=2,
    resolutions=[(2048, 480), (1024, 250), (512, 120), (256, 50)],
    discriminator=dict(type=SpectrogramDiscriminator, width=32, depth=4),
    adversarial_weight=0.5,
    feature_weight=1.0,
)
# Each part is distributed by itself: they take turns within a step.
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')

part = dict(
    type=StepOptimWrapper,
    optimizer=dict(type=AdamW, lr=5e-4, betas=(0.8, 0.99), weight_decay=0.01),
    clip_grad=dict(max_norm=10.0),
)
optim_wrapper = dict(constructor=PartsConstructor, vocoder=part, discriminator=part)
param_scheduler[0].update(end=1000)
train_cfg.update(max_epochs=max_epochs)
default_hooks['checkpoint'].update(save_best='vocoding/mel_distance', rule='less')
val_evaluator = dict(type=VocodingMetric)
test_evaluator = val_evaluator
