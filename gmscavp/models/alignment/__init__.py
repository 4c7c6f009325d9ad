"""The alignment classifier: do this video and this sound belong together, and are they in time?"""

from gmscavp.models.alignment.classifier import AlignmentClassifier

__all__ = ['AlignmentClassifier']
