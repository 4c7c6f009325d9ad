"""The rules by which a command of the documentation is checked: see test_docs.py."""

import argparse
import configparser
import re
import runpy
import sys
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import pytest

from gmscavp.engine.config import load_config
from gmscavp.engine.protocol import load_with_protocol
from tests.documents import ROOT, Command, all_commands

COMMANDS = all_commands()
OWN = 'configs/gmscavp_impacts.py'
# What stands for something of the reader's.
STAND_INS = {
    'CONFIG': OWN,
    'configs/mine.py': OWN,
    'GPUS': '8',
    'K/N': '1/4',
    'P': 'configs/retrieval/impacts_mixed.py',
}
# Folders of the repository: a path that begins with one of them must be there.
FOLDERS = ('benchmarks', 'configs', 'docs', 'gmscavp', 'projects', 'requirements', 'tests', 'tools')
LAUNCHERS = {'dist_train.sh': 'train.py', 'dist_test.sh': 'test.py', 'slurm_train.sh': 'train.py'}
MODULES = ('coverage', 'http.server', 'mkdocs', 'pip', 'pytest')


class ParsedError(Exception):
    """What the real parser made of a command line; raised in place of what the tool would do next."""

    def __init__(self, parser: argparse.ArgumentParser, found: argparse.Namespace) -> None:
        super().__init__('parsed')
        self.parser, self.found = parser, found


def parse(script: Path, arguments: list[str] | None) -> ParsedError:
    """The tool's own parser on a command line; None is for the parser alone. Raises SystemExit where it refuses."""
    genuine, before = argparse.ArgumentParser.parse_args, (sys.argv, sys.path[:])

    def parse_and_stop(self, args=None, namespace=None):
        raise ParsedError(self, argparse.Namespace() if arguments is None else genuine(self, args, namespace))

    argparse.ArgumentParser.parse_args = parse_and_stop
    sys.argv = [str(script), *(arguments or [])]
    # As Python does for a script: what lies beside it can be imported.
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(str(script), run_name='__main__')
    except ParsedError as parsed:
        return parsed
    finally:
        argparse.ArgumentParser.parse_args = genuine
        sys.argv, sys.path[:] = before
    raise AssertionError(f'{script} parses nothing')


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a parser and of its subcommands."""
    found = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(options_of, action.choices.values()))
    return found


def variants(words: list[str]) -> Iterator[list[str]]:
    """The command lines that are meant: [optional] parts given, each of several|names in turn, own names filled in."""
    bare = [word.strip('[]') if word[0] == '[' or (word[-1] == ']' and '[' not in word) else word for word in words]
    turns = [word.split('|') if re.fullmatch(r'[\w|]+', word) else [word] for word in bare]
    for chosen in product(*turns):
        yield [STAND_INS.get(word, word) for word in chosen]


def made_on(page: Path) -> set[str]:
    """Names of work directories that commands of a page make."""
    lines = [command.words for command in COMMANDS if command.source == page]
    pairs = [pair for words in lines for pair in pairwise(words)]
    return {Path(value).name for option, value in pairs if option in ('--work-dir', '--db')}


def demand_path(value: object, command: Command, output: bool) -> None:
    """A path of the repository exists (the folder of an output), and a work directory is made by something."""
    place = Path(str(value))
    first, *rest = place.parts or ('',)
    if first in FOLDERS and not str(value).startswith('projects/my_'):
        assert (ROOT / (place.parent if output else place)).exists(), f'{command.place}: there is no {value}'
    if first == 'work_dirs' and rest:
        known = (
            {path.stem for path in (ROOT / 'configs').glob('*.py')} | {'run', 'quickstart'} | made_on(command.source)
        )
        assert rest[0] in known, f'{command.place}: nothing makes {value}'


def demand_arguments(script: Path, arguments: list[str], command: Command) -> None:
    """The tool takes the arguments, its config the options, and the paths are there."""
    source = script.read_text()
    if 'ArgumentParser' not in source:
        # Never run to see: it would begin its work.
        assert not arguments or 'sys.argv' in source, f'{command.place}: {script.name} takes no arguments'
        return
    # A subcommand alone only names it, as does an abbreviated command.
    named = len(arguments) == 1 and 'add_subparsers' in source and arguments[0].isalpha()
    if named or '...' in arguments or any('<' in word for word in arguments):
        demand_options(parse(script, None).parser, arguments, command)
        return
    try:
        found = vars(parse(script, arguments).found)
    except SystemExit as refused:
        pytest.fail(f'{command.place}: {script.name} does not take this ({refused})')
    options = found.pop('cfg_options', None) or {}
    config = found.get('config')
    if isinstance(config, str) and script.name != 'convert_checkpoint.py' and not config.startswith('projects/my_'):
        load(config, found.get('protocol'), tuple(options.items()))
    for name, value in found.items():
        for one in value if isinstance(value, list) else [value]:
            demand_path(one, command, output=name in ('out', 'report', 'picture', 'json', 'work_dir'))
    for value in options.values():
        demand_path(value, command, output=False)


def demand_options(parser: argparse.ArgumentParser, words: list[str], command: Command) -> None:
    """An abbreviated command ('...', '<what>') names a subcommand and options that there are."""
    kinds = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    first = words[0]
    if kinds and first != '...' and '<' not in first:
        assert first in kinds[0], f'{command.place}: there is no {first}'
    for option in (word for word in words if word.startswith('--')):
        assert option in options_of(parser), f'{command.place}: there is no option {option}'


LOADED: set[tuple] = set()


def load(config: str, protocol: str | None, options: tuple) -> None:
    """The config loads with these options; each once."""
    if (key := (config, protocol, repr(options))) in LOADED:
        return
    if protocol:
        load_with_protocol(ROOT / config, ROOT / protocol, dict(options))
    else:
        load_config(ROOT / config, dict(options))
    LOADED.add(key)


def demand_pip(words: list[str], command: Command) -> None:
    """pip install with the constraints, and of extras that there are."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    assert words[:3] == ['install', '-c', 'requirements/constraints.txt'], command.place
    for extra in re.findall(r'\[(\w+)\]', ' '.join(words)):
        assert extra in setup['options.extras_require'], f'{command.place}: no extra {extra}'


