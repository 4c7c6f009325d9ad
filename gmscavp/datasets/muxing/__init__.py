"""Written films: new sound to a video's own pictures, or new pictures to a sound; what is kept is copied as it is."""

from gmscavp.datasets.muxing.spans import PictureTrack, picture_track, sound_span
from gmscavp.datasets.muxing.writing import add_pictures_to, replace_sound, write_wave

__all__ = ['PictureTrack', 'add_pictures_to', 'picture_track', 'replace_sound', 'sound_span', 'write_wave']
