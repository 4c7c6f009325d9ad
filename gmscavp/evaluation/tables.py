"""The figures as rows of words, for the terminal and for the page alike."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gmscavp.evaluation.retrieval import DIRECTIONS, RECALLS

WAYS = {'v2a': 'video → audio', 'a2v': 'audio → video'}
COLUMNS = {
    'R1': 'R@1',
    'R5': 'R@5',
    'R10': 'R@10',
    'MedR': 'MedR',
    'MeanR': 'MeanR',
    'mAP': 'mAP',
    'nDCG10': 'nDCG@10',
}
_BY_CLASS = ('mAP', 'nDCG10')


class Table(NamedTuple):
    """headings: of all columns. rows: (name, cells), a cell for every heading but the first."""

    headings: list[str]
    rows: list[tuple[str, list[str]]]


def plain_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without MMEngine's prefix: 'retrieval/v2a_R1' -> 'v2a_R1'."""
    return {name.removeprefix('retrieval/'): value for name, value in metrics.items()}


def number(value: float) -> str:
    """One decimal, two where one would leave a single digit; a dash for what was not measured."""
    if math.isnan(value):
        return '–'
    return f'{value:.2f}' if abs(value) < 1 and value else f'{value:.1f}'


def figures_table(metrics: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> Table:
    """Both directions and chance; R@1 with its interval; mAP and nDCG where they were measured. All but ranks in percent.

    metrics: plain names. By chance the right match stands in the middle of the gallery.
    """
    names = [name for name in COLUMNS if name not in _BY_CLASS or f'v2a_{name}' in metrics]
    rows = []
    for way, label in WAYS.items():
        cells = [number(metrics.get(f'{way}_{name}', math.nan)) for name in names]
        cells[0] += _interval(intervals.get(f'{way}_R1'))
        rows.append((label, cells))
    middle = (metrics.get('N', math.nan) + 1) / 2
    by_chance = {f'R{k}': metrics.get(f'chance_R{k}', math.nan) for k in RECALLS} | {'MedR': middle, 'MeanR': middle}
    rows.append(('chance', [number(by_chance.get(name, math.nan)) for name in names]))
    return Table(['', *(COLUMNS[name] for name in names)], rows)


def scales_table(scales: Sequence[Mapping[str, Any]]) -> Table:
    """Every scale by itself, both directions: R@1 with its interval, and R@10."""
    names = ('R1', 'R10')
    headings = [f'{way.replace("2", "→")} {COLUMNS[name]}' for way in DIRECTIONS for name in names]
    rows = []
    for scale in scales:
        cells = []
        for way in DIRECTIONS:
            of_way = [number(scale['metrics'][f'{way}_{name}']) for name in names]
            of_way[0] += _interval(scale['intervals'].get(f'{way}_R1'))
            cells += of_way
        steps = scale['steps']
        rows.append((f'{scale["scale"]}' + (f': {steps} step{"s"[: steps != 1]}' if steps else ''), cells))
    return Table(['scale', *headings], rows)


def gallery_words(details: Mapping[str, Any]) -> str:
    """One line: the protocol, how many clips of how many listed were found and compared, and the list's hash."""
    facts = details.get('gallery', {})
    if 'listed' not in facts:
        return ''
    return (
        f'{facts["protocol"]}: found {facts["found"]:,} of {facts["listed"]:,} listed clips, compared '
        f'{facts["compared"]:,}; {facts["hash"][:19]}; {details["tie_rule"]}.'
    )


def _interval(ends: Sequence[float] | None) -> str:
    return '' if ends is None else f' ({number(ends[0])}–{number(ends[1])})'