def demand_script(name: str, words: list[str], command: Command) -> None:
    """A shell script: it is there, knows what is set in front of it, and passes on what its tool takes."""
    script = ROOT / name
    assert script.is_file(), f'{command.place}: there is no {name}'
    text = script.read_text() + (ROOT / 'tools/common.sh').read_text()
    for setting in command.settings:
        assert re.search(rf'\b{setting}\b', text), f'{command.place}: {name} does not read {setting}'
    if script.name not in LAUNCHERS:
        assert all(word in text for word in words if word.startswith('--')), f'{command.place}: not an option of {name}'
        return
    tool = ROOT / 'tools' / LAUNCHERS[script.name]
    if script.name == 'slurm_train.sh':
        assert len(words) >= 3, command.place
        words = words[2:]
    else:
        counted = 2 if script.name == 'dist_test.sh' else 1
        assert words[counted].isdigit(), f'{command.place}: how many processes?'
        words = words[:counted] + words[counted + 1 :]
    demand_arguments(tool, words, command)


def demand(command: Command) -> None:
    """The rule for a command; one that none is for fails."""
    for words in variants(command.words):
        match words:
            case ['source', '.venv/bin/activate'] | ['pre-commit', 'install']:
                pass
            case ['pip', *rest] | ['python' | '.venv/bin/python', '-m', 'pip', *rest]:
                demand_pip(rest, command)
            case ['python' | '.venv/bin/python', '-m', 'gmscavp.webapp', *rest]:
                demand_arguments(ROOT / 'gmscavp/webapp/__main__.py', rest, command)
            case ['python' | '.venv/bin/python', '-m', module, *_]:
                assert module in MODULES, f'{command.place}: no rule for {module}'
            case ['python' | '.venv/bin/python', script, *rest] if script.endswith('.py'):
                assert (ROOT / script).is_file(), f'{command.place}: there is no {script}'
                demand_arguments(ROOT / script, rest, command)
            case ['bash', script, *rest]:
                demand_script(script, rest, command)
            case _:
                pytest.fail(
                    f'{command.place}: no rule knows this command; add one to tests/test_docs.py, or say what the block is '
                    '(```text, ```python) if it is none.'
                )
