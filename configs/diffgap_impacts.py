"""DiffGAP on Impacts: CAVP and diffusion of its embeddings, both directions, one half of the batch each."""

from mmengine.config import read_base

from gmscavp.models import MultiScaleDiffusion, RectifiedFlow, TokenTransformer

with read_base():
    from .cavp_impacts import *

model['diffusion'] = dict(
    type=MultiScaleDiffusion,
    scheduler=dict(type=RectifiedFlow),
    denoiser=dict(type=TokenTransformer, width=64, depth=2),
    target='embedding',
    half_batch=True,
    loss_weight=0.1,
)
# Off; to search with translated queries, or to rank the first candidates anew by how well diffusion explains them:
# tools/test.py ... --cfg-options model.translation.weight=0.3 model.rerank.top=10
model.update(translation=dict(weight=0.0, samples=4, steps=10), rerank=dict(top=0, times=8))
