"""Fixtures that all tests may use, and how many examples a property is tried on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from mmengine.config import config
from mmengine.runner import Runner

# The same examples every time, and without a limit for one: a machine that is busy fails no test. GMSCAVP_EXAMPLES=1000
# tries properties harder.
settings.register_profile(
    'gmscavp',
    max_examples=int(os.environ.get('GMSCAVP_EXAMPLES', '25')),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# For benchmarks/mutants.py, which asks whether a test fails, not on what.
settings.register_profile(
    'first_failure', settings.get_profile('gmscavp'), max_examples=10, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile('gmscavp')


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The folder of real clips (clips/, clips.csv): GMSCAVP_REAL_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get('GMSCAVP_REAL_DATA') or Path(__file__).parents[2] / 'shared' / 'data')
    if not (folder / 'clips.csv').is_file():
        pytest.skip(f'no real clips: {folder} has no clips.csv (set GMSCAVP_REAL_DATA)')
    return folder


@pytest.fixture(scope='session', autouse=True)
def _no_ceremony() -> Iterator[None]:
    """What MMEngine does at the start of a run takes longer than the runs of these tests.

    It asks compilers for their versions, and lays out the config for a reader.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, '_log_env', lambda *_: None)
        patch.setattr(config, 'FormatCode', lambda text, **_: (text, False))
        yield
