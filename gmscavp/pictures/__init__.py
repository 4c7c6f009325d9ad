"""Pictures of clips, similarities and training curves: NumPy arrays in, pixels or SVG text out.

A picture is (H, W, 3) uint8, RGB. Nothing here touches pyplot, a display or a file.
"""

from gmscavp.pictures.curves import Curve, curves_picture
from gmscavp.pictures.pixels import (
    contact_sheet,
    film_strip,
    heat_limits,
    heat_picture,
    jpeg_bytes,
    mel_picture,
    png_bytes,
    similarity_picture,
)

__all__ = [
    'Curve',
    'contact_sheet',
    'curves_picture',
    'film_strip',
    'heat_limits',
    'heat_picture',
    'jpeg_bytes',
    'mel_picture',
    'png_bytes',
    'similarity_picture',
]
