"""The quickstart's run with the pyramid of this folder, on both sides."""

from mmengine.config import read_base

from projects.laplacian_pyramid.laplacian_pyramid import LaplacianPyramid

with read_base():
    from ...configs.gmscavp_impacts import *

for side in ('video', 'audio'):
    model[f'{side}_pyramid'].update(type=LaplacianPyramid)
