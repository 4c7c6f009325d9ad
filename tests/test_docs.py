"""Every command of README.md, CONTRIBUTING.md, docs/, projects/*/README.md and the heads of configs and tools holds.

All, some 230, are parsed: the program exists, its own parser takes the options, configs load with the --cfg-options given,
and every path of the repository that is named exists, a work directory being that of some config or command. A command that
no rule knows fails. The nine of RUN are run besides, in a folder with links to the repository and a few rendered clips, at
sizes that make a run of hours one of seconds: data, training, evaluation, generation, pictures. Not run is what takes a
GPU, several machines, released weights or the data sets of the papers, and the benchmarks.

Python on the pages compiles and imports names that there are. What is a config is executed on top of the quickstart's and
checked as configs are; docs/generation.md runs with a stand-in for the model, docs/plugins.md in test_plugin_pages.py.
"""

import ast
import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from gmscavp.engine.config import check_config, load_config
from gmscavp.errors import UserError
from tests.document_rules import COMMANDS, OWN, demand
from tests.documents import PAGES, ROOT, SHELL, Block, Command, blocks
from tests.engine.test_tools import SMALL
from tests.generating import write_run
from tests.media import flash, sine, write_media
from tests.running import forget_runs

TINY = ['max_epochs=1', *(option for option in SMALL if option != 'max_epochs=2')]
FOLDER = [option for option in TINY if 'clip' not in option]
# The command as it stands -> what is added to it. In this order: later ones use what earlier ones made.
RUN: dict[str, list[str]] = {
    'python tools/prepare_data.py impacts': ['--train', '12', '--test', '8', '--workers', '1'],
    'python tools/print_config.py CONFIG': [],
    'python tools/browse_dataset.py CONFIG --out sheet.png': ['--num', '2'],
    'python tools/train.py configs/gmscavp_impacts.py': ['--cfg-options', *TINY],
    'python tools/test.py configs/gmscavp_impacts.py work_dirs/gmscavp_impacts --out metrics.json --report report.html': [
        *('--cfg-options', *TINY),
    ],
    'python tools/export_checkpoint.py FOLDER --out FILE.safetensors': [],
    'python tools/train.py configs/gmscavp_folder.py --cfg-options data_root=PATH/TO/VIDEOS': FOLDER,
    'python tools/test.py configs/gmscavp_folder.py work_dirs/gmscavp_folder --report report.html '
    '--cfg-options data_root=PATH/TO/VIDEOS': FOLDER,
    'python tools/generate.py CONFIG CHECKPOINT --video in.mp4 --out out.mp4': ['--device', 'cpu'],
}  # fmt: skip
RUN_PLACES = {'CONFIG': OWN, 'FOLDER': 'work_dirs/gmscavp_impacts'}
# A generator whose network is a formula stands in for hours of training.
GENERATOR_PLACES = {'CONFIG': 'run.py', 'CHECKPOINT': 'run.pth'}


