"""Video from sound on Impacts: more clips than to pretrain with, and two hours on one CPU core (docs/generation.md).

python tools/prepare_data.py impacts --out data/impacts_6k --train 6144 --test 8
python tools/train.py configs/gmscavp_impacts.py
python tools/train.py configs/frame_autoencoder_impacts.py
python tools/train.py configs/a2v_impacts.py --cfg-options init.codec=work_dirs/frame_autoencoder_impacts/LAST.pth \
    init.audio_backbone=work_dirs/gmscavp_impacts/LAST.pth
python tools/generate.py configs/a2v_impacts.py work_dirs/a2v_impacts --audio IN.wav --out OUT.mp4
"""

from mmengine.config import read_base

from gmscavp.engine.optim import AutocastOptimWrapper

with read_base():
    from ._base_.datasets.impacts import *
    from ._base_.default_runtime import *
    from ._base_.generation import *
    from ._base_.models.a2v_tiny import *
    from ._base_.schedules.adamw import *

batch_size = 8
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.update(batch_size=batch_size)
    loader['dataset']['clip'].update(fps=8)

# Its first 1024 clips are those of data/impacts; none is a test clip.
train_dataloader['dataset'].update(data_root='data/impacts_6k')
val_dataloader['dataset'].update(clips=32)
max_epochs = 10
train_cfg.update(max_epochs=max_epochs, val_interval=5)
# bfloat16: on a CPU that has it a third quicker.
optim_wrapper.update(type=AutocastOptimWrapper)
optim_wrapper['optimizer'].update(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
optim_wrapper['clip_grad'].update(max_norm=1.0)
custom_hooks[0].update(momentum=0.005)

# What is known of the clips; it lies beside them (data_root).
truth = 'data/impacts/events.jsonl'
for evaluator in (val_evaluator, test_evaluator):
    evaluator.update(truth=truth)
# The last checkpoint counts: the clips of validation are also those that are reported.
default_hooks['checkpoint'].update(save_best=None)
