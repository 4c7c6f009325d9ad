"""Which files may answer, as a condition of LanceDB's SQL into which no name can slip a word of its own."""

import math
import re
from dataclasses import dataclass

from gmscavp.errors import UserError


@dataclass(frozen=True)
class Filters:
    """Which files may answer. path, label (any of a file's): patterns with * and ?. Durations of whole files."""

    path: str | None = None
    label: str | None = None
    min_duration_s: float | None = None
    max_duration_s: float | None = None

    def condition(self, modality: str | None = None) -> str:
        """As LanceDB takes it, of windows of one side or of both; '' for all."""
        parts = [f'modality = {quoted(modality)}'] if modality else []
        if self.path is not None:
            parts.append(f'regexp_like(file, {quoted(f"(?s)^{pattern_of(self.path)}$")})')
        if self.label is not None:
            parts.append(f'regexp_like(label, {quoted(f"(?s)(^|;){pattern_of(self.label)}($|;)")})')
        for sign, limit in (('>=', self.min_duration_s), ('<=', self.max_duration_s)):
            if limit is not None:
                if not math.isfinite(limit):
                    raise UserError(f'a duration must be a number of seconds, not {limit}.')
                parts.append(f'duration_s {sign} {float(limit)!r}')
        return ' AND '.join(parts)


def pattern_of(glob: str) -> str:
    """A pattern with * (anything) and ? (one character) as a regular expression, all else by its code point."""
    signs = {'*': '.*', '?': '.'}
    return ''.join(signs.get(c) or (c if re.fullmatch('[A-Za-z0-9]', c) else f'\\x{{{ord(c):x}}}') for c in glob)


def quoted(text: str) -> str:
    """A string of a condition, whatever characters it has."""
    return "'" + text.replace("'", "''") + "'"
