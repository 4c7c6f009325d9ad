"""What one page serves: up to three models and a library."""

from dataclasses import dataclass
from pathlib import Path

from gmscavp.errors import UserError
from gmscavp.inference import Model
from gmscavp.search import Store, open_store
from gmscavp.search.store import demand_model, has_store


@dataclass(frozen=True)
class Served:
    """run: embeds. generator: makes sound. heat_map: embeds with places. store: the library, below root."""

    run: Model
    generator: Model | None = None
    heat_map: Model | None = None
    store: Store | None = None
    root: Path | None = None


def open_served(
    run: Path,
    generator: Path | None = None,
    heat_map: Path | None = None,
    database: str | None = None,
    root: Path | None = None,
    device: str | None = None,
) -> Served:
    """Load the models and open the database; what is not named is taken from below `run` where it is there.

    UserError: one of them cannot be used, or the database is of another model.
    """
    model = Model.from_run(run, device)
    if not hasattr(model.model, 'head'):
        raise UserError(f'--run {run} is {type(model.model).__name__}, which embeds nothing; give a run of GMSCAVP.')
    maker_path = generator or next((path for path in (run / 'v2a',) if path.is_dir()), None)
    maker = Model.from_run(maker_path, device) if maker_path else None
    if maker is not None:
        maker.demand('v2a')
    dense = Model.from_run(heat_map, device) if heat_map else model
    if heat_map and not hasattr(dense.model.head, 'heat_map'):
        raise UserError(f'--heat-map {heat_map} is no model with DenseHead; train one with configs/dense_impacts.py.')
    uri = database or str(run / 'search')
    # A database that nobody asked for may be missing, and so may the library that reads it.
    store = open_store(uri) if database or (Path(uri).is_dir() and has_store(uri)) else None
    folder = None
    if store is not None:
        demand_model(store, model.identity)
        folder = (root or Path(store.root)).resolve() if root or store.root else None
        if folder is None or not folder.is_dir():
            raise UserError(f'the library of {uri} is not at {folder or "a known place"}; say where with --root.')
    return Served(model, maker, dense if hasattr(dense.model.head, 'heat_map') else None, store, folder)
