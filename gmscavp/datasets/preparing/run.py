"""The preparation of a data set from beginning to end: measure, filter, rewrite, write the manifest and the report."""

import glob
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gmscavp.compat import cores
from gmscavp.datasets.listing import Listing
from gmscavp.datasets.manifest import Manifest
from gmscavp.datasets.preparing.filters import Limits
from gmscavp.datasets.preparing.journal import Journal, key_of
from gmscavp.datasets.preparing.output import Counter, Kept, columns_of, write_atomically, write_manifest
from gmscavp.datasets.preparing.pool import Lost, run_each
from gmscavp.datasets.preparing.probing import Measures, Trouble, Window, measure
from gmscavp.datasets.preparing.report import Report
from gmscavp.datasets.preparing.rewriting import Form, Rewriting, rewrite, target_name
from gmscavp.errors import UserError

_LOST = ('timed out', 'crashed')

# What a slow machine needs to rewrite a second of full-HD video, with a margin.
_REWRITING_S = 10.0


@dataclass(frozen=True)
class Work:
    """How to go about it. workers: processes, 0 for one per core. timeout_s: for one clip.

    fresh: forget what earlier runs found. retry: try clips again that timed out or crashed. progress: show a bar. part: do
    part k of n alone, (k, n) with k from 1, and leave the manifest to a run without a part, which takes in what all did.
    memory_mib: the most that a process may take beyond its libraries; a clip that needs more counts as damaged or crashed.
    """

    workers: int = 0
    timeout_s: float = 60.0
    fresh: bool = False
    retry: bool = False
    progress: bool = True
    part: tuple[int, int] | None = None
    memory_mib: float = 4096.0

    @property
    def memory_bytes(self) -> int:
        """The same in bytes."""
        return round(self.memory_mib * 2**20)

    def journal(self, base: Path, purpose: Mapping[str, Any]) -> Journal:
        """That of this part, or that of the whole with what all parts have noted."""
        if self.part:
            k, n = self.part
            return Journal(base.with_name(f'{base.name}.journal.{k}of{n}.jsonl'), purpose, self.fresh)
        whole = Journal(base.with_name(f'{base.name}.journal.jsonl'), purpose, self.fresh)
        for file in sorted(base.parent.glob(f'{glob.escape(base.name)}.journal.*of*.jsonl')):
            if self.fresh:
                file.unlink()
                continue
            with Journal(file, purpose) as of_part:
                for key in of_part.done.keys() - whole.done.keys():
                    whole.add(**of_part.done[key])
        return whole


class _Row(NamedTuple):
    """A clip of the listing: its number there, its window, and the journal's key of it."""

    number: int
    window: Window
    key: str


def prepare(
    listing: Listing,
    root: Path,
    out: Path,
    limits: Limits,
    work: Work,
    rewrite_into: Path | None = None,
    form: Form | None = None,
) -> Report:
    """Measure the clips of a listing below `root` and write those within the limits to `out` (.parquet or .csv).

    Beside `out` lie `<out>.journal.jsonl`, with which a stopped run goes on and other limits need no new measuring, and
    `<out>.report.json`. rewrite_into: write the clips that are kept into this folder in `form` (None: its defaults); the
    manifest then names these files, relative to the folder. Raises UserError when nothing is kept or `out` cannot be
    written, KeyboardInterrupt with how far it came on Ctrl-C.
    """
    if out.suffix not in ('.parquet', '.csv'):
        raise UserError(f'--out {out} must end in .parquet or .csv.')
    form = form or Form()
    rows = _rows(listing.manifest, root.resolve())
    if work.part:
        rows = rows[work.part[0] - 1 :: work.part[1]]
    measured = _measure_all(rows, out, work)
    settings = {'root': str(root), **asdict(limits)} | ({'rewritten': asdict(form)} if rewrite_into else {})
    report = Report(listing.listed, len(rows), settings=settings)
    kept = _filter(listing.manifest, rows, measured, limits, report)
    if rewrite_into:
        kept = _rewrite_all(listing.manifest, rows, kept, rewrite_into, form, work, report)
    for clip in kept:
        report.keep(listing.manifest[clip.number].split, clip.measured.duration_s)
    if work.part:
        return report
    write_atomically(
        out.with_name(f'{out.name}.report.json'),
        lambda part: part.write_text(json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + '\n', 'utf-8'),
    )
    if not kept:
        causes = ', '.join(f'{entry["count"]:,} {cause}' for cause, entry in report.as_dict()['dropped'].items())
        raise UserError(f'none of the {len(rows):,} clips is kept ({causes}); see {out}.report.json for examples.')
    write_manifest(columns_of(listing.manifest, kept), out)
    return report


def _rows(manifest: Manifest, root: Path) -> list[_Row]:
    names = ('clip_id', 'file', 'start_s', 'end_s')
    rows = []
    for number, (clip_id, file, start_s, end_s) in enumerate(zip(*map(manifest.column, names), strict=True)):
        window = Window(str(root / file), start_s, end_s)
        rows.append(_Row(number, window, key_of(clip_id, *window)))
    return rows


def _measure_row(row: _Row) -> Measures | Trouble:
    return measure(row.window)


