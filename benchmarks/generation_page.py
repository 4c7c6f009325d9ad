"""The page of benchmarks/generation.py: tables and sentences from what its runs found.

Figures are called what GenerationMetric calls them, without its prefix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import mean, stdev

from gmscavp.evaluation.generation_tables import counted_words, generation_table, shown
from gmscavp.evaluation.tables import Table

Metrics = Mapping[str, float | None]
FD, F1, SHUFFLED_F1 = 'FD_judge', 'onset_f1', 'shuffled_onset_f1'
ENCODERS = ('CAVP', 'GMS-CAVP')
FEW, MANY = 25, 100
NAN = float('nan')

TABLES = ('v2a', 'tokens', 'a2v', 'samplers', 'guidance')


@dataclass(frozen=True)
class Found:
    """An evaluation: its figures, minutes of the processor, and whether the judge of sound took part."""

    metrics: Metrics
    minutes: float
    judged: bool = True


@dataclass(frozen=True)
class RunFacts:
    """A training: its config, how many epochs of how many that the config asks for, minutes of the processor where they
    are known, the folder of the run that stands in for it, and what went wrong.
    """

    name: str
    config: str
    seed: int
    epochs: int | None
    whole: int
    minutes: float | None
    stands_in: str | None
    finished: bool
    failure: str | None = None


@dataclass(frozen=True)
class Asked:
    """What was asked for: clips of the tables and of that of samplers, the rows and columns of tables, training clips
    where they are not all, and which tables are to stand on the page.
    """

    clips: int
    sampler_clips: int
    seeds: Sequence[int]
    evaluations: Sequence[int]
    spacings: Sequence[str]
    solvers: Sequence[str]
    scales: Sequence[float]
    scales_alone: Sequence[float]
    train_clips: int | None = None
    tables: Sequence[str] = TABLES


def value(metrics: Metrics, name: str) -> float:
    """A figure, nan where it was not measured or says nothing."""
    found = metrics.get(name)
    return NAN if found is None else float(found)


def numbers(metrics: Metrics) -> dict[str, float]:
    """All figures, nan for those of which nothing can be said."""
    return {name: value(metrics, name) for name in metrics}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds; a dash where one of them says nothing."""
    if any(map(isnan, values)):
        return shown(NAN)
    return f'{shown(mean(values))} ± {shown(stdev(values))}' if len(values) > 1 else shown(values[0])


def markdown(table: Table) -> list[str]:
    """The table in lines."""
    lines = ['| ' + ' | '.join(table.headings) + ' |', '|---' * len(table.headings) + '|']
    return lines + ['| ' + ' | '.join([label, *cells]) + ' |' for label, cells in table.rows]


def missing(names: Sequence[str]) -> list[str]:
    """What is said in the place of figures."""
    return [f'Missing: {", ".join(names)}.'] if names else []


# Table by table


def ratio_sentence(metrics: Metrics) -> str:
    """The F1 beside chance, and the share of what the real sound gets."""
    f1, chance, real = (value(metrics, name) for name in (F1, SHUFFLED_F1, f'real_{F1}'))
    times = f'{f1 / chance:.2f} times' if chance > 0 else 'no multiple of'
    return (
        f'F1 of seen impacts is {times} that of another clip ({shown(f1)}, {shown(chance)}); real sound: {shown(real)}.'
    )


def v2a_section(of: Mapping[str, Found]) -> list[str]:
    """Sound from video beside real sound and chance."""
    if 'v2a' not in of:
        return missing(['the evaluation of v2a_impacts'])
    metrics = of['v2a'].metrics
    unjudged = [] if of['v2a'].judged else ['the judge, so FD, KL and IS']
    unaligned = [] if 'alignment_accuracy' in metrics else ['the alignment classifier, so alignment accuracy']
    return [
        f'{counted_words(numbers(metrics))}.',
        '',
        *markdown(generation_table(numbers(metrics))),
        '',
        ratio_sentence(metrics),
        *missing([*unjudged, *unaligned]),
    ]


def token_runs(of: Mapping[str, Found], seeds: Sequence[int]) -> dict[str, dict[int, Metrics]]:
    """Encoder -> seed -> figures."""
    return {
        name: {seed: of[f'tokens_{name}_{seed}'].metrics for seed in seeds if f'tokens_{name}_{seed}' in of}
        for name in ENCODERS
    }