def test_every_command_is_taken_by_its_tool(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(COMMANDS) > 150
    for command in COMMANDS:
        demand(command)


@pytest.mark.parametrize(
    'line',
    [
        'python tools/train.py configs/no_such.py',
        'python tools/train.py configs/gmscavp_impacts.py --cfg-options model.haed.temporal_weight=1',
        'python tools/train.py configs/gmscavp_impacts.py --workdir x',
        'python tools/test.py configs/gmscavp_impacts.py work_dirs/nowhere',
        'python tools/no_such.py',
        'python tools/visualize.py no_such ...',
        'python tools/prepare_data.py folder ... --no-such x',
        'bash tools/dist_train.sh configs/gmscavp_impacts.py',
        'NO_SUCH=1 bash tools/dist_train.sh configs/gmscavp_impacts.py 8',
        'pip install gmscavp',
        "pip install -c requirements/constraints.txt -e '.[nosuch]'",
        'curl example.com',
    ],
)
def test_a_wrong_command_is_caught(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)
    settings = {'NO_SUCH': '1'} if words[0] == 'NO_SUCH=1' else {}
    with pytest.raises((Exception, pytest.fail.Exception)):
        demand(Command(ROOT / 'README.md', 1, settings, words[len(settings) :]))


@pytest.fixture(scope='module')
def sandbox(tmp_path_factory):
    """A folder that looks like the repository to a command, in which what commands write stays."""
    root = tmp_path_factory.mktemp('checkout')
    for name in ('configs', 'docs', 'projects', 'tools'):
        (root / name).symlink_to(ROOT / name)
    (root / 'PATH/TO').mkdir(parents=True)
    (root / 'PATH/TO/VIDEOS').symlink_to(root / 'data/impacts')
    return root


def run_tool(words: list[str]) -> int:
    """Run a tool in this process, as a user would, in the current folder: its exit code."""
    forget_runs()
    before = sys.argv, sys.path[:]
    sys.argv = words
    try:
        runpy.run_path(str(ROOT / words[0]), run_name='__main__')
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.argv, sys.path[:] = before
    return 0


def test_commands_run_one_after_another(sandbox, monkeypatch, capfd):
    monkeypatch.chdir(sandbox)
    written = {shlex.join(words) for command in COMMANDS for words in [command.words]}
    for line, more in RUN.items():
        assert line in written, f'no page has: {line}'
        places = GENERATOR_PLACES if 'generate.py' in line else RUN_PLACES
        words = [places.get(word, word) for word in shlex.split(line)[1:]]
        if 'in.mp4' in words:
            write_run(sandbox)
            Path('in.mp4').symlink_to(next(Path('data/impacts').rglob('*.mp4')).absolute())
        assert run_tool([*words, *more]) == 0, f'{line}\n{capfd.readouterr().err[-2000:]}'
    made = ('sheet.png', 'metrics.json', 'report.html', 'FILE.safetensors', 'out.mp4')
    assert all(Path(name).stat().st_size > 100 for name in made)


PYTHON = [block for page in PAGES for block in blocks(page) if block.language == 'python']
# What is run elsewhere, or needs more than a config: plug-ins (test_plugin_pages.py), trained models.
NOT_SETTINGS = ('docs/plugins.md', 'projects/README.md', 'docs/alignment.md', 'docs/inference.md', 'docs/search.md')
WITH_MODELS = ('gmscavp.inference', 'gmscavp.search')


def name_of(block: Block) -> str:
    return f'{block.page.relative_to(ROOT)}:{block.line}'


@pytest.mark.parametrize('block', PYTHON, ids=name_of)
def test_python_compiles_and_imports_what_there_is(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split('.')[0] == 'gmscavp':
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f'{node.module} has no {name.name}'


def is_of_settings(block: Block) -> bool:
    return str(block.page.relative_to(ROOT)) not in NOT_SETTINGS and not any(name in block.text for name in WITH_MODELS)


@pytest.mark.parametrize('block', filter(is_of_settings, PYTHON), ids=name_of)
def test_settings_are_those_that_something_reads(block):
    """Executed on top of the quickstart's config, whose check then finds keys that nothing reads."""
    config = load_config(ROOT / OWN)
    text = re.sub(r'with read_base\(\):\n(?: +.*\n)+', '', block.text)
    names = dict(vars(importlib.import_module('gmscavp.models'))) | dict(config.items())
    exec(compile(text, name_of(block), 'exec'), names)
    said = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    settings = {name: names[name] for name in said if isinstance(names.get(name), dict | list)}
    assert settings
    check_config(Config(settings))


def test_a_setting_that_nothing_reads_is_caught():
    block = Block(ROOT / 'README.md', 1, 'python', "model['head'].update(temporal_wieght=0.2)\n")
    with pytest.raises(UserError, match='temporal_weight'):
        test_settings_are_those_that_something_reads(block)


def test_inference_runs_as_the_page_has_it(tmp_path, monkeypatch):
    text = next(block.text for block in PYTHON if block.page.name == 'generation.md')
    config, checkpoint = write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_media(tmp_path / 'in.mp4', flash([1.0]), sine(440), duration_s=4.0, fps=8)
    text = text.replace('configs/v2a_impacts.py', str(config)).replace('work_dirs/v2a_impacts', str(checkpoint))
    exec(compile(text, 'docs/generation.md', 'exec'), {})
    assert (tmp_path / 'out.mp4').stat().st_size > 1000


def test_every_block_says_what_it_is():
    languages = {block.language for page in PAGES for block in blocks(page)}
    assert languages <= {*SHELL, 'python', 'text', 'json', 'yaml', 'html', 'csv', 'ini', 'toml'}
