"""The vocoder of Impacts with an adversary: noise gets the grain of noise, for about twice the time of training."""

from mmengine.config import read_base
from torch.optim import AdamW

from gmscavp.engine.optim import StepOptimWrapper
from gmscavp.engine.optim_parts import PartsConstructor
from gmscavp.models import SpectrogramDiscriminator

with read_base():
    from .vocoder_impacts import *

model.update(discriminator=dict(type=SpectrogramDiscriminator), adversarial_weight=0.5, feature_weight=1.0)

part = dict(
    type=StepOptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.8, 0.99), weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
)
optim_wrapper = dict(constructor=PartsConstructor, vocoder=part, discriminator=part)
