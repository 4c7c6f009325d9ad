"""Render IMPACTS, the embedded data set: bouncing objects whose sounds follow from what is seen.

scenes.py draws scenes as numbers, galleries.py sets of scenes, signals.py makes picture and sound,
files.py the data set.
"""

from gmscavp.datasets.impacts_render.files import render_impacts, scene_caption, scene_label, scene_truth
from gmscavp.datasets.impacts_render.galleries import make_scenes
from gmscavp.datasets.impacts_render.scenes import Difficulty, Scene
from gmscavp.datasets.impacts_render.signals import render_scene

__all__ = [
    'Difficulty',
    'Scene',
    'make_scenes',
    'render_impacts',
    'render_scene',
    'scene_caption',
    'scene_label',
    'scene_truth',
]
