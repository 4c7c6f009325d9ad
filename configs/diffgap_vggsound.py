"""DiffGAP on VGGSound with the 8-GPU recipe: bash tools/dist_train.sh configs/diffgap_vggsound.py 8 --amp

From the paper (arXiv 2503.12131): a light diffusion module in the contrastive space, which denoises the embedding of one
modality given that of the other, in both directions, one half of the batch each, beside the contrastive loss. Our choice:
CAVP's encoders, data and optimiser around it, so that the two compare; rectified flow, the transformer, its weight, and the
gradient stopped on what is denoised, without which the embeddings collapse.
"""

from mmengine.config import read_base

from gmscavp.models import MultiScaleDiffusion, RectifiedFlow, TokenTransformer

with read_base():
    from .cavp_vggsound import *

model['diffusion'] = dict(
    type=MultiScaleDiffusion,
    scheduler=dict(type=RectifiedFlow),
    denoiser=dict(type=TokenTransformer, width=512, depth=2, heads=8),
    target='embedding',
    half_batch=True,
    loss_weight=0.1,
)
# Off; to search with translated queries, or to rank the first candidates anew by how well diffusion explains them:
# tools/test.py ... --cfg-options model.translation.weight=0.3 model.rerank.top=10
model.update(translation=dict(weight=0.0, samples=4, steps=10), rerank=dict(top=0, times=8))
