"""docs/troubleshooting.md: every sentence that it quotes is one that the code says."""

import ast
import re

import pytest

from tests.documents import ROOT

QUOTED = re.findall(r'^\| "([^"]+)" \|', (ROOT / 'docs/troubleshooting.md').read_text(), re.MULTILINE)


def said_by_code() -> str:
    """All literals of the package, the fixed parts of f-strings joined as they are said, and the scripts' text."""
    found = []
    for file in sorted([*(ROOT / 'gmscavp').rglob('*.py'), *(ROOT / 'tools').glob('*.py')]):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else '{}' for part in node.values]
                found.append(''.join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    found += [file.read_text() for file in (ROOT / 'tools').glob('*.sh')]
    return '\n'.join(found)


@pytest.fixture(scope='module')
def code():
    return said_by_code()


def test_there_are_sentences():
    assert len(QUOTED) == len(set(QUOTED)) > 35


@pytest.mark.parametrize('sentence', QUOTED)
def test_the_code_says_it(sentence, code):
    assert sentence in code
