"""Released weights into ours and back: one table a layout, and what turns one into the other."""

from gmscavp.engine.weights.cavp import CAVP
from gmscavp.engine.weights.conversion import Conversion, guess_layout, refuse_partial, to_ours, to_released, unwrap
from gmscavp.engine.weights.files import file_hash, write_released, write_weights
from gmscavp.engine.weights.layout import Entry, Layout
from gmscavp.engine.weights.panns_cnn14 import PANNS_CNN14
from gmscavp.engine.weights.slowonly_openmmlab import SLOWONLY_OPENMMLAB
from gmscavp.engine.weights.videomae import VIDEOMAE, VIDEOMAE_HF

LAYOUTS = {layout.name: layout for layout in (CAVP, PANNS_CNN14, SLOWONLY_OPENMMLAB, VIDEOMAE, VIDEOMAE_HF)}

__all__ = [
    'LAYOUTS',
    'Conversion',
    'Entry',
    'Layout',
    'file_hash',
    'guess_layout',
    'refuse_partial',
    'to_ours',
    'to_released',
    'unwrap',
    'write_released',
    'write_weights',
]
