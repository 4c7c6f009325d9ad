"""CAVP on Impacts: one token a clip by maximum over time, no diffusion. The baseline of the quickstart."""

from mmengine.config import read_base

from gmscavp.models import MultiScaleInfoNCE, SingleScale

with read_base():
    from .gmscavp_impacts import *

model['video_pyramid'] = dict(type=SingleScale, dim=64)
model['audio_pyramid'] = dict(type=SingleScale, dim=64)
model['head'] = dict(type=MultiScaleInfoNCE, temporal_weight=0.0)
model['diffusion'] = None
