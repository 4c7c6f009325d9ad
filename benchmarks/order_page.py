"""The page of benchmarks/retrieval_order.py: tables and sentences from what its runs found.

A run is a dictionary: variant, seed, minutes, parameters, encoders, and looks: {'early' | 'late': {gallery: figures}}.
"""

from statistics import mean, stdev
from typing import Any

Runs = dict[str, list[dict[str, Any]]]
"""Variant -> its finished runs, one a seed."""

# What differs from GMS-CAVP in one thing, and is trained with fewer seeds than the main variants.
ABLATIONS = (
    'embedding targets',
    'temporal term off',
    'pooling pyramid',
    'feature pyramid',
    'query pyramid',
    'plain tokens (detail off)',
    'diffusion weight x 8',
    'aligned diffusion',
)
GALLERIES = ('semantic', 'temporal', 'mixed')


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f'{mean(values):.1f} ± {stdev(values):.1f}' if len(values) > 1 else f'{values[0]:.1f}'


def table(runs: Runs, look: str, galleries: tuple[str, ...]) -> list[str]:
    """Mean R@1 of both directions in percent, each gallery, and what a run costs."""
    lines = ['| | ' + ' | '.join(f'{g} R@1' for g in galleries) + ' | R@10 | parameters (encoders) | minutes |']
    lines.append('|---' * (len(galleries) + 4) + '|')
    for name, of in runs.items():
        cells = [spread([run['looks'][look][g]['mean_R1'] for run in of]) for g in galleries]
        last = [run['looks'][look][galleries[-1]] for run in of]
        cells.append(spread([(x['v2a_R10'] + x['a2v_R10']) / 2 for x in last]))
        cells.append(f'{of[0]["parameters"]:,} ({of[0]["encoders"]:,})')
        cells.append(f'{mean(run["minutes"] for run in of):.1f}')
        lines.append(f'| {name} ({len(of)}) | ' + ' | '.join(cells) + ' |')
    chance = next(iter(runs.values()))[0]['looks'][look]
    lines.append('| chance | ' + ' | '.join(f'{chance[g]["chance_R1"]:.2f}' for g in galleries) + ' | | | |')
    return lines


def comparisons(runs: Runs, look: str, gallery: str) -> list[str]:
    """What the figures say about the order, in sentences."""
    of = {name: [run['looks'][look][gallery]['mean_R1'] for run in found] for name, found in runs.items()}
    lines = []
    for lower, higher in (
        ('CAVP', 'DiffGAP'),
        ('DiffGAP', 'GMS-CAVP'),
        ('CAVP', 'diffusion only'),
        ('CAVP', 'scales only'),
        ('scales only', 'GMS-CAVP'),
        ('diffusion only', 'GMS-CAVP'),
        ('batches of 12: scales only', 'batches of 12: aligned diffusion'),
    ):
        if lower in of and higher in of and min(len(of[lower]), len(of[higher])) > 1:
            gap = mean(of[higher]) - mean(of[lower])
            # Each side has its own spread; a gap is clear where it is greater than both.
            noise = max(stdev(of[lower]), stdev(of[higher]))
            verdict = 'outside one standard deviation' if abs(gap) > noise else 'within one standard deviation'
            lines.append(f'- {lower} to {higher}: {gap:+.1f} points, {verdict} ({noise:.1f})')
    if 'CAVP' in of and 'GMS-CAVP' in of:
        lines.append(f'- GMS-CAVP / CAVP: {mean(of["GMS-CAVP"]) / max(mean(of["CAVP"]), 1e-9):.1f} times')
    return (
        lines + against_the_method(runs, look, gallery) + best_trials({name: mean(found) for name, found in of.items()})
    )


def against_the_method(runs: Runs, look: str, gallery: str) -> list[str]:
    """Ablations of GMS-CAVP beside its own runs of the same seeds."""
    whole = {run['seed']: run['looks'][look][gallery]['mean_R1'] for run in runs.get('GMS-CAVP', [])}
    lines = []
    for name, of in runs.items():
        recalls = {run['seed']: run['looks'][look][gallery]['mean_R1'] for run in of if run['seed'] in whole}
        if name in ABLATIONS and recalls:
            gaps = [recall - whole[seed] for seed, recall in recalls.items()]
            seeds = ', '.join(map(str, recalls))
            lines.append(f'- GMS-CAVP to {name}, seed {seeds}: {mean(gaps):+.1f} points')
    return lines


def best_trials(of: dict[str, float]) -> list[str]:
    """The best of every model's trials ('CAVP: rate 1e-3' is one), beside its default."""
    models: dict[str, dict[str, float]] = {}
    for name, recall in of.items():
        model, colon, trial = name.partition(': ')
        if colon and f'{model}: default' in of:
            models.setdefault(model, {})[trial] = recall
    return [
        f'- {model}, best of {len(trials)} trials: {(best := max(trials, key=trials.__getitem__))} with '
        f'{trials[best]:.1f} (default: {trials["default"]:.1f})'
        for model, trials in models.items()
    ]


def folder_table(runs: Runs) -> list[str]:
    """Recalls on real clips with the bootstrap interval of every seed's R@1."""
    lines = ['| | R@1 | R@5 | R@10 | 95 % intervals of R@1, one a seed |', '|---|---|---|---|---|']
    for name, of in runs.items():
        late = [run['looks']['late']['test'] for run in of]
        cells = [spread([(x[f'v2a_R{k}'] + x[f'a2v_R{k}']) / 2 for x in late]) for k in (1, 5, 10)]
        intervals = ', '.join('{:.1f}..{:.1f}'.format(*x['intervals']['mean_R1']) for x in late)
        lines.append(f'| {name} ({len(of)}) | ' + ' | '.join(cells) + f' | {intervals} |')
    chance = next(iter(runs.values()))[0]['looks']['late']['test']
    return [*lines, '| chance | ' + ' | '.join(f'{chance[f"chance_R{k}"]:.1f}' for k in (1, 5, 10)) + ' | |']


def impacts_page(
    runs: Runs, command: str, settings: str, epochs: dict[str, int], title: str = 'the order of the methods'
) -> str:
    """The markdown for Impacts. command: what makes it; settings: data, steps and seeds in words; epochs: look -> epoch."""
    sizes = next(iter(runs.values()))[0]['looks']['late']
    counts = ', '.join(f'{gallery} {sizes[gallery]["N"]}' for gallery in GALLERIES)
    text = [
        f'# Retrieval on Impacts: {title}',
        '',
        f'`{command}`: {settings}. Galleries: {counts} clips. Mean R@1 of both directions in percent, mean ± standard '
        'deviation over seeds (in brackets: how many runs are finished); R@10 on mixed. Minutes are those of the '
        'processor, one thread a run.',
    ]
    for look, epoch in epochs.items():
        text += ['', f'## After {epoch} epochs', '', *table(runs, look, GALLERIES)]
        said = comparisons(runs, look, 'mixed')
        text += ['', 'On `mixed`:', '', *said] if said else []
    return '\n'.join(text) + '\n'


def folder_page(runs: Runs, command: str, settings: str) -> str:
    """The markdown for a folder of real clips."""
    clips = next(iter(runs.values()))[0]['looks']['late']['test']['N']
    text = [
        '# Retrieval on real clips: CAVP, DiffGAP, GMS-CAVP',
        '',
        f'`{command}`: {settings}; the last checkpoint on the {clips} clips of the test split. Mean of both directions in '
        'percent, mean ± standard deviation over seeds (in brackets: how many runs are finished).',
        '',
        *folder_table(runs),
    ]
    return '\n'.join(text) + '\n'
