"""Plots with axes as pixels: similarity over time, embeddings on a plane, curves of several runs."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gmscavp.pictures.curves import LINE_COLOURS, Curve, thinned
from gmscavp.pictures.pixels import DPI, plain, rendered

REST = '#b8bcc4'
"""The colour of what is not among the named labels."""
DASHES = ('-', '--', ':')


def timeline_picture(strip: np.ndarray, rows: Mapping[str, np.ndarray], duration_s: float, title: str) -> np.ndarray:
    """Values over time, one line of steps for each row, under a film strip of the same time -> (560, 960, 3) uint8.

    strip: (H, W, 3) uint8, its width is the time. rows: name -> (L,) values of L equal windows.
    """
    figure = Figure(figsize=(9.6, 5.6), dpi=DPI)
    figure.suptitle(plain(title), parse_math=False, fontsize=11)
    left, width = 0.075, 0.905
    film = figure.add_axes((left, 0.6, width, 0.32))
    film.imshow(strip, extent=(0, duration_s, 0, 1), aspect='auto')
    film.set(xticks=[], yticks=[])
    axes = figure.add_axes((left, 0.09, width, 0.48))
    for number, (name, values) in enumerate(rows.items()):
        style = _line_style(number)
        edges = np.linspace(0, duration_s, len(values) + 1)
        axes.stairs(values, edges, baseline=None, label=_text(name), linewidth=1.8, **style)
    axes.set(xlim=(0, duration_s), xlabel='seconds', ylabel='cosine of video and audio')
    axes.grid(alpha=0.25)
    if rows:
        axes.legend(fontsize=8, ncols=3, loc='best')
    return rendered(figure)


def plane_picture(panels: Mapping[str, np.ndarray], labels: Sequence[str], most: int = 12) -> np.ndarray:
    """Points on a plane in panels beside each other, coloured by label: {title: (N, 2)}, N labels -> (H, W, 3) uint8.

    The `most` frequent labels have a colour and a place in the legend, the others and '' are grey.
    """
    named = [label for label, _ in Counter(label for label in labels if label).most_common(most)]
    figure = Figure(figsize=(5.4 * max(len(panels), 1), 5.2 + 0.2 * math.ceil(len(named) / 4)), dpi=DPI)
    figure.set_layout_engine('constrained')
    colours = matplotlib.colormaps['tab20']
    column = np.asarray(labels, dtype=object)
    for place, (title, points) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), place + 1)
        axes.set_title(plain(title), parse_math=False, fontsize=11)
        axes.set(xticks=[], yticks=[])
        others = ~np.isin(column, named)
        axes.scatter(
            points[others, 0],
            points[others, 1],
            s=14,
            color=REST,
            label=f'others ({others.sum()})' if others.any() else None,
        )
        for number, label in enumerate(named):
            own = column == label
            # Dark and pale shades of a hue stand beside each other in the map: all dark ones first.
            colour = colours((2 * number + (number >= 10)) % 20)
            axes.scatter(
                points[own, 0], points[own, 1], s=22, color=colour, label=f'{_text(_short(label))} ({own.sum()})'
            )
    if panels:
        handles, texts = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc='outside lower center', ncols=2 * len(panels), fontsize=8)
    return rendered(figure)


def runs_picture(runs: Mapping[str, Mapping[str, Curve]], columns: int = 3) -> np.ndarray:
    """Training curves of several runs: {run: {curve: [(step, value)]}} -> one panel a curve, one line a run.

    A curve that only some runs have shows those. Values that are not numbers are left out.
    """
    names = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    columns = min(columns, max(len(names), 1))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.2 * columns, 0.5 + 0.25 * len(runs) + 2.7 * max(rows, 1)), dpi=DPI)
    figure.set_layout_engine('constrained')
    if not names:
        figure.text(0.5, 0.5, 'no values yet', ha='center', va='center')
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.set_title(plain(name), parse_math=False, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        for number, curves in enumerate(runs.values()):
            _draw_curve(axes, curves.get(name, []), number)
    styles = [_line_style(number) for number in range(len(runs))]
    handles = [Line2D([], [], linewidth=2, **style) for style in styles]
    figure.legend(handles, [_text(run) for run in runs], loc='outside upper left', fontsize=9)
    return rendered(figure)


def _draw_curve(axes: Axes, points: Curve, number: int) -> None:
    line = thinned(points)
    if len(line) == 1:
        axes.plot(line[:, 0], line[:, 1], 'o', color=_line_style(number)['color'])
    elif len(line):
        axes.plot(line[:, 0], line[:, 1], linewidth=1.5, **_line_style(number))


def _line_style(number: int) -> dict[str, Any]:
    """Past the last colour the colours come again, dashed."""
    dash = DASHES[number // len(LINE_COLOURS) % len(DASHES)]
    return {'color': LINE_COLOURS[number % len(LINE_COLOURS)], 'linestyle': dash}


def _text(label: str) -> str:
    """For a legend, which would set what stands between dollars as mathematics and leave out what begins with '_'."""
    escaped = plain(label).replace('$', r'\$')
    return f' {escaped}' if escaped.startswith('_') else escaped


def _short(text: str, most: int = 32) -> str:
    return text if len(text) <= most else text[: most - 1] + '…'
