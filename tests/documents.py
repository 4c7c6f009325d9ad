"""What the documentation says, taken apart: fenced blocks, commands, links."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'SECURITY.md']
    + [page for folder in ('docs', 'projects') for page in (ROOT / folder).rglob('*.md')]
)
CODE = sorted(
    file for folder in ('configs', 'projects', 'tools', 'benchmarks') for file in (ROOT / folder).rglob('*.py')
)
# A fence without a language is one of the shell: whoever means something else says so (```text).
SHELL = ('', 'bash', 'sh', 'console')
_FENCE = re.compile(r'^( *)```([\w-]*)[^\n]*\n(.*?)^\1```', re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r'(?<!`)`((?:[A-Z_]+=\S+ )*(?:python|bash|\.venv/bin/python|pip) [^`]+)`(?!`)')
_IN_CODE = re.compile(r'(?:^|[ `(])((?:[A-Z_]+=\S+ )*(?:python|bash) (?:tools|benchmarks)/[^`\n]+)', re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: where it stands, its language ('' for none) and its text."""

    page: Path
    line: int
    language: str
    text: str


class Command(NamedTuple):
    """One command line: where it stands, what is set in front of it, and its words."""

    source: Path
    line: int
    settings: dict[str, str]
    words: list[str]

    @property
    def place(self) -> str:
        return f'{self.source.relative_to(ROOT)}:{self.line} {shlex.join(self.words)}'


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text()
    return [
        Block(page, text.count('\n', 0, found.start()) + 1, found[2], _without_indent(found[3], found[1]))
        for found in _FENCE.finditer(text)
    ]


def python_blocks(page: Path) -> list[str]:
    """The Python of a page, block by block."""
    return [block.text for block in blocks(page) if block.language == 'python']


def _without_indent(text: str, indent: str) -> str:
    return '\n'.join(line.removeprefix(indent) for line in text.splitlines()) + '\n'


def commands_of(page: Path) -> list[Command]:
    """Every command of a page: the lines of its shell blocks, and what stands as a command within the text."""
    found = []
    for block in blocks(page):
        if block.language in SHELL:
            found += list(_lines(page, block.line + 1, block.text))
    prose = _FENCE.sub(lambda fence: '\n' * fence[0].count('\n'), page.read_text())
    for inline in _INLINE.finditer(prose):
        line = prose.count('\n', 0, inline.start()) + 1
        text = ' '.join(inline[1].split()).replace(r'\|', '|')
        found += list(_lines(page, line, text))
    return found


def commands_in_code(file: Path) -> list[Command]:
    """Commands in the docstring at the head of a file."""
    docstring = re.match(r'(?:#![^\n]*\n)?[ru]?"""(.*?)"""', file.read_text(), re.DOTALL)
    if not docstring:
        return []
    text = re.sub(r'\\\\?\n\s*', '', docstring[1])
    found = []
    for shown in _IN_CODE.finditer(text):
        # Two spaces or more set off a remark.
        words = re.split(r' {2,}', shown[1].strip())[0]
        found += list(_lines(file, text.count('\n', 0, shown.start()) + 1, words))
    return found


def _lines(source: Path, first: int, text: str) -> Iterator[Command]:
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        begin, line = number, lines[number]
        while line.endswith('\\') and number + 1 < len(lines):
            number += 1
            line = line[:-1] + lines[number].strip()
        number += 1
        words = shlex.split(line.removeprefix('$ '), comments=True)
        settings = {}
        while words and re.fullmatch(r'[A-Z_]+=.*', words[0]):
            name, _, value = words.pop(0).partition('=')
            settings[name] = value
        if words:
            yield Command(source, first + begin, settings, words)


def all_commands() -> list[Command]:
    """Of all pages, of configs, projects, tools and benchmarks."""
    found = [command for page in PAGES for command in commands_of(page)]
    return found + [command for file in CODE for command in commands_in_code(file)]
