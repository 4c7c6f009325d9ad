"""The quickstart's run with the head of this folder."""

from mmengine.config import read_base

from projects.debiased_head.debiased_head import DebiasedHead

with read_base():
    from ...configs.gmscavp_impacts import *

model['head'] = dict(type=DebiasedHead, prior=0.05)
