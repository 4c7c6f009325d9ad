"""model_index.yml: its configs load, its commands are taken, and every figure is the cell of the table that it names."""

import re
import shlex

import pytest
import yaml

from gmscavp.engine.config import load_config
from tests.document_rules import demand
from tests.documents import ROOT, Command

INDEX = yaml.safe_load((ROOT / 'model_index.yml').read_text())
MODELS = INDEX['models']
NAMES = [model['name'] for model in MODELS]


def cell(page, row, column, under=None):
    """The first number in a cell of a Markdown table, under a heading where one is named."""
    text = (ROOT / page).read_text()
    if under:
        text = text[re.search(rf'^#+ {re.escape(under)}$', text, re.MULTILINE).end() :]
    header: list[str] = []
    for line in text.splitlines():
        cells = [part.strip() for part in line.strip().strip('|').split('|')] if line.startswith('|') else []
        if not cells:
            header = []
        elif not header:
            header = cells
        elif cells[0] == row:
            return float(re.search(r'-?[\d.]+', cells[header.index(column)])[0])
    raise AssertionError(f'{page} has no row {row!r}')


def test_names_and_settings_are_whole():
    assert len(set(NAMES)) == len(NAMES)
    for model in MODELS:
        assert set(model) <= {'name', 'config', 'task', 'command', 'training', 'metrics', *INDEX['defaults']}
        whole = INDEX['defaults'] | model
        assert whole['licence'] == 'Apache-2.0'
        assert whole['data']['licence']
        assert whole['metrics'], model['name']
        # A checksum, or the reason why there is none.
        assert re.fullmatch(r'[0-9a-f]{64}', whole['sha256'] or '') if whole['weights'] else whole['reason']


@pytest.mark.parametrize('model', MODELS, ids=NAMES)
def test_config_command_and_figures_hold(model, monkeypatch):
    monkeypatch.chdir(ROOT)
    load_config(ROOT / model['config'])
    demand(Command(ROOT / 'model_index.yml', 1, {}, shlex.split(model['command'])))
    for metric in model['metrics']:
        assert cell(metric['page'], metric['row'], metric['column'], metric.get('under')) == metric['value'], metric


def test_another_figure_is_caught():
    metric = MODELS[0]['metrics'][0]
    assert cell(metric['page'], metric['row'], 'v2a R@1 %') != metric['value']
    with pytest.raises(AssertionError, match='no row'):
        cell(metric['page'], 'no such model', metric['column'])
