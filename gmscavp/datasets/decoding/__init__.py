"""Files to clips: pictures and sound of the same moments, or one error that says what is wrong with the file."""

from gmscavp.datasets.decoding.clip import BACKENDS, OpenClip, open_clip, read_clip
from gmscavp.datasets.decoding.errors import CAUSES, ClipError
from gmscavp.datasets.decoding.media import MediaInfo, probe

__all__ = ['BACKENDS', 'CAUSES', 'ClipError', 'MediaInfo', 'OpenClip', 'open_clip', 'probe', 'read_clip']
