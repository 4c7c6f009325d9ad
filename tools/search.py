"""Search in a library of videos and sounds: which sound belongs to a video, which video to a sound, and where."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from gmscavp.engine.cli import run_tool
from gmscavp.errors import UserError
from gmscavp.inference import Model
from gmscavp.search import (
    BOTH,
    Answer,
    Filters,
    Step,
    Store,
    Work,
    carry_out,
    find,
    labels_of,
    library_store,
    open_store,
    plan,
    writing,
)
from gmscavp.search.store import ANN_FROM

# Bad files that are listed on the screen; --json has all.
_SHOWN = 20
EXIT = 'Exit codes: 0 done; 1 done, but files were bad (index) or nothing was found (query); 2 a mistake; 130 Ctrl-C.'


def main() -> None:
    """Read the command line and do what it names."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=f'`<command> --help` explains its options. {EXIT}')
    commands = parser.add_subparsers(title='commands', metavar='<command>', required=True)
    add_index(commands)
    add_query(commands)
    add_info(commands)
    add_delete(commands)
    arguments = parser.parse_args()
    arguments.run(arguments)


def _add(commands: Any, name: str, run: Callable[[argparse.Namespace], None], what: str) -> argparse.ArgumentParser:
    """A subcommand with the options that all of them have."""
    parser = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + '.', epilog=EXIT)
    parser.add_argument(
        '--db', required=True, metavar='DB', help='folder of the database, or s3://..., gs://..., az://...'
    )
    parser.add_argument('--json', action='store_true', help='for programs: one JSON object on stdout')
    parser.set_defaults(run=run)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--model', required=True, type=Path, metavar='RUN', help='work directory or checkpoint of GMSCAVP'
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1; without it a GPU where there is one')


def add_index(commands: Any) -> None:
    """`index`."""
    what = (
        'embed the videos and sounds of a folder; run again, only what is new or changed is embedded and what is gone is '
        'forgotten; stopped at any time, the same command goes on'
    )
    parser = _add(commands, 'index', run_index, what)
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='the library')
    _add_model(parser)
    parser.add_argument('--stride', type=float, default=1.0, metavar='S', help='seconds between windows (default 1)')
    parser.add_argument(
        '--sides',
        nargs='+',
        choices=BOTH,
        default=BOTH,
        help='what is embedded (default both)',
    )
    parser.add_argument(
        '--labels', type=Path, metavar='MANIFEST', help='a csv or parquet with the columns file and label'
    )
    parser.add_argument(
        '--check-content', action='store_true', help='read every file; without it size and time of change tell'
    )
    parser.add_argument(
        '--ann-from', type=int, default=ANN_FROM, metavar='N', help=f'windows for an approximate index ({ANN_FROM:,})'
    )


def run_index(arguments: argparse.Namespace) -> None:
    """Embed what is new; say what was done, and which files are bad."""
    model = Model.from_run(arguments.model, device=arguments.device)
    labels = labels_of(arguments.labels) if arguments.labels else None
    sides = tuple(side for side in BOTH if side in arguments.sides)
    with writing(arguments.db):
        store = library_store(arguments.db, model, arguments.folder, arguments.stride, sides)
        work = plan(store, arguments.folder, labels, arguments.check_content)
        store.set_root(str(arguments.folder.resolve()))
        steps: list[Step] = []
        try:
            with _progress(arguments.json) as bar:
                task = bar.add_task('indexing', total=len(work.todo), speed='')
                for step in carry_out(work, store, model, arguments.folder):
                    steps.append(step)
                    bar.update(task, advance=1, speed=_speed(steps, bar.tasks[0].elapsed or 0))
            with nullcontext() if arguments.json else Console(stderr=True).status('joining and indexing'):
                store.tidy(arguments.ann_from)
        except KeyboardInterrupt as stopped:
            raise KeyboardInterrupt(
                f'stopped by Ctrl-C after {len(steps):,} of {len(work.todo):,} files, which are kept and can be searched; '
                'the same command goes on from there.'
            ) from stopped
        report_index(work, steps, store, arguments.json)
    if any(step.state == 'bad' for step in steps):
        sys.exit(1)