def _measure_all(rows: Sequence[_Row], out: Path, work: Work) -> dict[str, Measures | Trouble]:
    """Key -> what was measured, now or by earlier runs."""
    with work.journal(out, {'of': 'measures'}) as journal:
        waiting = [row for row in rows if _is_open(journal.done.get(row.key), work.retry)]
        answers = run_each(
            _measure_row, waiting, work.workers or cores(), lambda row: work.timeout_s, work.memory_bytes
        )
        with closing(answers), Counter('measuring', len(rows), len(rows) - len(waiting), work.progress) as counter:
            for row, answer in answers:
                outcome = Trouble(answer.cause, _lost_detail(answer, work)) if isinstance(answer, Lost) else answer
                found = {'trouble': outcome} if isinstance(outcome, Trouble) else {'measures': asdict(outcome)}
                journal.add(row.key, **found)
                counter.advance()
        return {row.key: _outcome(journal.done[row.key]) for row in rows}


def _is_open(entry: Mapping[str, Any] | None, retry: bool) -> bool:
    return entry is None or (retry and 'trouble' in entry and entry['trouble'][0] in _LOST)


def _outcome(entry: Mapping[str, Any]) -> Measures | Trouble:
    return Trouble(*entry['trouble']) if 'trouble' in entry else Measures(**entry['measures'])


def _lost_detail(lost: Lost, work: Work) -> str:
    return f'after {work.timeout_s:g} s' if lost.cause == 'timed out' else 'the process that read it died'


def _filter(
    manifest: Manifest,
    rows: Sequence[_Row],
    measured: Mapping[str, Measures | Trouble],
    limits: Limits,
    report: Report,
) -> list[Kept]:
    kept = []
    for row in rows:
        outcome, record = measured[row.key], manifest[row.number]
        cause = limits.cause(outcome)
        if cause is None and isinstance(outcome, Measures):
            kept.append(Kept(row.number, record.file, outcome))
        else:
            report.drop(str(cause), record.clip_id, record.file, _detail(outcome))
    return kept


def _detail(outcome: Measures | Trouble) -> str:
    if isinstance(outcome, Trouble):
        return outcome.detail
    return (
        f'{outcome.duration_s:.2f} s, {outcome.width} x {outcome.height}, loudness {outcome.loudness:.1f} dB, motion '
        f'{outcome.motion:.2f}'
    )


def _rewrite_all(
    manifest: Manifest,
    rows: Sequence[_Row],
    kept: Sequence[Kept],
    folder: Path,
    form: Form,
    work: Work,
    report: Report,
) -> list[Kept]:
    """Rewrite the clips that have no file yet; those that cannot be are dropped and counted."""
    names = {clip.number: target_name(manifest[clip.number].clip_id) for clip in kept}
    _refuse_same_targets(manifest, names)
    folder = folder.resolve()
    row_of = {row.number: row for row in rows}
    jobs = {
        row_of[clip.number].key: Rewriting(
            row_of[clip.number].window.file, str(folder / names[clip.number]), clip.measured, form
        )
        for clip in kept
    }
    with work.journal(folder / 'rewriting', {'of': 'rewriting', **asdict(form)}) as journal:
        # Of processes that were stopped or killed at work; beside a part others may be at work now.
        for leftover in () if work.part else folder.rglob('.*.part'):
            leftover.unlink(missing_ok=True)
        waiting = [(key, job) for key, job in jobs.items() if not _is_written(journal.done.get(key), job, work.retry)]
        answers = run_each(
            _rewrite_job, waiting, work.workers or cores(), lambda task: _patience_s(task[1], work), work.memory_bytes
        )
        with closing(answers), Counter('rewriting', len(jobs), len(jobs) - len(waiting), work.progress) as counter:
            for (key, job), answer in answers:
                outcome = Trouble(answer.cause, 'while rewriting') if isinstance(answer, Lost) else answer
                journal.add(key, target=job.target, trouble=outcome)
                counter.advance()
        written = []
        for clip in kept:
            key = row_of[clip.number].key
            trouble = journal.done[key]['trouble']
            if trouble is None:
                written.append(Kept(clip.number, names[clip.number], _rewritten(jobs[key])))
            else:
                report.drop(f'rewriting: {trouble[0]}', manifest[clip.number].clip_id, clip.file, trouble[1])
        return written


def _rewrite_job(task: tuple[str, Rewriting]) -> Trouble | None:
    return rewrite(task[1])


def _patience_s(job: Rewriting, work: Work) -> float:
    return work.timeout_s + _REWRITING_S * job.measured.duration_s


def _is_written(entry: Mapping[str, Any] | None, job: Rewriting, retry: bool) -> bool:
    if entry is None or entry['target'] != job.target:
        return False
    trouble = entry['trouble']
    return os.path.isfile(job.target) if trouble is None else not (retry and trouble[0] in _LOST)


def _rewritten(job: Rewriting) -> Measures:
    """What the new file holds; loudness and motion are those of the old one."""
    height, width = job.picture_size
    return Measures(
        start_s=0.0,
        end_s=job.frames / job.fps,
        width=width,
        height=height,
        fps=job.fps,
        audio_rate=job.form.sample_rate,
        loudness=job.measured.loudness,
        peak=job.measured.peak,
        motion=job.measured.motion,
    )


def _refuse_same_targets(manifest: Manifest, names: Mapping[int, str]) -> None:
    first: dict[str, int] = {}
    for number, name in names.items():
        if (other := first.setdefault(name, number)) != number:
            one, two = manifest[other].clip_id, manifest[number].clip_id
            raise UserError(f"clips '{one}' and '{two}' would both be written to {name}; give them other clip_ids.")
