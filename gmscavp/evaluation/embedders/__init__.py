"""Embedders: judge networks whose features and class scores tell generated sound from real."""

from gmscavp.evaluation.embedders.base import Embedder, at_rate
from gmscavp.evaluation.embedders.clap import CLAP
from gmscavp.evaluation.embedders.panns import PANNs
from gmscavp.evaluation.embedders.run import RunEmbedder
from gmscavp.evaluation.embedders.vggish import VGGish

__all__ = ['CLAP', 'Embedder', 'PANNs', 'RunEmbedder', 'VGGish', 'at_rate']