def _progress(quiet: bool) -> Progress:
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('files'),
        TextColumn('{task.fields[speed]}'),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True)


def _speed(steps: list[Step], elapsed_s: float) -> str:
    """Hours of media in a minute of work."""
    hours = sum(step.duration_s for step in steps if step.state in ('added', 'replaced')) / 3600
    return f'{hours / (elapsed_s / 60):.2f} h/min' if elapsed_s > 0 else ''


def report_index(work: Work, steps: list[Step], store: Store, as_json: bool) -> None:
    """Counts, then the bad files by cause."""
    states = Counter(step.state for step in steps)
    counts = {
        'added': states['added'],
        'replaced': states['replaced'],
        'unchanged': work.unchanged + states['unchanged'],
        'removed': len(work.vanished),
        'relabelled': len(work.relabel),
        'bad': states['bad'],
    }
    bad = [step for step in steps if step.state == 'bad']
    causes = Counter(step.cause for step in bad)
    if as_json:
        listed = [{'file': step.file, 'cause': step.cause, 'detail': step.detail} for step in bad]
        print(json.dumps(counts | {'windows': len(store), 'causes': causes, 'bad_files': listed}))
        return
    print(', '.join(f'{count:,} {what}' for what, count in counts.items()) + f'; {len(store):,} windows in {store.uri}')
    for cause, count in causes.most_common():
        print(f'{count:,} left out: {cause}')
    for step in bad[:_SHOWN]:
        print(f'  {step.file}: {step.cause}' + (f' ({step.detail})' if step.detail else ''))
    if len(bad) > _SHOWN:
        print(f'  and {len(bad) - _SHOWN:,} more; --json lists all')


def add_query(commands: Any) -> None:
    """`query`."""
    what = (
        'find what belongs to a video, a sound or a picture: a video or picture asks the sounds, a sound asks the videos, '
        'unless --target says otherwise'
    )
    parser = _add(commands, 'query', run_query, what)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument('--video', metavar='FILE', help='ask with the pictures of a file')
    asked.add_argument('--audio', metavar='FILE', help='ask with the sound of a file')
    asked.add_argument('--picture', metavar='FILE', help='ask with a still picture')
    _add_model(parser)
    parser.add_argument('--start', type=float, default=0.0, metavar='S', help='ask with the part from here on, seconds')
    parser.add_argument('--end', type=float, metavar='S', help='up to here')
    parser.add_argument('--target', choices=BOTH, help='the side that answers')
    parser.add_argument('--path', metavar='GLOB', help="only files of this name below the library, as 'rain/*'")
    parser.add_argument('--label', metavar='GLOB', help='only files of this label')
    parser.add_argument('--min-duration', type=float, metavar='S', help='only files of at least so many seconds')
    parser.add_argument('--max-duration', type=float, metavar='S', help='only files of at most so many seconds')
    parser.add_argument('--limit', type=int, default=10, metavar='N', help='at most so many answers (default 10)')
    parser.add_argument(
        '--min-score', type=float, default=float('-inf'), metavar='X', help='leave out what scores less'
    )
    parser.add_argument('--exact', action='store_true', help='pass the approximate index over')
    parser.add_argument(
        '--no-rerank', action='store_true', help='windows as they are stored, not placed by fine scales'
    )
    parser.add_argument(
        '--root', type=Path, help='where the library is now, if it was moved; default: where it was indexed'
    )


