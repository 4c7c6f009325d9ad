"""IMPACTS files: the clips as mp4, and the tables that say what is in them."""

import csv
import io
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gmscavp.compat import cores
from gmscavp.datasets.encoding import write_clip
from gmscavp.datasets.impacts_render.galleries import make_scenes
from gmscavp.datasets.impacts_render.scenes import DURATION_S, FPS, SAMPLE_RATE, Difficulty, Scene
from gmscavp.datasets.impacts_render.signals import AMBIENCES, render_scene
from gmscavp.errors import UserError

FORMAT_VERSION = 1
CHUNK = 8
PLACES = {
    'plain': 'a grey wall',
    'dusk': 'an evening sky',
    'sand': 'a sandy slope',
    'brick': 'a brick wall',
    'grass': 'tall grass',
}
OUTPUT_TABLES = ('events.jsonl', 'impacts.csv', 'manifest.csv')


def scene_label(scene: Scene) -> str:
    """The objects from left to right: 'red disc + blue square'."""
    return ' + '.join(f'{b.look.colour} {b.look.shape}' for b in sorted(scene.bouncers, key=lambda b: b.x))


def scene_caption(scene: Scene) -> str:
    """One sentence: what bounces, and where."""
    names = [f'a {name}' for name in scene_label(scene).split(' + ')]
    listed = names[0] if len(names) == 1 else f'{", ".join(names[:-1])} and {names[-1]}'
    return f'{listed.capitalize()} {"bounces" if len(names) == 1 else "bounce"} in front of {PLACES[scene.background]}.'


def scene_truth(scene: Scene) -> dict[str, object]:
    """What events.jsonl says about a clip: objects with their impacts, and what is there to mislead."""
    ambience = AMBIENCES[scene.background]
    objects = [
        {**asdict(b.look), 'x': b.x, 'impacts': [asdict(impact) for impact in b.impacts]} for b in scene.bouncers
    ]
    movers = [{'kind': 'silent_mover', **asdict(m.look), 'centre': m.centre, 'swing': m.swing} for m in scene.movers]
    sounds = [
        {'kind': 'off_screen_sound', **asdict(s.look), 'time_s': s.time_s, 'speed': s.speed} for s in scene.off_screen
    ]
    return {
        'clip_id': scene.clip_id,
        'file': _file_of(scene),
        'split': scene.split,
        'gallery': scene.gallery,
        'group': scene.group,
        'background': scene.background,
        'ambient': ambience.name,
        'ambient_db': scene.ambient_db + ambience.gain_db,
        'objects': objects,
        'distractors': movers + sounds,
    }


def render_impacts(
    root: str | Path,
    train: int = 1024,
    test: int = 256,
    seed: int = 0,
    difficulty: Difficulty | None = None,
    workers: int | None = None,
    progress: bool = True,
    *,
    force: bool = False,
) -> Path:
    """Render the data set into a folder and return the folder: train clips, and `test` clips of each test gallery.

    Writes video/<clip_id>.mp4 (named as in VGGSound), and when all are there impacts.csv (VGGSound's csv), events.jsonl
    (scene_truth, one line per clip) and manifest.csv. A stopped run goes on where it was when called again with the
    same numbers; render.json remembers them. workers: processes, None for one per core. force: clear the folder of a
    rendering with other numbers. UserError: the folder holds something else, the disk refuses.

    The processes import the calling script: call this under `if __name__ == '__main__':`, or with workers=1.
    """
    root = Path(root)
    difficulty = difficulty or Difficulty()
    scenes = make_scenes(seed, train, 'mixed', difficulty, split='train')
    for gallery in ('semantic', 'temporal'):
        scenes += make_scenes(seed, test, gallery, difficulty, split='test')
    stamp = {'format': FORMAT_VERSION, 'seed': seed, 'train': train, 'test': test, 'difficulty': asdict(difficulty)}
    try:
        _claim_folder(root, stamp, force)
        _render_missing(root, scenes, workers, progress)
        _write_tables(root, scenes)
    except OSError as error:
        raise UserError(f'Cannot write the IMPACTS clips to {root}: {error.strerror or error}.') from error
    return root


def _file_of(scene: Scene) -> str:
    return f'video/{scene.clip_id}.mp4'


def _claim_folder(root: Path, stamp: dict[str, object], force: bool) -> None:
    """Make the folder ours: leave what the same rendering has written, refuse or clear what another one has."""
    stamp_file = root / 'render.json'
    if stamp_file.exists():
        found = _read_stamp(stamp_file)
        if found != stamp and not force:
            raise UserError(
                f'{root} holds another rendering ({_differences(found, stamp)}): give another folder, or --force to '
                'replace it.'
            )
        if found != stamp:
            _clear(root)
    elif (root / 'video').exists() or any((root / name).exists() for name in OUTPUT_TABLES):
        raise UserError(f'{root} holds files that were not rendered by this tool: give another folder.')
    root.mkdir(parents=True, exist_ok=True)
    _replace_text(stamp_file, json.dumps(stamp, indent=2) + '\n')
    (root / 'video').mkdir(exist_ok=True)
    for leftover in (root / 'video').glob('.*.part'):  # of a process that was killed
        leftover.unlink(missing_ok=True)


