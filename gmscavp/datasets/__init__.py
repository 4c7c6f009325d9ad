"""Clips: manifests, decoding, transforms, and one thin class per data set."""

from gmscavp.datasets.audioset import AudioSet
from gmscavp.datasets.base import ClipDataset, ClipFormat
from gmscavp.datasets.decoding import ClipError, MediaInfo, probe, read_clip
from gmscavp.datasets.gallery import GallerySubset
from gmscavp.datasets.impacts import Impacts
from gmscavp.datasets.labelled import LabelledClips
from gmscavp.datasets.manifest import ClipRecord, Manifest
from gmscavp.datasets.panda70m import Panda70M
from gmscavp.datasets.samplers import StreamShuffle
from gmscavp.datasets.shards import Shards, ShardShuffle, write_shards
from gmscavp.datasets.transforms import (
    CentreCrop,
    CentreWindow,
    EvenWindows,
    Flip,
    Gain,
    RandomWindow,
    ResizedCrop,
    SegmentWindows,
    SpecMask,
)
from gmscavp.datasets.vggsound import VGGSound
from gmscavp.datasets.video_folder import VideoFolder

__all__ = [
    'AudioSet',
    'CentreCrop',
    'CentreWindow',
    'ClipDataset',
    'ClipError',
    'ClipFormat',
    'ClipRecord',
    'EvenWindows',
    'Flip',
    'Gain',
    'GallerySubset',
    'Impacts',
    'LabelledClips',
    'Manifest',
    'MediaInfo',
    'Panda70M',
    'RandomWindow',
    'ResizedCrop',
    'SegmentWindows',
    'ShardShuffle',
    'Shards',
    'SpecMask',
    'StreamShuffle',
    'VGGSound',
    'VideoFolder',
    'probe',
    'read_clip',
    'write_shards',
]
