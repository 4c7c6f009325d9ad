"""Joint video-audio representation learning: GMS-CAVP as a plug-in framework on PyTorch and MMEngine."""

__version__ = '0.1.0'
