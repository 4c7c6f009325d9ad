"""Vocoders: from the log-mel back to sound."""

from gmscavp.models.vocoders.base import Vocoder
from gmscavp.models.vocoders.griffin_lim import GriffinLim
from gmscavp.models.vocoders.istft import IstftVocoder

__all__ = ['GriffinLim', 'IstftVocoder', 'Vocoder']