def comparison(runs: Mapping[str, Mapping[int, Metrics]], figure: str, label: str, lower_is_better: bool) -> str | None:
    """What one figure says of the order, over the seeds that both have; None below two seeds."""
    seeds = sorted(set(runs['CAVP']) & set(runs['GMS-CAVP']))
    low, high = ([value(runs[name][seed], figure) for seed in seeds] for name in ENCODERS)
    if len(seeds) < 2 or any(map(isnan, [*low, *high])):
        return None
    gap, noise = mean(high) - mean(low), max(stdev(low), stdev(high))
    # Each side has its own spread; a gap is clear where it is greater than both.
    verdict = 'outside' if abs(gap) > noise else 'within'
    better = sum((b < a) if lower_is_better else (b > a) for a, b in zip(low, high, strict=True))
    return (
        f'- {label}, CAVP to GMS-CAVP: {"+" if gap >= 0 else "-"}{shown(abs(gap))} '
        f'({"lower" if lower_is_better else "higher"} is better), {verdict} one standard deviation ({shown(noise)}); '
        f'GMS-CAVP better in {better} of {len(seeds)} seeds'
    )


def tokens_section(of: Mapping[str, Found], seeds: Sequence[int]) -> list[str]:
    """The tokens of two encoders under the same generator."""
    runs = token_runs(of, seeds)
    columns = {FD: 'FD', F1: 'onset F1, %', SHUFFLED_F1: 'of another clip', 'pitch_accuracy': 'right pitch, %'}
    rows = [
        (f'{name} ({len(found)})', [spread([value(each, figure) for each in found.values()]) for figure in columns])
        for name, found in runs.items()
        if found
    ]
    said = (comparison(runs, FD, 'FD', True), comparison(runs, F1, 'onset F1', False))
    absent = [f'{name} of seed {seed}' for name, found in runs.items() for seed in seeds if seed not in found]
    table = [*markdown(Table(['tokens (seeds)', *columns.values()], rows)), ''] if rows else []
    sentences = [line for line in said if line]
    return [*table, *sentences, *([''] if sentences and absent else []), *missing(absent)]


CLIPS_RIGHT = (
    'A clip is right when just the colours that truly bounce bounce (no more, no fewer), and its impacts, matched one to '
    'one with true ones of their colour within one frame, have an F1 of 80 % or more. Impacts in the first and last two '
    'frames do not count, nor do objects seen to strike the floor less than twice.'
)


def a2v_section(of: Mapping[str, Found]) -> list[str]:
    """Video from sound beside true video and chance."""
    if 'a2v' not in of:
        return missing(['the evaluation of a2v_impacts'])
    metrics = numbers(of['a2v'].metrics)
    share = [shown(value(metrics, f'{prefix}clips_right')) for prefix in ('', 'real_', 'shuffled_')]
    said = (
        f'Right: {share[0]} % of clips; of true video as the detector sees it {share[1]}, held against another clip '
        f'{share[2]}.'
    )
    return [f'{counted_words(metrics)}.', '', *markdown(generation_table(metrics)), '', said, CLIPS_RIGHT]


def samplers_section(of: Mapping[str, Found], asked: Asked) -> list[str]:
    """FD and F1 against the number of evaluations, a table a spacing of the grid."""
    lines: list[str] = []
    for spacing in asked.spacings:
        names = {s: [f'samplers_{s}_{spacing}_{n}' for n in asked.evaluations] for s in asked.solvers}
        rows = [(s, [_pair(of.get(name)) for name in cells]) for s, cells in names.items()]
        table = Table(['', *(str(n) for n in asked.evaluations)], rows)
        lines += [f'### Grid `{spacing}`', '', *markdown(table), '']
    said = [line for s in asked.solvers if (line := few_against_many(of, s, asked.spacings))]
    return [*lines, *said]


def few_against_many(of: Mapping[str, Found], solver: str, spacings: Sequence[str]) -> str | None:
    """25 evaluations against 100 of one sampler; None where one of them is missing everywhere."""
    parts = []
    for spacing in spacings:
        few, many = (of.get(f'samplers_{solver}_{spacing}_{count}') for count in (FEW, MANY))
        if few and many:
            (f1, fd), (f1_many, fd_many) = ((value(x.metrics, F1), value(x.metrics, FD)) for x in (few, many))
            gap = f1 - f1_many
            of_fd = f'FD {shown(fd)} against {shown(fd_many)}'
            parts.append(f'{spacing} F1 {gap:+.1f} points ({f1:.1f}, {f1_many:.1f}), {of_fd}')
    return f'- {solver}, {FEW} evaluations against {MANY}: {"; ".join(parts)}' if parts else None


def _pair(found: Found | None) -> str:
    """FD / F1, with the clips that came to nothing."""
    if found is None:
        return 'missing'
    broken = sum(value(found.metrics, name) for name in ('silent', 'not_finite') if name in found.metrics)
    said = f' ({broken:.0f} broken)' if broken else ''
    return f'{shown(value(found.metrics, FD))} / {shown(value(found.metrics, F1))}{said}'


