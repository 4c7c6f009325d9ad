"""Where does the sound come from, on Impacts: cells of the picture against the sound, window by window; no diffusion.

Draw it with tools/visualize.py heatmap, measure it with benchmarks/localisation.py.
"""

from mmengine.config import read_base

from gmscavp.models import DenseHead, DensePyramid

with read_base():
    from .gmscavp_impacts import *

# Both stages of the backbone: 8 x 8 cells of 8 pixels, about the size of an object, and what is around them.
model['video_pyramid'] = dict(type=DensePyramid, dim=64, lengths=[16], places='image', grid=8, stages=[0, 1])
model['audio_pyramid'] = dict(type=DensePyramid, dim=64, lengths=[16], places='bands', grid=8)
model['head'] = dict(type=DenseHead)
model['diffusion'] = None
