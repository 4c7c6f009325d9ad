"""A trained run at work on files: embed and compare them, make sound for a video, make a video for a sound."""

from gmscavp.inference.alignment import Localisation, Synchrony
from gmscavp.inference.embedding import Embeddings, Failure, Similarity
from gmscavp.inference.generation import Frames, Waveforms
from gmscavp.inference.model import Model, load
from gmscavp.inference.sources import Pictures, Sound, Source
from gmscavp.inference.windows import Side, Windows
from gmscavp.inference.writing import write_sound, write_video

__all__ = [
    'Embeddings',
    'Failure',
    'Frames',
    'Localisation',
    'Model',
    'Pictures',
    'Side',
    'Similarity',
    'Sound',
    'Source',
    'Synchrony',
    'Waveforms',
    'Windows',
    'load',
    'write_sound',
    'write_video',
]
