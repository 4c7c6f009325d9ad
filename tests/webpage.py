"""A page with small untrained models and a library of four videos, served for tests, and a browser to use it with."""

import contextlib
import shutil
import time
from pathlib import Path

import pytest
import torch

from gmscavp.engine.config import load_config
from gmscavp.inference import Model, load
from gmscavp.registry import MODELS
from gmscavp.search import carry_out, library_store, plan
from gmscavp.webapp.served import Served
from tests.generating import StandInGenerator, write_run
from tests.media import click, moving, write_media

ROOT = Path(__file__).parents[1]
OPTIONS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-first-run',
    '--no-proxy-server',
]
WIDE, PHONE = dict(width=1280, height=900), dict(width=390, height=844)
SLOW = 60
"""From so many steps on the generator takes its time, so that it can be stopped."""


def untrained(config):
    """A model as it begins."""
    settings = load_config(ROOT / 'configs' / config)
    torch.manual_seed(0)
    return Model(MODELS.build(settings.model).eval(), settings, Path('untrained.pth'), torch.device('cpu'))


def served_from(folder):
    """Models, and an indexed library below folder/library."""
    root = folder / 'library'
    root.mkdir()
    for number in range(4):
        hits = [0.5 + 0.7 * number, 3.2]
        write_media(root / f'clip "{number}" <b>.mp4', moving((64, 64), 1.0 + number), click(hits), fps=16)
    model = untrained('gmscavp_impacts.py')
    store = library_store(str(folder / 'db'), model, root, 2.0, ('video', 'audio'))
    assert {step.state for step in carry_out(plan(store, root), store, model, root)} == {'added'}
    maker = load(*write_run(folder), device='cpu')
    maker.model.generate = _slowly(maker.model)
    return Served(model, maker, untrained('dense_impacts.py'), store, root)


def _slowly(model: StandInGenerator):
    generate = model.generate

    def slow(signal, settings, noise=None, progress=None, samples=1):
        def told(done, total):
            progress(done, total)
            time.sleep(0.2 if total >= SLOW else 0)

        return generate(signal, settings, noise, told, samples)

    return slow


@contextlib.contextmanager
def chromium():
    """A browser without a window; the test is skipped where there is none."""
    playwright = pytest.importorskip('playwright.sync_api', reason='needs playwright: pip install "gmscavp[test]"')
    found = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if found is None:
        pytest.skip('no chromium on this machine (apt-get install chromium)')
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=OPTIONS)
        yield browser
        browser.close()
