"""A trained run at work on files: embed them, make sound for a video, make a video for a sound."""

from gmscavp.inference.trained import Embeddings, Frames, Trained, Waveforms, load
from gmscavp.inference.writing import write_sound, write_video

__all__ = ['Embeddings', 'Frames', 'Trained', 'Waveforms', 'load', 'write_sound', 'write_video']
