"""One HTML page that shows how well a run retrieves: the figures, the curves, and the clips it confuses."""

import functools
import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from mmengine.logging import print_log

from gmscavp.errors import UserError
from gmscavp.evaluation.confusions import answers, hardest_confusions
from gmscavp.evaluation.pages import data_uri, write_page
from gmscavp.evaluation.retrieval import TIE
from gmscavp.evaluation.samples_page import SampleCard, sample_values
from gmscavp.evaluation.tables import figures_table, gallery_words, number, plain_names, scales_table
from gmscavp.pictures import (
    Curve,
    curves_picture,
    film_strip,
    heat_limits,
    heat_picture,
    jpeg_bytes,
    png_bytes,
)

ShowClip = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""clip_id -> frames (T, H, W, 3) uint8 and mel (F, M) in [0, 1]."""

MOST_FILES = 1000
"""As many skipped files are listed per cause; a page of a broken disk stays a page."""
BOOKKEEPING = {'step', 'iter', 'epoch', 'time', 'data_time', 'memory', 'base_lr'}
"""What MMEngine logs beside the curves."""


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows.

    metrics: 'retrieval/v2a_R1' and so on, R@k in percent. similarity: (N, N), videos in rows and audios in columns,
    in the order of clip_ids. curves: name -> (step, value) as `read_curves` gives them. bad_clips: cause -> files.
    facts: versions, seed, config, date, machine; a fact of several lines is folded. details: intervals, scales and the
    gallery as RetrievalMetric has them. ordered: what the clips stand in order of, in words. samples: clips that a
    generator made.
    """

    title: str
    metrics: dict[str, float]
    similarity: np.ndarray
    clip_ids: list[str]
    curves: dict[str, Curve]
    bad_clips: dict[str, list[str]]
    facts: dict[str, str]
    details: dict[str, Any] = field(default_factory=dict)
    ordered: str = ''
    samples: Sequence[SampleCard] = ()


def write_report(file: Path, data: ReportData, clip: ShowClip, confusions: int = 6) -> None:
    """Write the page as one self-contained HTML file, under a temporary name first.

    `clip` gives the pictures of a clip; where it raises UserError or OSError the page says so in their place.
    `confusions` is how many of the hardest confusions are shown for each direction.
    """
    total = len(data.clip_ids)
    if data.similarity.shape != (total, total):
        raise ValueError(f'{total} clip_ids, but a similarity of shape {data.similarity.shape}: expected (N, N).')
    values = dict(
        title=data.title,
        headline=_headline(data.metrics),
        table=figures_table(plain_names(data.metrics), data.details.get('intervals', {})),
        scales=scales_table(data.details.get('scales', [])),
        gallery=gallery_words(data.details),
        ordered=data.ordered,
        bars=_bars(data.metrics),
        metrics={name: f'{value:.6g}' for name, value in data.metrics.items()},
        curves=_curves(data.curves),
        heat=_heat(data.similarity),
        **_cards(data, clip, confusions),
        **sample_values(data.samples),
        skipped=_skipped(data),
        most_files=MOST_FILES,
        facts=data.facts,
    )
    write_page(file, 'report.html.j2', values)


def read_curves(scalars: Path | Iterable[Path], wanted: Sequence[str] = ()) -> dict[str, Curve]:
    """The curves in the `vis_data/scalars.json` of MMEngine: name -> [(step, value)] by rising step.

    Several files (a run and what resumed it, the oldest first) become one: the later value of a step counts.
    `wanted` keeps the names that equal or begin with one of its words; empty keeps all but the bookkeeping. A
    validation that was logged by epoch gets the training step after which it ran. Damaged lines, as a killed run
    leaves them, are left out with a warning; the last line of a file, which may be half-written, without.
    """
    found: dict[str, dict[int, float]] = {}
    for file in [scalars] if isinstance(scalars, Path) else scalars:
        trained = 0
        for line in _whole_lines(file):
            step = int(line.get('step', line.get('iter', 0)))
            step = max(step, trained)
            trained = step if 'iter' in line else trained
            for name, value in line.items():
                if _is_wanted(name, wanted) and isinstance(value, int | float):
                    found.setdefault(name, {})[step] = float(value)
    return {name: sorted(points.items()) for name, points in found.items()}


def _whole_lines(file: Path) -> list[dict[str, float]]:
    lines = file.read_text('utf-8', 'replace').splitlines()
    whole, damaged = [], []
    for line_number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            line = None
        if isinstance(line, dict):
            whole.append(line)
        elif line_number < len(lines) and text.strip():
            damaged.append(str(line_number))
    if damaged:
        print_log(f'{file}: left out the damaged lines {", ".join(damaged)}', 'current', logging.WARNING)
    return whole


def _is_wanted(name: str, wanted: Sequence[str]) -> bool:
    return name.startswith(tuple(wanted)) if wanted else name not in BOOKKEEPING


