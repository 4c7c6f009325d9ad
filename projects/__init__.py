"""Plug-ins outside the core: one folder each."""
