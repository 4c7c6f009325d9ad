"""The alignment classifier on Impacts, for guidance: it judges the generator's noisy latents, told how noisy they are.

The latents are the standardised log-mel itself, on the path of rectified flow. Codec and scheduler must be those of the
generator that it is to guide.
"""

from mmengine.config import read_base

from gmscavp.models import MelCodec, RectifiedFlow

with read_base():
    from .align_classifier_impacts import *

model['audio_backbone'] = None
model['codec'] = dict(type=MelCodec, mean=0.36, std=0.12)
model['scheduler'] = dict(type=RectifiedFlow, prediction='x0')
model['latents'] = dict(width=16, strides=[(2, 2), (2, 2), (1, 2)])
