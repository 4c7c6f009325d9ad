"""Contrastive heads: two pyramids -> losses; one pyramid -> the embedding that retrieval compares."""

from gmscavp.models.heads.base import ContrastiveHead, clip_similarity, unit_tokens
from gmscavp.models.heads.multi_scale_nce import MultiScaleInfoNCE, semantic_nce, temporal_nce

__all__ = ['ContrastiveHead', 'MultiScaleInfoNCE', 'clip_similarity', 'semantic_nce', 'temporal_nce', 'unit_tokens']
