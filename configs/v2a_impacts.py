"""Sound from video on Impacts, trained from nothing: half an hour on one CPU core.

python tools/train.py configs/v2a_impacts.py
python tools/generate.py configs/v2a_impacts.py work_dirs/v2a_impacts --video IN.mp4 --out OUT.mp4
"""

from mmengine.config import read_base

from gmscavp.datasets import Flip

with read_base():
    from ._base_.datasets.impacts import *
    from ._base_.default_runtime import *
    from ._base_.generation import *
    from ._base_.models.v2a_tiny import *
    from ._base_.schedules.adamw import *

batch_size = 16
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.update(batch_size=batch_size)
    # Retrieval's frames, 250 ms apart, are too few to tell within 50 ms when something sounds.
    loader['dataset']['clip'].update(fps=16)
# The loudness of a sound is to follow from what is seen.
train_dataloader['dataset'].update(transforms=[dict(type=Flip)])

# Sampling takes a while: so many are enough to see whether training goes well; all are tested.
val_dataloader['dataset'].update(clips=32)
max_epochs = 32
train_cfg.update(max_epochs=max_epochs, val_interval=8)
optim_wrapper['optimizer'].update(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
optim_wrapper['clip_grad'].update(max_norm=1.0)
custom_hooks[0].update(momentum=0.005)

# What is known of the clips; it lies beside them (data_root).
truth = 'data/impacts/events.jsonl'
for evaluator in (val_evaluator, test_evaluator):
    evaluator.update(truth=truth)
# The last checkpoint counts: the clips of validation are also those that are reported.
default_hooks['checkpoint'].update(save_best=None)
