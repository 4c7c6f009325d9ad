"""Pictures of clips, similarities and training curves: NumPy arrays in, pixels or SVG text out.

A picture is (H, W, 3) uint8, RGB. Nothing here touches pyplot, a display or a file.
"""

from gmscavp.pictures.curves import Curve, curves_picture
from gmscavp.pictures.overlay import heat_overlay, overlay_limits
from gmscavp.pictures.pixels import (
    PICTURE_CELLS,
    contact_sheet,
    film_strip,
    gif_bytes,
    heat_limits,
    heat_picture,
    jpeg_bytes,
    mel_picture,
    png_bytes,
    similarity_picture,
)
from gmscavp.pictures.plots import plane_picture, runs_picture, timeline_picture

__all__ = [
    'PICTURE_CELLS',
    'Curve',
    'contact_sheet',
    'curves_picture',
    'film_strip',
    'gif_bytes',
    'heat_limits',
    'heat_overlay',
    'heat_picture',
    'jpeg_bytes',
    'mel_picture',
    'overlay_limits',
    'plane_picture',
    'png_bytes',
    'runs_picture',
    'similarity_picture',
    'timeline_picture',
]
