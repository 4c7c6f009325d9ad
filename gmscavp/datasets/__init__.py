"""Clips: manifests, decoding, transforms, and one thin class per data set."""

from gmscavp.datasets.base import ClipDataset, ClipFormat
from gmscavp.datasets.decoding import ClipError, MediaInfo, probe, read_clip
from gmscavp.datasets.impacts import Impacts
from gmscavp.datasets.manifest import ClipRecord, Manifest
from gmscavp.datasets.transforms import CentreCrop, CentreWindow, Flip, Gain, RandomWindow, ResizedCrop, SpecMask
from gmscavp.datasets.vggsound import VGGSound
from gmscavp.datasets.video_folder import VideoFolder

__all__ = [
    'CentreCrop',
    'CentreWindow',
    'ClipDataset',
    'ClipError',
    'ClipFormat',
    'ClipRecord',
    'Flip',
    'Gain',
    'Impacts',
    'Manifest',
    'MediaInfo',
    'RandomWindow',
    'ResizedCrop',
    'SpecMask',
    'VGGSound',
    'VideoFolder',
    'probe',
    'read_clip',
]
