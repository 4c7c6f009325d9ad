"""What search in a library costs and how right it is: python benchmarks/search.py

First made-up vectors, as wide as the tiny model's and as clustered: mixtures of files of neighbouring windows, which are
mixtures of kinds; queries are stored vectors with noise, as another side's are. For every size: seconds to write and to
index, bytes, and, of each setting of the index, recall@10 against the exact search and milliseconds a query. Then, with
--model, the error of moments: test clips of Impacts joined into long films of known place, and parts of them that begin
anywhere, asked by their pictures among the sounds and the other way round. 1 M windows need 9 GB of disk.
"""

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
from measuring import markdown
from rich.progress import track

from gmscavp.datasets import read_clip
from gmscavp.datasets.encoding import write_clip_parts
from gmscavp.datasets.impacts_render.scenes import DURATION_S, FPS, SAMPLE_RATE, SIDE
from gmscavp.datasets.manifest import Manifest
from gmscavp.engine.cli import run_tool
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError
from gmscavp.inference import Model
from gmscavp.search import About, Answer, Known, Store, carry_out, find, library_store, plan
from gmscavp.search.layout import Vectors, rows_of
from gmscavp.search.store import ANN_SEARCH, AnnSearch, create_store

LENGTHS, DIM = (16, 8, 4, 2, 1), 64
COST, MOMENTS = '## Cost and recall', '## Error of moments'
BEST = 10
CLIPS_A_FILM = 8
WINDOWS_A_FILE, FILES_A_COMMIT = 50, 200
# Of the unit vectors: how far windows of a file, files of a kind, and queries stand apart. The last is a hard case: the
# cosine of a query with the window that it was made of is 0.3.
SPREAD_WINDOW, SPREAD_FILE, SPREAD_QUERY = 0.5, 0.7, 3.0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs='*', default=[10_000, 100_000], help='windows of made-up libraries')
    parser.add_argument('--queries', type=int, default=50, help='of each made-up library')
    parser.add_argument(
        '--model', type=Path, help='run of GMSCAVP for the error of moments; without it that is left out'
    )
    parser.add_argument('--data-root', type=Path, default=ROOT / 'data/impacts', help='folder that holds Impacts')
    parser.add_argument('--films', type=int, default=16, help='films of 8 clips each')
    parser.add_argument('--moments', type=int, default=128, help='parts of films that are asked')
    parser.add_argument('--stride', type=float, nargs='+', default=[1.0], help='seconds between windows')
    parser.add_argument('--temp', type=Path, help='folder for the databases; they are removed again')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/search.md', help='page to write')
    parser.add_argument('--smoke', action='store_true', help='everything in small; writes no page')
    args = parser.parse_args()
    if args.smoke:
        args.sizes, args.queries = [600], 3
    return args