def run_query(arguments: argparse.Namespace) -> None:
    """Print the answers, best first."""
    if arguments.limit < 1:
        raise UserError(f'--limit must be at least 1, not {arguments.limit}.')
    store = open_store(arguments.db)
    model = Model.from_run(arguments.model, device=arguments.device)
    answers = find(
        store,
        model,
        arguments.video or arguments.audio or arguments.picture,
        'audio' if arguments.audio else 'video',
        target=arguments.target,
        start_s=arguments.start,
        end_s=arguments.end,
        filters=Filters(arguments.path, arguments.label, arguments.min_duration, arguments.max_duration),
        limit=arguments.limit,
        min_score=arguments.min_score,
        exact=arguments.exact,
        rerank=not arguments.no_rerank,
    )
    root = str(arguments.root or store.root)
    if arguments.json:
        print(json.dumps({'root': root, 'answers': [asdict(answer) for answer in answers]}))
    elif answers:
        print_answers(answers, root)
    else:
        print('nothing was found; widen the filters or lower --min-score.')
    if not answers:
        sys.exit(1)


def print_answers(answers: list[Answer], root: str) -> None:
    """A row an answer."""
    labelled = any(answer.label for answer in answers)
    table = Table(box=SIMPLE)
    for title in ('score', 'start s', 'end s', 'side', 'file', *['label'] * labelled):
        table.add_column(title, overflow='fold', justify='right' if title in ('score', 'start s', 'end s') else 'left')
    for answer in answers:
        numbers = f'{answer.score:.3f}', f'{answer.start_s:.2f}', f'{answer.end_s:.2f}'
        # Square brackets in a name are no markup.
        name = answer.file.replace('[', '\\[')
        table.add_row(*numbers, answer.modality, name, *[(answer.label or '').replace('[', '\\[')] * labelled)
    Console().print(table)
    print(f'files are below {root}' if root else 'files are below the folder that was indexed')


def add_info(commands: Any) -> None:
    """`info`."""
    _add(commands, 'info', run_info, 'say what a database holds')


def run_info(arguments: argparse.Namespace) -> None:
    """Files, hours, windows, model, version, index, size."""
    store = open_store(arguments.db)
    known = store.known()
    about = store.about
    facts = {
        'files': len(known),
        'hours': sum(entry.duration_s for entry in known.values()) / 3600,
        'windows': len(store),
        'window_s': about.window_s,
        'stride_s': about.stride_s,
        'sides': ' '.join(about.sides),
        'width': about.width,
        'scales': ' '.join(map(str, about.lengths)),
        'model': about.model,
        'version': about.version,
        'made_by': about.made_by,
        'index': store.index or 'none (exact search)',
        'bytes': store.size,
        'root': store.root,
    }
    if arguments.json:
        print(json.dumps(facts))
        return
    for name, fact in facts.items():
        print(f'{name:9} {f"{fact:,.2f}" if isinstance(fact, float) else fact}')


def add_delete(commands: Any) -> None:
    """`delete`."""
    parser = _add(commands, 'delete', run_delete, 'forget files, or the whole library; media files stay as they are')
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--path', metavar='GLOB', help="files of this name below the library, as 'rain/*'")
    what.add_argument('--all', action='store_true', help='everything')
    parser.add_argument('--yes', action='store_true', help='do not ask')


def run_delete(arguments: argparse.Namespace) -> None:
    """Ask, then forget."""
    # Before the lock, which makes a folder.
    open_store(arguments.db)
    with writing(arguments.db):
        store = open_store(arguments.db)
        files = sorted(store.known(Filters(path=arguments.path).condition()))
        if not files and not arguments.all:
            raise UserError(f'{arguments.db} has no file {arguments.path}; * stands for any characters.')
        if not arguments.yes and not _agreed(f'Forget {len(files):,} files of {arguments.db}?'):
            raise UserError('nothing was forgotten; --yes does not ask.')
        if arguments.all:
            store.drop()
        else:
            store.remove(files)
            store.tidy()
    print(json.dumps({'removed': len(files)}) if arguments.json else f'{len(files):,} files forgotten.')


def _agreed(question: str) -> bool:
    try:
        return sys.stdin.isatty() and input(f'{question} [y/N] ').strip().lower() in ('y', 'yes')
    except EOFError:
        return False


if __name__ == '__main__':
    run_tool(main)