def _grouped(curves: dict[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Losses in one picture, R@1 in another, each other name in its own; of the other retrieval figures none."""
    pictures: dict[str, dict[str, Curve]] = {}
    for name, points in curves.items():
        if 'loss' in name:
            pictures.setdefault('Losses', {})[name] = points
        elif name.startswith('retrieval/'):
            if name.endswith('_R1') and 'chance' not in name:
                pictures.setdefault('R@1 in validation, percent', {})[name.removeprefix('retrieval/')] = points
        else:
            pictures[name] = {name: points}
    first = ('Losses', 'R@1 in validation, percent')
    return {title: pictures[title] for title in sorted(pictures, key=lambda title: (title not in first, title))}


def _curves(curves: dict[str, Curve]) -> list[str]:
    return [Markup(curves_picture(lines, title)) for title, lines in _grouped(curves).items()]


def _figure(metrics: dict[str, float], name: str) -> float:
    """A retrieval metric, or nan when it was not measured."""
    return float(metrics.get(f'retrieval/{name}', math.nan))


def _headline(metrics: dict[str, float]) -> dict[str, str]:
    mean, chance, total = (_figure(metrics, name) for name in ('mean_R1', 'chance_R1', 'N'))
    to_audio, to_video = _figure(metrics, 'v2a_R1'), _figure(metrics, 'a2v_R1')
    if math.isnan(mean):
        mean = (to_audio + to_video) / 2
    times = mean / chance if chance > 0 else math.nan
    among = f'among {total:.0f} clips' if total > 0 else 'among all clips'
    if math.isnan(mean):
        words = 'Nothing was measured: no clip came through, or the metrics hold no R@1.'
    elif total == 1:
        words = 'With a single clip every answer is right, so this figure says nothing about the model.'
    else:
        words = (
            f'Shown a silent video, the model picks its own sound first {among} in {number(to_audio)} % of the cases; '
            f'given a sound, it picks its own video first in {number(to_video)} %.'
        )
        if times >= 0:
            words += f' Guessing would be right in {number(chance)} %: {_times(times)}.'
    return {
        'mean': number(mean),
        'chance': number(chance),
        'times': '–' if math.isnan(times) else f'{times:.0f}' if times >= 10 else f'{times:.1f}',
        'words': words,
    }


def _times(times: float) -> str:
    if times < 1.05:
        return 'the model does no better than that'
    return f'the model is {times:.0f} times better' if times >= 10 else f'the model is {times:.1f} times better'


def _bars(metrics: dict[str, float]) -> list[dict[str, str]]:
    bars = []
    for k in ('1', '5', '10'):
        chance = _figure(metrics, f'chance_R{k}')
        for way, prefix in (('video → audio', 'v2a'), ('audio → video', 'a2v')):
            value = _figure(metrics, f'{prefix}_R{k}')
            if not math.isnan(value):
                share = f'{min(max(value, 0.0), 100.0):.2f}'
                mark = '' if math.isnan(chance) else f'{min(max(chance, 0.0), 100.0):.2f}'
                bars.append({'k': k, 'way': way, 'kind': prefix, 'share': share, 'value': number(value), 'mark': mark})
    return bars


def _heat(similarity: np.ndarray) -> dict[str, str | int] | None:
    if similarity.size == 0:
        return None
    limits = heat_limits(similarity)
    scale = heat_picture(np.linspace(0, 1, 64)[None], (0.0, 1.0))
    return {
        'picture': data_uri(png_bytes(heat_picture(similarity, limits)), 'image/png'),
        'scale': data_uri(png_bytes(scale), 'image/png'),
        'low': f'{limits[0]:.3f}'.replace('-', '−'),
        'high': f'{limits[1]:.3f}'.replace('-', '−'),
        'total': len(similarity),
        'width': min(32, max(10, 4 * len(similarity))),
    }


def _cards(data: ReportData, clip: ShowClip, confusions: int) -> dict[str, list]:
    """The confusions of both directions, and the queries that are right with the clearest distance both ways."""
    strip = functools.cache(functools.partial(_strip, clip))

    def side(number: int) -> dict[str, str]:
        clip_id = data.clip_ids[number]
        return {'clip_id': clip_id, **strip(clip_id)}

    to_audio, to_video = answers(data.similarity), answers(data.similarity.T)
    ways = []
    for query, target, found in (('video', 'audio', to_audio), ('audio', 'video', to_video)):
        hardest = hardest_confusions(found, confusions)
        cards = [{'answer': each, 'query': side(each.query), 'wrong': side(each.wrong)} for each in hardest]
        ways.append({'query': query, 'target': target, 'cards': cards})
    back = {answer.query: answer.margin for answer in to_video}
    margins = {each.query: max(each.margin, back.get(each.query, math.inf)) for each in to_audio}
    clearest = sorted((margin, query) for query, margin in margins.items() if margin < -TIE)[:4]
    right = [{**side(query), 'score': data.similarity[query, query], 'lead': -margin} for margin, query in clearest]
    return {'ways': ways, 'right': right}


def _strip(clip: ShowClip, clip_id: str) -> dict[str, str]:
    try:
        frames, mel = clip(clip_id)
    except (UserError, OSError) as error:
        return {'picture': '', 'why_not': str(error)}
    return {'picture': data_uri(jpeg_bytes(film_strip(frames, mel)), 'image/jpeg'), 'why_not': ''}


def _skipped(data: ReportData) -> dict:
    counted = _figure(data.metrics, 'skipped')
    listed = sum(map(len, data.bad_clips.values()))
    return {
        'total': listed if math.isnan(counted) else max(int(counted), listed),
        'unnamed': 0 if math.isnan(counted) else max(int(counted) - listed, 0),
        'causes': sorted(data.bad_clips.items(), key=lambda cause: -len(cause[1])),
    }
