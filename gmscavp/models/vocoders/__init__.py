"""Vocoders: from the log-mel back to sound."""

from gmscavp.models.vocoders.base import Vocoder

__all__ = ['Vocoder']
