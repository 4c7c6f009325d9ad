"""Clips with their labels as numbers, for classifiers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from gmscavp.datasets.manifest import Manifest
from gmscavp.errors import UserError, near_names
from gmscavp.registry import DATASETS


@DATASETS.register_module()
class LabelledClips(Dataset):
    """Another data set's clips, each with `labels` (C,) float32: 1 for every one of `classes` that it has.

    dataset: the data set's config. classes: names, in the order of the classifier's scores. separator: between several
    names in one label ('red disc + blue square'); None where every label is one name. UserError: a label of the data set
    that is none of the classes.
    """

    def __init__(self, dataset: Mapping[str, Any], classes: Sequence[str], separator: str | None = None) -> None:
        self.dataset = DATASETS.build(dict(dataset))
        if not isinstance(getattr(self.dataset, 'manifest', None), Manifest):
            raise UserError(f'labels need a data set with a manifest, which {type(self.dataset).__name__} has not.')
        self.manifest, self.classes = self.dataset.manifest, list(classes)
        numbers = {name: number for number, name in enumerate(classes)}
        self._numbers: dict[str, list[int]] = {}
        columns = (self.manifest.column('clip_id'), self.manifest.column('labels'))
        for clip_id, labels in zip(*columns, strict=True):
            names = [name.strip() for label in labels for name in (label.split(separator) if separator else [label])]
            for name in names:
                if name not in numbers:
                    raise UserError(f"clip {clip_id} has the label '{name}', no class.{near_names(name, numbers)}")
            self._numbers[clip_id] = [numbers[name] for name in names]

    @property
    def metainfo(self) -> dict[str, Any]:
        """What the data set says, and `classes`."""
        return {**getattr(self.dataset, 'metainfo', {}), 'classes': self.classes}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        # A clip that cannot be read may have been replaced by another one.
        sample = self.dataset[index]
        labels = torch.zeros(len(self.classes))
        labels[self._numbers[sample['clip_id']]] = 1
        return {**sample, 'labels': labels}