def guidance_section(of: Mapping[str, Found], scales: Sequence[float], alone: Sequence[float]) -> list[str]:
    """Alignment accuracy and what it costs, by the scale of alignment guidance; alone: under the null condition."""
    columns = {
        'alignment_accuracy': 'called aligned, %',
        F1: 'onset F1, %',
        FD: 'FD',
        'pitch_accuracy': 'right pitch, %',
    }
    asked = {f'guidance_alone_{scale}': f'the classifier alone, scale {scale}' for scale in alone}
    asked |= {f'guidance_{scale}': f'the video, and the classifier at scale {scale}' for scale in scales}
    there = {said: of[name].metrics for name, said in asked.items() if name in of}
    rows = [(said, [shown(value(metrics, name)) for name in columns]) for said, metrics in there.items()]
    if rows:
        first = next(iter(there.values()))
        rows.append(('real sound', [shown(value(first, f'real_{name}')) for name in columns]))
    table = [*markdown(Table(['', *columns.values()], rows)), ''] if rows else []
    return [*table, *missing([said for said in asked.values() if said not in there])]


def runs_section(rows: Sequence[RunFacts]) -> list[str]:
    """What was trained, for how long, and what stood in."""
    cells = []
    for run in rows:
        state = f'a run that was there: `{run.stands_in}`' if run.stands_in else 'trained here'
        if not run.finished:
            state = f'missing: {run.failure}' if run.failure else 'missing'
        minutes = '–' if run.minutes is None else f'{run.minutes:.1f}'
        cells.append((run.name, [run.config, f'{run.epochs or "–"} of {run.whole}', str(run.seed), minutes, state]))
    return markdown(Table(['run', 'config', "epochs of the config's", 'seed', 'CPU minutes', ''], cells))


TOKENS = (
    'configs/v2a_frozen_impacts.py over a frozen encoder: the same denoiser, data, steps and seed, CAVP giving its 16 '
    'tokens before the maximum over time, each the mean over the picture, GMS-CAVP its 31 of five scales, which keep a '
    'grid of places apart; both are 64 wide. The seed is that of pretraining and of the generator. Frames are 250 ms '
    'apart, so that 50 ms is a fifth of a frame.'
)
SAMPLERS = (
    'Cells: FD / onset F1 in percent. Columns: evaluations of the denoiser, each two passes of the network under guidance. '
    'Every sampler takes the most steps that stay within them: second-order ones half as many, so that 25 are 13 steps of '
    "Heun, and 12 of Midpoint (24 evaluations). The grid is the trained model's scheduler with another `spacing`; its "
    'shift holds for trailing and linspace, karras takes none. One draw, seed 0. FD falls with the number of clips: '
    'compare within this table only.'
)
GUIDANCE = (
    'The noisy classifier (align_classifier_noisy_impacts) guides, the clean one (align_classifier_impacts) judges. The '
    'two are trained apart on the same clips. Of a trained generator that sees the video nothing is left to raise; under '
    'its null condition (classifier-free guidance 0) it does not see it, and what fits comes from the classifier.'
)


def page(
    of: Mapping[str, Found],
    rows: Sequence[RunFacts],
    command: str,
    asked: Asked,
    failures: Sequence[str] = (),
) -> str:
    """The markdown. of: cell -> figures. rows: the trainings. command: what makes it. failures: of evaluations."""
    minutes = sum(found.minutes for found in of.values())
    about = (
        f'`{command}`: held-out clips of Impacts (half semantic, half temporal; {asked.clips} a table, '
        f'{asked.sampler_clips} in that of samplers), encoders and their generators of seeds '
        f'{", ".join(map(str, asked.seeds))}, all else of seed 0. Figures are those of '
        '[docs/evaluation.md](../evaluation.md); `another clip` is chance: what was generated is held against the truth of '
        'the clip half a list further on. FD, KL and IS are by audio_classifier_impacts. CPU minutes are those of the '
        f'processor, one thread a run, and unknown of some runs that were there; all evaluations took {minutes:.1f}.'
    )
    if asked.train_clips:
        about += f' Trained on {asked.train_clips} clips: the figures say only that everything runs.'
    tables: dict[str, tuple[str, list[str]]] = {
        'v2a': ('Sound from video', v2a_section(of)),
        'tokens': ('CAVP tokens against GMS-CAVP tokens', [TOKENS, '', *tokens_section(of, asked.seeds)]),
        'a2v': ('Video from sound', a2v_section(of)),
        'samplers': ('Samplers', [SAMPLERS, '', *samplers_section(of, asked)]),
        'guidance': ('Alignment guidance', [GUIDANCE, '', *guidance_section(of, asked.scales, asked.scales_alone)]),
    }
    sections = [tables[table] for table in TABLES if table in asked.tables]
    sections.append(('How the figures were got', [*runs_section(rows), *(f'\n{said}' for said in failures)]))
    text = ['# Generation on Impacts', '', about]
    for title, lines in sections:
        text += ['', f'## {title}', '', '\n'.join(lines).rstrip()]
    return '\n'.join(text).replace(f'{Path(__file__).resolve().parents[1]}/', '') + '\n'
