"""Search in a library: which sound belongs to a video, which video to a sound, and where in the file (docs/search.md)."""

from gmscavp.search.conditions import Filters
from gmscavp.search.embedding import Embedder
from gmscavp.search.layout import About, Known
from gmscavp.search.library import BOTH, Step, Work, carry_out, labels_of, library_store, plan
from gmscavp.search.query import find
from gmscavp.search.scoring import Answer
from gmscavp.search.store import Store, open_store, writing

__all__ = [
    'BOTH',
    'About',
    'Answer',
    'Embedder',
    'Filters',
    'Known',
    'Step',
    'Store',
    'Work',
    'carry_out',
    'find',
    'labels_of',
    'library_store',
    'open_store',
    'plan',
    'writing',
]