def _read_stamp(file: Path) -> dict[str, object]:
    """The stamp, or an empty one when the file was damaged."""
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _differences(found: dict[str, object], wanted: dict[str, object]) -> str:
    if not found:
        return 'its render.json cannot be read'
    names = [name for name in wanted if found.get(name) != wanted[name]]
    return ', '.join(f'{name} {found.get(name)} instead of {wanted[name]}' for name in names) or 'other fields'


def _clear(root: Path) -> None:
    """Delete what a rendering writes, and nothing else that lies in the folder."""
    for name in OUTPUT_TABLES:
        (root / name).unlink(missing_ok=True)
    for file in (root / 'video').glob('*.mp4'):
        if re.fullmatch(r'[\w-]{11}_\d{6}\.mp4', file.name):
            file.unlink()


def _render_missing(root: Path, scenes: Sequence[Scene], workers: int | None, progress: bool) -> None:
    """Render the scenes that have no file yet. Ctrl-C keeps what is done and is passed on with how far it came."""
    missing = _without_file(root, scenes)
    chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    processes = min(workers or cores(), len(chunks))
    columns = (TextColumn('rendering'), BarColumn(), MofNCompleteColumn(), TextColumn('clips'), TimeRemainingColumn())
    try:
        with (
            Progress(*columns, console=Console(stderr=True), disable=not progress) as bar,
            closing(_rendered(root, chunks, processes)) as counts,
        ):
            task = bar.add_task('rendering', total=len(scenes), completed=len(scenes) - len(missing))
            for count in counts:
                bar.advance(task, count)
    except KeyboardInterrupt:
        done = len(scenes) - len(_without_file(root, scenes))
        raise KeyboardInterrupt(
            f'stopped after {done} of {len(scenes)} clips in {root}; the same command goes on from there.'
        ) from None


def _without_file(root: Path, scenes: Sequence[Scene]) -> list[Scene]:
    return [scene for scene in scenes if not (root / _file_of(scene)).exists()]


def _rendered(root: Path, chunks: Sequence[Sequence[Scene]], processes: int) -> Generator[int, None, None]:
    """Render every chunk and give its number of clips when it is done."""
    if processes <= 1:
        for chunk in chunks:
            yield _render_chunk(root, chunk)
        return
    with _pool(processes) as pool:
        for future in as_completed([pool.submit(_render_chunk, root, chunk) for chunk in chunks]):
            yield future.result()


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes (a fork would copy the threads of libraries half-way) that finish their chunk when stopped."""
    context = multiprocessing.get_context('spawn')
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_ignore_ctrl_c)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            'A rendering process died, perhaps for lack of memory: run the same command with fewer --workers.'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_ctrl_c() -> None:
    """Ctrl-C reaches every process of the terminal; only the first one decides what happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _render_chunk(root: Path, scenes: Sequence[Scene]) -> int:
    for scene in scenes:
        frames, audio = render_scene(scene)
        metadata = {'title': scene_label(scene), 'comment': f'IMPACTS {scene.split} {scene.gallery}'}
        write_clip(root / _file_of(scene), frames, FPS, audio, SAMPLE_RATE, metadata=metadata)
    return len(scenes)


def _write_tables(root: Path, scenes: Sequence[Scene]) -> None:
    """impacts.csv (video id, start in seconds, label, split; no header), events.jsonl and manifest.csv."""
    official = [(*_id_and_start(scene), scene_label(scene), scene.split) for scene in scenes]
    header = ('clip_id', 'file', 'start_s', 'end_s', 'label', 'caption', 'split', 'gallery', 'group')
    rows = [
        (
            scene.clip_id,
            _file_of(scene),
            0.0,
            DURATION_S,
            scene_label(scene),
            scene_caption(scene),
            scene.split,
            scene.gallery,
            '' if scene.group is None else scene.group,
        )
        for scene in scenes
    ]
    _replace_text(root / 'impacts.csv', _csv_text(official))
    _replace_text(root / 'events.jsonl', ''.join(json.dumps(scene_truth(scene)) + '\n' for scene in scenes))
    _replace_text(root / 'manifest.csv', _csv_text([header, *rows]))


def _id_and_start(scene: Scene) -> tuple[str, int]:
    video_id, start = scene.clip_id.rsplit('_', 1)
    return video_id, int(start)


def _csv_text(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


def _replace_text(file: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new one, never a part."""
    partial = file.with_name(f'.{file.name}.{os.getpid()}.part')
    try:
        partial.write_text(text, encoding='utf-8', newline='\n')
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
