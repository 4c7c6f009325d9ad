"""AdamW with warm-up and cosine decay to the end of training. CAVP's settings but for the learning rate."""

from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.runner import TestLoop, ValLoop
from torch.optim import AdamW

from gmscavp.engine.loop import ExactTrainLoop
from gmscavp.engine.optim import StepOptimWrapper

max_epochs = 20
val_interval = 5

train_cfg = dict(type=ExactTrainLoop, max_epochs=max_epochs, val_interval=val_interval)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)

optim_wrapper = dict(
    type=StepOptimWrapper,
    optimizer=dict(type=AdamW, lr=2e-3, betas=(0.9, 0.999), weight_decay=0.2),
    clip_grad=dict(max_norm=5.0),
    # Decay is for matrices: not for norms, biases and the logit scale.
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'head.log_scale': dict(decay_mult=0.0)}),
)

# A schedule without `end` lasts to the end of training.
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type=CosineAnnealingLR, by_epoch=True, convert_to_iter_based=True, eta_min_ratio=0.01),
]
