"""Docstrings here are prose with shapes, not Markdown; mkdocs.yml has Griffe load this before they are rendered."""

import re

from griffe import Extension, Object

# What Markdown would take for emphasis, a tag or a link: (B, C, *places), L_s, <data set>, [(B, L, D)].
_MARKS = re.compile(r'([*_\[\]])')


def plain(text: str) -> str:
    """The docstring with its marks escaped, but for what stands in backticks or is indented as code."""
    lines = []
    for line in text.splitlines():
        if line.startswith('    '):
            lines.append(line)
        else:
            parts = line.split('`')
            # Markdown has no escape for '<'.
            parts[::2] = [_MARKS.sub(r'\\\1', part).replace('<', '&lt;') for part in parts[::2]]
            lines.append('`'.join(parts))
    return '\n'.join(lines)


class PlainDocstrings(Extension):
    """Escapes the docstring of everything that is loaded."""

    def on_object(self, *, obj: Object, **kwargs: object) -> None:
        """Called by Griffe for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)
