"""What was seen of damaged media, counted, as tables and as a page."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from faults_media_judge import BAD, ERROR, KINDS, RIGHT, SEEDS, Outcome, Task
from measuring import markdown

Cells = list[list[str]]

LIMITS = """## What no reader could tell

- Samples of a wav, JPEGs, VP9, Opus, AAC and the insides of a frame of H.264 have no checksum: a changed bit is another
  picture or sound, as valid as the first. Shards keep sums, and refuse it. A frame of H.264 that the decoder made up in
  part is refused by pyav; decord and torchcodec do not say so.
- Up to 0.1 s of a window's sound may be missing before it is refused, as tracks end at different moments. WebM keeps no
  list of its frames: pictures lost beside so little sound are a frame that stays, as where the frame rate varies.
- A track of WebM begins with its first block: where that is lost, all later moments are named wrongly, in both tracks.
- What the header says of a sound's rate, a picture's shape or the moments of frames is believed where it can be so.
"""


class Run(NamedTuple):
    """All outcomes of one library. settings: timeout in s, memory in MiB. facts: of the machine when it began."""

    backend: str
    settings: dict[str, float]
    facts: dict[str, str]
    found: list[tuple[Task, Outcome]]

    @classmethod
    def read(cls, file: Path) -> 'Run':
        """From a file of lines; the last may be cut off."""
        lines = file.read_text().split('\n')[:-1]
        settings, facts = json.loads(lines[0])
        found = [(Task(*task), Outcome(*outcome)) for task, outcome in map(json.loads, lines[1:])]
        return cls(file.stem, settings, facts, found)


def tables_of(runs: Sequence[Run]) -> list[tuple[list[str], Cells]]:
    """(heads, lines): kinds by library, by rule and by file, then what was seen of all that needs a look."""
    tables = [
        ([by, 'inputs', *KINDS, 'most MiB', 'longest s'], _counted(runs, by)) for by in ('backend', 'rule', 'seed_file')
    ]
    return [*tables, (['kind', 'seed_file', 'seen', 'inputs'], _reasons(runs))]


def _counted(runs: Sequence[Run], by: str) -> Cells:
    """Counts of every kind: a line for each value of a field of Task."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for run in runs:
        for task, outcome in run.found:
            groups[getattr(task, by)].append(outcome)
    lines = []
    for value, outcomes in groups.items():
        counts = Counter(outcome.kind for outcome in outcomes)
        peak, longest = max(each.peak_mib for each in outcomes), max(each.seconds for each in outcomes)
        numbers = [f'{counts[kind]:,}' for kind in KINDS]
        lines.append([value, f'{len(outcomes):,}', *numbers, f'{peak:,.0f}', f'{longest:.1f}'])
    return lines


def _reasons(runs: Sequence[Run]) -> Cells:
    """What is neither a right clip nor a typed error, numbers left out."""
    counts = Counter(
        (outcome.kind, task.seed_file, re.sub(r'\d[\d.,]*', 'N', outcome.detail))
        for run in runs
        for task, outcome in run.found
        if outcome.kind not in (RIGHT, ERROR)
    )
    return [[*reason, f'{count:,}'] for reason, count in sorted(counts.items(), key=lambda item: -item[1])]


def page_of(runs: Sequence[Run], explained: str) -> str:
    """The page, in Markdown. explained: what is done and what the kinds mean."""
    lines = ['# Damaged media', '', explained.replace('\n  ', '\n    ').strip(), '']
    for run in runs:
        bad = sum(outcome.kind in BAD for _, outcome in run.found)
        facts = ', '.join(f'{name} {text}' for name, text in run.facts.items())
        lines.append(
            f'- {run.backend}: {len(run.found):,} inputs, {bad} of them read wrongly; '
            f'{run.settings["timeout"]:g} s a clip, {run.settings["memory"]} MiB beyond the libraries. {facts}.'
        )
    missing = [backend for backend in SEEDS if backend not in {run.backend for run in runs}]
    if missing:
        lines.append(f'- Not tried: {", ".join(missing)}.')
    lines.append('')
    for head, cells in tables_of(runs):
        lines += [*markdown(head, cells), '']
    lines.append(LIMITS)
    return '\n'.join(lines)
