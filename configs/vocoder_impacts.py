"""A vocoder for the log-mels of Impacts (64 bands, hop 250): ten minutes on one CPU core.

Other models take its weights by init=dict(vocoder='work_dirs/vocoder_impacts/best_vocoding_mel_distance_epoch_N.pth').
"""

from mmengine.config import read_base

from gmscavp.evaluation.vocoding import VocodingMetric
from gmscavp.models import IstftVocoder, SoundPreprocessor, VocoderTraining

with read_base():
    from ._base_.datasets.impacts import *
    from ._base_.default_runtime import *
    from ._base_.schedules.adamw import *

batch_size = 4
max_epochs = 6
val_interval = 1

# The video is read with the sound and not used: one small picture a clip takes the least time.
clip.update(fps=0.25, size=16)
train_dataloader.update(batch_size=batch_size)
train_dataloader['dataset'].update(clip=clip, transforms=[dict(type=Gain, low_db=-12, high_db=3)])
val_dataloader['dataset'].update(clip=clip, clips=64)

model = dict(
    type=VocoderTraining,
    data_preprocessor=dict(type=SoundPreprocessor, sample_rate=16000, hop=250, bands=64),
    vocoder=dict(type=IstftVocoder, width=128, depth=4, refinements=4),
    window_frames=32,
    # Reading a clip costs as much as training on half a second of it.
    windows_per_clip=4,
    # Mel distance alone would be bought with lines between which nothing is (docs/vocoders.md).
    convergence_weight=0.25,
    log_spectral_weight=8.0,
    mel_weight=10.0,
    resolutions=[(1024, 250), (512, 120)],
)

train_cfg.update(max_epochs=max_epochs, val_interval=val_interval)
optim_wrapper['optimizer'].update(lr=2e-3, betas=(0.8, 0.99), weight_decay=0.01)
default_hooks['checkpoint'].update(save_best='vocoding/mel_distance', rule='less')
val_evaluator = dict(type=VocodingMetric)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