class Library:
    """Clustered unit vectors: a kind is a direction, a file is near its kind, a window near its file."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.width = size, sum(LENGTHS) * DIM
        self.rng = np.random.default_rng(seed)
        self.kinds = self._directions(max(4, round(size**0.5) // 4))

    def files(self) -> np.ndarray:
        """A few files: (F, windows, E)."""
        count = min(FILES_A_COMMIT, self.size // WINDOWS_A_FILE)
        files = self.kinds[self.rng.integers(len(self.kinds), size=count)]
        files = _unit(files + SPREAD_FILE * self._directions(count))
        windows = self._directions(count * WINDOWS_A_FILE).reshape(count, WINDOWS_A_FILE, self.width)
        return _unit(files[:, None] + SPREAD_WINDOW * windows)

    def asked(self, vectors: np.ndarray) -> np.ndarray:
        """(N, E) -> (N, E), what another side would ask with."""
        return _unit(vectors + SPREAD_QUERY * self._directions(len(vectors)))

    def _directions(self, count: int) -> np.ndarray:
        return _unit(self.rng.standard_normal((count, self.width), dtype=np.float32))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Cost:
    """Of one way to search a library: share of the exact best found, milliseconds of all queries."""

    way: str
    recall: float
    milliseconds: list[float]

    def row(self, size: int) -> list[str]:
        """Of the table."""
        median, most = np.median(self.milliseconds), np.quantile(self.milliseconds, 0.9)
        return [f'{size:,}', self.way, f'{100 * self.recall:.1f}', f'{median:.1f}', f'{most:.1f}']


def written(size: int, folder: Path) -> tuple[Store, np.ndarray, float]:
    """A made-up library, what it is asked with, and the seconds that writing took."""
    library = Library(size)
    about = About('made up', library.width, LENGTHS, DURATION_S, 1.0, ('audio',))
    store = create_store(str(folder), about)
    seconds, samples = 0.0, []
    for number in track(range(max(1, size // (FILES_A_COMMIT * WINDOWS_A_FILE))), f'writing {size:,}'):
        vectors = library.files()
        samples.append(vectors[:4, 0])
        flat = vectors.reshape(-1, library.width)
        starts = np.arange(len(flat), dtype=float)
        entry = Known(str(number), 0, 0, None, float(len(flat)), len(flat))
        rows = rows_of(about, f'{number}.wav', entry, {'audio': Vectors(starts, starts + DURATION_S, flat)})
        begun = time.perf_counter()
        store.commit(rows, replaces=False)
        seconds += time.perf_counter() - begun
    return store, library.asked(np.concatenate(samples)), seconds


def found_by(
    store: Store, queries: np.ndarray, ann: AnnSearch | None
) -> tuple[list[set[tuple[str, float]]], list[float]]:
    """The best of every query, and milliseconds; None: by the exact search."""
    best, milliseconds = [], []
    for query in queries:
        begun = time.perf_counter()
        rows = store.search(query, BEST, exact=ann is None, ann=ann or ANN_SEARCH)
        milliseconds.append(1000 * (time.perf_counter() - begun))
        best.append(set(zip(rows['file'].to_pylist(), rows['start_s'].to_pylist(), strict=True)))
    return best, milliseconds


def costs(size: int, queries: int, folder: Path, smoke: bool) -> tuple[list[list[str]], list[str]]:
    """Rows of the table of searches, and the row of what building cost."""
    store, asked, seconds = written(size, folder)
    asked = asked[:: max(1, len(asked) // queries)][:queries]
    store.tidy(ann_from=sys.maxsize)
    bare = store.size or 0
    truth, milliseconds = found_by(store, asked, None)
    rows = [Cost('exact', 1.0, milliseconds).row(size)]
    begun = time.perf_counter()
    store.build_index()
    build = time.perf_counter() - begun
    ways = [ANN_SEARCH] if smoke else [AnnSearch(5, 5), AnnSearch(10, 10), AnnSearch(20, 10), ANN_SEARCH]
    for ann in dict.fromkeys(ways):
        found_by(store, asked[:1], ann)
        best, milliseconds = found_by(store, asked, ann)
        recall = float(np.mean([len(one & other) / len(one) for one, other in zip(truth, best, strict=True)]))
        chosen = ', as chosen' if ann == ANN_SEARCH else ''
        rows.append(Cost(f'nprobes {ann.nprobes}, refine {ann.refine}{chosen}', recall, milliseconds).row(size))
    index = (store.size or 0) - bare
    return rows, [f'{size:,}', f'{seconds:.1f}', f'{build:.1f}', f'{bare / 1e6:,.0f}', f'{index / 1e6:,.0f}']


def films(data_root: Path, count: int, folder: Path) -> list[Path]:
    """Test clips of Impacts one after another, so that place k of a film is known: clip k // 4 s."""
    if not (data_root / 'manifest.csv').is_file():
        raise UserError(f'{data_root} holds no Impacts; make them with: python tools/prepare_data.py impacts')
    manifest = Manifest.read(data_root / 'manifest.csv')
    columns = zip(*(manifest.column(name) for name in ('file', 'split', 'gallery')), strict=True)
    clips = [data_root / file for file, split, gallery in columns if (split, gallery) == ('test', 'semantic')]
    made = []
    for number in track(range(min(count, len(clips) // CLIPS_A_FILM)), 'joining clips'):
        film = folder / f'{number:03}.mp4'
        read = (
            read_clip(clip, 0.0, DURATION_S, FPS, SIDE, SAMPLE_RATE)
            for clip in clips[number * CLIPS_A_FILM :][:CLIPS_A_FILM]
        )
        parts = ((clip.video.permute(0, 2, 3, 1).numpy(), clip.audio.numpy()) for clip in read)
        write_clip_parts(film, parts, FPS, SAMPLE_RATE)
        made.append(film)
    return made


def errors(model: Model, made: list[Path], stride_s: float, moments: int, folder: Path) -> list[list[str]]:
    """Rows of the table of moments: with and without fine scales, both ways."""
    store = library_store(str(folder), model, made[0].parent, stride_s)
    for _ in track(carry_out(plan(store, made[0].parent), store, model, made[0].parent), 'embedding', len(made)):
        pass
    rng, rows = np.random.default_rng(0), []
    asked = [(made[k % len(made)], float(rng.uniform(0, DURATION_S * (CLIPS_A_FILM - 1)))) for k in range(moments)]
    for side in ('video', 'audio'):
        for rerank in (False, True):
            found = [
                find(store, model, film, side, start_s=at, end_s=at + DURATION_S, limit=1, rerank=rerank)
                for film, at in track(asked, f'asking by {side}')
            ]
            rows.append(moment_row(side, stride_s, rerank, asked, [answers[0] for answers in found]))
    return rows


def moment_row(
    side: str, stride_s: float, rerank: bool, asked: list[tuple[Path, float]], found: list[Answer]
) -> list[str]:
    """How far the best answer begins from the truth; another film counts as infinitely far."""
    away = np.array(
        [
            abs(answer.start_s - at) if answer.file == film.name else np.inf
            for (film, at), answer in zip(asked, found, strict=True)
        ]
    )
    way = f'{side} asks {"sounds" if side == "video" else "videos"}'
    told = [f'{np.quantile(away, q, method="lower"):.2f}' for q in (0.5, 0.9)]
    within = [f'{100 * np.mean(away <= limit):.0f}' for limit in (0.25, 0.5)]
    return [way, f'{stride_s:g}', 'yes' if rerank else 'no', *told, *within, f'{100 * np.mean(np.isfinite(away)):.0f}']


def main() -> None:
    """Measure, print, write the page."""
    args = parse_args()
    searches, builds, moments = [], [], []
    with tempfile.TemporaryDirectory(dir=args.temp) as temporary:
        folder = Path(temporary)
        for size in args.sizes:
            rows, build = costs(size, args.queries, folder / 'db', args.smoke)
            searches, builds = searches + rows, [*builds, build]
            shutil.rmtree(folder / 'db')
        if args.model:
            model = Model.from_run(args.model)
            (folder / 'films').mkdir()
            made = films(args.data_root, args.films, folder / 'films')
            for number, stride_s in enumerate(args.stride):
                moments += errors(model, made, stride_s, args.moments, folder / f'moments{number}')
    old = args.out.read_text() if args.out.is_file() and not args.smoke else ''
    sections = [cost_section(args, searches, builds) if args.sizes else kept(old, COST)]
    sections.append(moment_section(args, moments) if moments else kept(old, MOMENTS))
    page = '\n\n'.join(['# Search in a library', *filter(None, sections)]) + '\n'
    print(page)
    if not args.smoke:
        args.out.write_text(page)
        print(f'written: {args.out}')


def kept(page: str, heading: str) -> str:
    """A section of the page as it was, for what was not measured this time."""
    _, found, rest = page.partition(heading)
    return (found + rest.partition('\n## ')[0]).strip()


def cost_section(args: argparse.Namespace, searches: list[list[str]], builds: list[list[str]]) -> str:
    """Tables of searches and of building."""
    width, sizes = sum(LENGTHS) * DIM, ' '.join(map(str, args.sizes))
    return '\n'.join(
        [
            COST,
            '',
            f'`python benchmarks/search.py --sizes {sizes} --queries {args.queries}`, {_facts()}.',
            '',
            f'Made-up vectors of width {width} in half precision: kinds, files near a kind, {WINDOWS_A_FILE} windows near '
            f'a file; {args.queries} queries are windows with noise (cosine to their window about '
            f"{1 / (1 + SPREAD_QUERY**2) ** 0.5:.2f}). Recall@{BEST} is the share of the exact search's best {BEST}.",
            '',
            *markdown(['windows', 'way', f'recall@{BEST} %', 'ms, median', 'ms, 90 %'], searches),
            '',
            *markdown(['windows', 'written in s', 'indexed in s', 'MB', 'MB of index'], builds),
        ]
    )


def moment_section(args: argparse.Namespace, moments: list[list[str]]) -> str:
    """Table of moments."""
    headings = ['query', 'stride s', 'fine scales', 'error s, median', 'error s, 90 %']
    headings += ['within 0.25 s %', 'within 0.5 s %', 'right film %']
    return '\n'.join(
        [
            MOMENTS,
            '',
            f'`python benchmarks/search.py --sizes --model RUN --films {args.films} --moments {args.moments}` with a run '
            f'of configs/gmscavp_impacts.py, {_facts()}.',
            '',
            f'{CLIPS_A_FILM} test clips of Impacts make a film of {CLIPS_A_FILM * DURATION_S:g} s; {args.moments} parts of '
            f'{DURATION_S:g} s of {args.films} films, beginning anywhere, ask the other side of all films. Error: of the '
            'beginning of the best answer; another film is infinitely far.',
            '',
            *markdown(headings, moments),
        ]
    )


def _facts() -> str:
    return ', '.join(f'{name} {value}' for name, value in machine_facts().items())


if __name__ == '__main__':
    run_tool(main)
