"""Contrastive heads: two pyramids -> losses; one pyramid -> the embedding that retrieval compares."""

from gmscavp.models.heads.base import ContrastiveHead, clip_similarity, unit_tokens
from gmscavp.models.heads.dense import DenseHead, dense_similarity
from gmscavp.models.heads.multi_scale_nce import MultiScaleInfoNCE, semantic_nce, temporal_nce
from gmscavp.models.heads.siglip import SigLIPHead, sigmoid_loss

__all__ = [
    'ContrastiveHead',
    'DenseHead',
    'MultiScaleInfoNCE',
    'SigLIPHead',
    'clip_similarity',
    'dense_similarity',
    'semantic_nce',
    'sigmoid_loss',
    'temporal_nce',
    'unit_tokens',
]
