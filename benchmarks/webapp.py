"""Many people search on the page at once: python benchmarks/webapp.py --run work_dirs/quickstart

Each person uploads a clip of their own and searches a small library of rendered clips; first one after another, then all
at once. An answer is right when it names the same moments with the same scores as the person got alone. Seconds are those
of the clock, from the upload to the answer. Memory is the highest of the server's process. Writes docs/results/webapp.md.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import httpx
import torch
from measuring import markdown
from rich.progress import track

from gmscavp.datasets.impacts_render import Difficulty, render_impacts
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import load_config
from gmscavp.engine.facts import machine_facts
from gmscavp.errors import UserError
from gmscavp.inference import Model
from gmscavp.registry import MODELS
from gmscavp.search import carry_out, library_store, plan
from gmscavp.webapp.limits import Limits
from gmscavp.webapp.search_tab import ASK_BY
from gmscavp.webapp.served import Served
from gmscavp.webapp.server import serving

ANSWERS = 6
_WAIT_S = 600
_MOMENT = re.compile(r'class="name">(.*?)</span>.*?class="facts">(.*?)</p>', re.DOTALL)


class Answered(NamedTuple):
    """Seconds, and (name, times and score) of every moment."""

    seconds: float
    moments: list[tuple[str, str]]


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--run', type=Path, help='a run of GMSCAVP; without it an untrained model of the same size')
    parser.add_argument('--people', type=int, default=20)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1, help='of the server (default: 1)')
    parser.add_argument('--smoke', action='store_true', help='three people, once: only whether it runs')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/webapp.md')
    return parser.parse_args()


def serve(folder: Path, run: Path | None, threads: int, line: Connection) -> None:
    """Index the clips of a folder, say the address, and answer until something is said back."""
    torch.set_num_threads(threads)
    if run is not None:
        model = Model.from_run(run, 'cpu')
    else:
        settings = load_config(ROOT / 'configs/gmscavp_impacts.py')
        torch.manual_seed(0)
        model = Model(MODELS.build(settings.model).eval(), settings, Path('untrained'), torch.device('cpu'))
    store = library_store(str(folder / 'db'), model, folder / 'video', 1.0, ('video', 'audio'))
    for _ in carry_out(plan(store, folder / 'video'), store, model, folder / 'video'):
        pass
    with serving(Served(model, store=store, root=folder / 'video'), Limits(), '127.0.0.1', 0) as address:
        line.send(address)
        line.recv()


def ask(address: str, file: Path) -> Answered:
    """Upload a file and search with its pictures. UserError: the page gave no answer."""
    started = time.perf_counter()
    with httpx.Client(base_url=address, timeout=_WAIT_S, trust_env=False) as client:
        uploaded = client.post('/gradio_api/upload', files={'files': (file.name, file.read_bytes())}).json()[0]
        given = {'path': uploaded, 'meta': {'_type': 'gradio.FileData'}}
        asked = client.post('/gradio_api/call/search', json={'data': [given, next(iter(ASK_BY)), ANSWERS]})
        told = client.get(f'/gradio_api/call/search/{asked.json()["event_id"]}').text
    seconds = time.perf_counter() - started
    _, complete, data = told.rpartition('event: complete\ndata: ')
    if not complete:
        raise UserError(f'the page did not answer {file.name}: {told[-200:]}')
    said, answers = json.loads(data)
    moments = _MOMENT.findall(answers)
    if len(moments) != ANSWERS:
        raise UserError(f'the page answered {file.name} with {len(moments)} moments: {said}')
    return Answered(seconds, moments)


def highest(process: int, name: str) -> float:
    """MB that a process has (VmRSS), or had at the most (VmHWM)."""
    lines = Path(f'/proc/{process}/status').read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(f'{name}:'))


def measured(args: argparse.Namespace, address: str, files: list[Path], process: int) -> list[str]:
    """The lines of the table."""
    ask(address, files[0])
    before = highest(process, 'VmRSS')
    alone = [ask(address, file) for file in track(files, 'one after another')]
    rows = [('one after another', [one.seconds for one in alone], sum(one.seconds for one in alone), len(alone))]
    together: list[float] = []
    wall, right = 0.0, 0
    for _ in track(range(args.rounds), 'all at once'):
        started = time.perf_counter()
        with ThreadPoolExecutor(args.people) as people:
            answers = list(people.map(partial(ask, address), files))
        wall += time.perf_counter() - started
        together += [answer.seconds for answer in answers]
        right += sum(answer.moments == expected.moments for answer, expected in zip(answers, alone, strict=True))
    rows.append((f'{args.people} at once, {args.rounds} rounds', together, wall, right))
    cells = [
        [
            name,
            f'{count} of {len(seconds)}',
            f'{statistics.median(seconds):.2f}',
            f'{max(seconds):.2f}',
            f'{len(seconds) / whole:.2f}',
        ]
        for name, seconds, whole, count in rows
    ]
    return [
        *markdown(['people', 'answered right', 'median s', 'worst s', 'answers a second'], cells),
        '',
        f'Server: {before:,.0f} MB before, {highest(process, "VmHWM"):,.0f} MB at the most.',
    ]


def main() -> None:
    """Serve in a process of its own, ask, write the page."""
    args = parse_args()
    if args.smoke:
        args.people, args.rounds = 3, 1
    if min(args.people, args.rounds, args.threads) < 1:
        raise UserError('--people, --rounds and --threads must be 1 or more.')
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        render_impacts(folder, 2, max(ANSWERS, args.people), 0, Difficulty(), workers=1)
        files = sorted((folder / 'video').glob('*.mp4'))[: args.people]
        here, there = multiprocessing.Pipe()
        server = multiprocessing.get_context('spawn').Process(
            target=serve, args=(folder, args.run, args.threads, there)
        )
        server.start()
        there.close()
        try:
            lines = measured(args, here.recv(), files, server.pid or os.getpid())
        except EOFError as error:
            raise UserError('the server ended before it answered; its own message stands above.') from error
        finally:
            if server.is_alive():
                here.send('end')
            server.join(30)
    text = '\n'.join(
        [
            '# Many people on the page',
            '',
            f'`python benchmarks/webapp.py`: each searches with a clip of 4 s for {ANSWERS} moments in a library of '
            f'rendered clips, every moment cut, drawn and compared; right: the same as when asked alone. Model: '
            f'{"trained" if args.run else "untrained"}, as configs/gmscavp_impacts.py. '
            f'{", ".join(" ".join(fact) for fact in machine_facts().items())}; threads {args.threads}.',
            '',
            *lines,
        ]
    )
    print(text)
    if not args.smoke:
        args.out.write_text(text + '\n')
        print(f'written: {args.out}')


if __name__ == '__main__':
    run_tool(main)
