"""The figures of generation as rows of words, for the terminal and for the page alike."""

import math
from collections.abc import Mapping

from gmscavp.evaluation.tables import Table

COLUMNS = {'': 'generated', 'real_': 'real', 'shuffled_': 'another clip'}
COUNTS = {
    'silent': 'silent',
    'not_finite': 'not finite',
    'blank': 'of one colour',
    'skipped': 'could not be read',
}
_LABELS = {
    'onset_f1': 'seen impacts heard: F1, %',
    'onset_precision': 'precision, %',
    'onset_recall': 'recall, %',
    'onset_f1_all': 'all impacts heard: F1, %',
    'onset_precision_all': 'precision, %',
    'onset_recall_all': 'recall, %',
    'timing_error_ms': 'timing: median error, ms',
    'timing_bias_ms': 'timing: median, late above 0, ms',
    'pitch_accuracy': 'right pitch, %',
    'loudness_correlation': 'loudness and speed, rank correlation',
    'impact_f1': 'impacts seen, by colour: F1, %',
    'impact_precision': 'precision, %',
    'impact_recall': 'recall, %',
    'impact_f1_any': 'impacts seen, of any colour: F1, %',
    'colours_right': 'clips with all colours right, %',
    'clips_right': 'clips with colours right and an impact F1 of 80 or more, %',
    'clips_exact': 'clips with all colours and impacts right, %',
    'position_error_px': 'place: mean error, pixels',
    'alignment_accuracy': 'called aligned, %',
    'aligned': 'probability of being aligned',
}
_KINDS = {'FD': 'Frechet distance', 'KL_sigmoid': 'KL of every class', 'KL': 'KL', 'IS': 'inception score'}


def plain_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without MMEngine's prefix: 'generation/onset_f1' -> 'onset_f1'."""
    return {name.removeprefix('generation/'): value for name, value in metrics.items()}


def generation_table(metrics: Mapping[str, float]) -> Table:
    """One row a figure: of generated clips, of real ones, and with another clip's truth; by plain names."""
    names = [name for name in metrics if not name.startswith(('real_', 'shuffled_')) and name not in {'N', *COUNTS}]
    # The harmonic mean stands before the two that it is of.
    ordered = sorted(names, key=lambda name: (_group(name), *(() if name in _LABELS else (name,))))
    headings = {prefix: label for prefix, label in COLUMNS.items() if any(prefix + name in metrics for name in names)}
    rows = [(label_of(name), [_cell(metrics.get(prefix + name)) for prefix in headings]) for name in ordered]
    return Table(['', *headings.values()], rows)


def label_of(name: str) -> str:
    """A figure's name in words."""
    if name in _LABELS:
        return _LABELS[name]
    for kind, words in _KINDS.items():
        if name.startswith(f'{kind}_'):
            return f'{words} ({name.removeprefix(f"{kind}_")})'
    return name.replace('_', ' ')


def counted_words(metrics: Mapping[str, float]) -> str:
    """'256 clips; 2 silent; 1 could not be read', by plain names."""
    said = [f'{metrics[name]:.0f} {words}' for name, words in COUNTS.items() if metrics.get(name)]
    return '; '.join([f'{metrics["N"]:.0f} clip{"s"[: metrics["N"] != 1]}', *said])


def shown(value: float) -> str:
    """Three digits, or one after the point where that is more; a dash for what cannot be said."""
    if not math.isfinite(value):
        return '–'
    return f'{value:.1f}' if abs(value) >= 100 or value == round(value, 1) else f'{value:.3g}'


def _cell(value: float | None) -> str:
    return '' if value is None else shown(value)


def _group(name: str) -> int:
    order = list(_LABELS)
    return order.index(name) + 1 if name in order else 0
