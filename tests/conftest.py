"""Fixtures that all tests may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The folder of real clips (clips/, clips.csv): GMSCAVP_REAL_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get('GMSCAVP_REAL_DATA') or Path(__file__).parents[2] / 'shared' / 'data')
    if not (folder / 'clips.csv').is_file():
        pytest.skip(f'no real clips: {folder} has no clips.csv (set GMSCAVP_REAL_DATA)')
    return folder
