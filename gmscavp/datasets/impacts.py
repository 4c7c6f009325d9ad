"""Impacts, the embedded data set: rendered scenes of bouncing objects, whose sounds are known exactly."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gmscavp.datasets.base import ClipDataset
from gmscavp.datasets.manifest import Manifest
from gmscavp.errors import UserError
from gmscavp.registry import DATASETS

GALLERIES = ('semantic', 'temporal', 'mixed')


@DATASETS.register_module()
class Impacts(ClipDataset):
    """Clips rendered by `tools/prepare_data.py impacts` into `data_root`.

    gallery, for the test split: 'semantic' (all scenes differ), 'temporal' (groups of 8 clips with the same objects and
    other impact times) or 'mixed' (half of each). clips: take so many only, evenly from both halves of 'mixed'.
    """

    def __init__(
        self,
        data_root: str,
        clip: Mapping[str, Any],
        window: Mapping[str, Any],
        transforms: Sequence[Mapping[str, Any]] = (),
        replace_bad: bool = True,
        split: str = 'train',
        gallery: str = 'mixed',
        clips: int | None = None,
    ) -> None:
        root = Path(data_root)
        if not (root / 'manifest.csv').is_file():
            raise UserError(
                f'{root} holds no Impacts; make them with: python tools/prepare_data.py impacts --out {root}'
            )
        if gallery not in GALLERIES:
            raise UserError(f"gallery must be one of {', '.join(GALLERIES)}, not '{gallery}'.")
        rows = Manifest.read(root / 'manifest.csv')
        rows = rows.pick([side == split for side in rows.column('split')])
        if split == 'test':
            rows = rows.pick(_gallery_mask(rows.column('gallery'), gallery, clips))
        elif clips is not None:
            rows = rows.pick(np.arange(len(rows)) < clips)
        super().__init__(rows, root, clip, window, transforms, replace_bad)


def _gallery_mask(kinds: Sequence[str], gallery: str, clips: int | None) -> np.ndarray:
    """Which test clips belong to a gallery of `clips` clips (None: as many of each kind as there are, half for mixed)."""
    column = np.asarray(kinds)
    parts = ('semantic', 'temporal') if gallery == 'mixed' else (gallery,)
    available = min(int((column == part).sum()) for part in parts)
    total = clips if clips is not None else available
    share = total // len(parts)
    if share > available:
        raise UserError(f"gallery '{gallery}' of {total} clips needs {share} of each kind; {available} are rendered.")
    mask = np.zeros(len(column), dtype=bool)
    for part in parts:
        mask[np.flatnonzero(column == part)[:share]] = True
    return mask
