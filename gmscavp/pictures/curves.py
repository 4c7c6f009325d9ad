"""Curves over training steps as SVG text."""

import html
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

Curve = list[tuple[int, float]]
"""(training step, value) in the order of the steps."""

LINE_COLOURS = ('#4c7ee8', '#e8702a', '#3a9d5d', '#b065d8', '#1a9aa8', '#d9577f', '#a8871c', '#8a8f98')
"""Of middle lightness, so that every line is seen on white and on black."""


def curves_picture(curves: dict[str, Curve], title: str, width: int = 400) -> str:
    """Curves over training steps as SVG text in the colours of the page around it.

    The value axis is logarithmic when all values are positive and a curve stays for long at a thirtieth of the
    greatest value or below. A long curve is drawn as the mean of neighbouring steps; beside at most two others it has
    a pale band from their least to their greatest value. Values that are not numbers are left out of the line and
    counted in the legend.
    """
    legend, top = _svg_legend(curves, title, width)
    body = [f'<title>{html.escape(title)}</title>', *legend]
    height = top + 170 + 38
    lines = {number: thinned(points) for number, points in enumerate(curves.values())}
    lines = {number: line for number, line in lines.items() if len(line)}
    if not lines:
        body.append(f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle">no values yet</text>')
        return _svg(body, width, height)
    box = _Box(list(lines.values()), right=width - 14, top=top, bottom=height - 38)
    body += box.axes()
    for number, line in lines.items():
        body += box.line(line, number, band=len(lines) <= 3)
    return _svg(body, width, height)


class _Box:
    """Where the plot stands in the SVG, and the way from (step, value) to its pixels."""

    def __init__(self, lines: list[np.ndarray], right: float, top: float, bottom: float) -> None:
        steps, means = (np.concatenate([line[:, column] for line in lines]) for column in (0, 1))
        self.right, self.top, self.bottom = right, top, bottom
        # A quarter of a curve counts, not its least value: a learning rate that ends at almost nothing stays linear.
        usual = min(float(np.percentile(line[:, 1], 25)) for line in lines)
        self.log = bool(means.min() > 0 and means.max() > 30 * usual)
        if self.log:
            means = np.maximum(means, usual / 100)
        self.steps = (float(steps.min()), float(max(steps.max(), steps.min() + 1)))
        values = self._scaled(means)
        room = 0.06 * (values.max() - values.min()) or abs(values.max()) * 0.1 or 1.0
        self.values = (values.min() - room, values.max() + room)
        self.ticks = {value: _short(value) for value in self._value_ticks()}
        self.left = 12 + 7 * max(map(len, self.ticks.values()), default=0)

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(values, 1e-300)) if self.log else values

    def x(self, steps: np.ndarray) -> np.ndarray:
        first, last = self.steps
        return self.left + (steps - first) / (last - first) * (self.right - self.left)

    def y(self, values: np.ndarray) -> np.ndarray:
        low, high = self.values
        share = (np.clip(self._scaled(values), low, high) - low) / (high - low)
        return self.bottom - share * (self.bottom - self.top)

    def _value_ticks(self) -> list[float]:
        low, high = self.values
        if not self.log:
            return _within(MaxNLocator(5).tick_values(low, high), low, high)
        low, high = 10.0**low, 10.0**high
        digits = (1, 2, 5) if high < 300 * low else (1,)
        return _within(LogLocator(subs=digits, numticks=8).tick_values(low, high), low, high)

    def axes(self) -> list[str]:
        parts = []
        for value, label in self.ticks.items():
            y = float(self.y(np.array(value)))
            parts.append(f'<path d="M{self.left} {y:.1f}H{self.right}" stroke="currentColor" stroke-opacity=".15"/>')
            parts.append(f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        for step in _within(MaxNLocator(6, integer=True).tick_values(*self.steps), *self.steps):
            x = float(self.x(np.array(step)))
            parts.append(f'<text x="{x:.1f}" y="{self.bottom + 15}" text-anchor="middle">{_short(step)}</text>')
        middle = (self.left + self.right) / 2
        words = 'training step' + (' (values on a log scale)' if self.log else '')
        parts.append(f'<path d="M{self.left} {self.bottom}H{self.right}" stroke="currentColor" stroke-opacity=".5"/>')
        return [*parts, f'<text x="{middle}" y="{self.bottom + 32}" text-anchor="middle">{words}</text>']

    def line(self, points: np.ndarray, number: int, band: bool) -> list[str]:
        x = self.x(points[:, 0])
        if len(points) == 1:
            y = float(self.y(points[:, 1])[0])
            return [f'<circle cx="{x[0]:.1f}" cy="{y:.1f}" r="3" fill="{_colour(number)}"/>']
        mean, low, high = (_svg_points(x, self.y(points[:, column])) for column in (1, 2, 3))
        parts = []
        if band and low != high:
            there_and_back = ' '.join([low, *reversed(high.split())])
            parts.append(f'<polygon points="{there_and_back}" fill="{_colour(number)}" fill-opacity=".18"/>')
        return [*parts, f'<polyline points="{mean}" fill="none" stroke-width="1.6" {_stroke(number)}/>']


def thinned(points: Curve, most: int = 240) -> np.ndarray:
    """(K, 4) step, mean, least, greatest: neighbouring finite points together, so that K <= most."""
    finite = np.array([point for point in points if math.isfinite(point[1])], np.float64).reshape(-1, 2)
    if len(finite) == 0:
        return np.zeros((0, 4))
    finite = finite[np.argsort(finite[:, 0], kind='stable')]
    groups = np.array_split(finite, min(most, len(finite)))
    return np.array([[g[:, 0].mean(), g[:, 1].mean(), g[:, 1].min(), g[:, 1].max()] for g in groups])


def _svg(body: list[str], width: float, height: float) -> str:
    head = f'viewBox="0 0 {width:g} {height:g}" role="img" font-family="system-ui, sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head} fill="currentColor">{"".join(body)}</svg>'


def _svg_legend(curves: dict[str, Curve], title: str, width: int) -> tuple[list[str], float]:
    """The title, one entry per curve with its last value, wrapped to the width; and where the plot begins below."""
    parts = [f'<text x="2" y="15" font-size="14" font-weight="600">{html.escape(title)}</text>']
    x, y = 2.0, 36.0
    for number, (name, points) in enumerate(curves.items()):
        finite = [value for _, value in points if math.isfinite(value)]
        broken = f' ({len(points) - len(finite)} not finite)' if len(finite) < len(points) else ''
        label = 'last value' if name == title else name if len(name) <= 36 else name[:35] + '…'
        text = f'{label} {_short(finite[-1]) if finite else ""}{broken}'
        room = 34 + 7 * len(text)
        if x > 2 and x + room > width:
            x, y = 2.0, y + 17
        parts.append(f'<path d="M{x:.0f} {y - 4}h16" stroke-width="2.5" {_stroke(number)}/>')
        parts.append(f'<text x="{x + 21:.0f}" y="{y}">{html.escape(text)}</text>')
        x += room
    return parts, y + 14


def _svg_points(x: np.ndarray, y: np.ndarray) -> str:
    return ' '.join(f'{a:.1f},{b:.1f}' for a, b in zip(x, y, strict=True))


def _colour(number: int) -> str:
    return LINE_COLOURS[number % len(LINE_COLOURS)]


def _stroke(number: int) -> str:
    """Past the last colour the colours come again, dashed."""
    dashes = ('', ' stroke-dasharray="5 3"', ' stroke-dasharray="2 2"')[number // len(LINE_COLOURS) % 3]
    return f'stroke="{_colour(number)}"{dashes}'


def _within(ticks: Sequence[float], low: float, high: float) -> list[float]:
    slack = 1e-9 * (high - low)
    return [float(tick) for tick in ticks if low - slack <= tick <= high + slack]


def _short(value: float) -> str:
    for size, unit in ((1e6, 'M'), (1e4, 'k')):
        if abs(value) >= size:
            return f'{value / (1000 if unit == "k" else size):.3g}{unit}'
    return f'{value:.4g}'.replace('e-0', 'e-').replace('-', '−')
