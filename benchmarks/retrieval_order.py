"""Does the method keep its order? CAVP, DiffGAP, GMS-CAVP and its ablations at equal data, steps, batch and seeds.

    python benchmarks/retrieval_order.py                     all variants, 3 seeds, 15 epochs: two hours on two cores
    python benchmarks/retrieval_order.py --budget small      the main five, 3 seeds, 5 epochs: within 25 minutes
    python benchmarks/retrieval_order.py --budget tuning     the same search of settings for CAVP and for GMS-CAVP
    python benchmarks/retrieval_order.py --folder PATH       the three models on any folder of videos

Impacts are rendered (or the folder is read) once into shards; every run then is a process of one thread, two at a time.
Runs that are finished are kept, so that a stopped benchmark goes on where it was. The table goes to docs/results.
"""

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from mmengine.config import Config
from order_page import GALLERIES, Runs, folder_page, impacts_page
from order_variants import TUNED, VARIANTS, folder_name
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gmscavp.datasets import Manifest, VideoFolder
from gmscavp.datasets.impacts_render import Difficulty, render_impacts
from gmscavp.datasets.shards import write_shards
from gmscavp.engine.checkpoints import newest_checkpoint
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import load_config
from gmscavp.engine.runner import build_runner
from gmscavp.engine.trained import load_model
from gmscavp.errors import UserError
from gmscavp.evaluation.intervals import recall_intervals
from gmscavp.evaluation.retrieval import Gallery, rank_figures

# Not the quickstart's data (seed 0), on which the settings were chosen while they were developed.
DATA_SEED, TUNING_SEED = 1, 0
TRAIN_CLIPS, TEST_CLIPS = 1024, 512
# Of real clips: as many as fit into the shortest, whose similarities are averaged.
TEST_WINDOWS = 2


@dataclass(frozen=True)
class Budget:
    """How long is trained, when is looked, which variants run, and on which data."""

    epochs: int
    early: int
    variants: tuple[str, ...]
    data_seed: int = DATA_SEED


MAIN = ('CAVP', 'DiffGAP', 'GMS-CAVP')
BUDGETS = {
    'small': Budget(epochs=5, early=2, variants=(*MAIN, 'scales only', 'diffusion only')),
    'full': Budget(epochs=15, early=5, variants=tuple(name for name in VARIANTS if name not in TUNED)),
    'tuning': Budget(epochs=10, early=5, variants=tuple(TUNED), data_seed=TUNING_SEED),
    'folder': Budget(epochs=30, early=10, variants=MAIN),
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--budget', choices=('small', 'full', 'tuning'), default='full')
    parser.add_argument(
        '--folder', type=Path, help='real clips in place of Impacts, as configs/gmscavp_folder.py reads'
    )
    parser.add_argument(
        '--init', type=Path, metavar='DIR', help='work folder of an Impacts run to start the clips from'
    )
    parser.add_argument('--only', nargs='+', choices=tuple(VARIANTS), metavar='VARIANT', help=', '.join(VARIANTS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[1, 2, 3])
    parser.add_argument('--no-train', action='store_true', help='write the page of what is finished')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time, of one thread each')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/retrieval_order')
    parser.add_argument('--out', type=Path, help='markdown file (default: docs/results/retrieval*.md)')
    parser.add_argument('--run', nargs=2, metavar=('VARIANT', 'SEED'), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Prepare the data, run what is missing, write the table."""
    args = parse_args()
    budget = BUDGETS['folder' if args.folder else args.budget]
    if args.run:
        run_one(args, budget, args.run[0], int(args.run[1]))
        return
    if args.folder:
        prepare_folder(args)
    else:
        prepare_impacts(args, budget)
    names = args.only or budget.variants
    todo = [(seed, name) for seed in args.seeds for name in names if not figures_file(args, name, seed).is_file()]
    failures = [] if args.no_train else run_all(args, todo)
    text = results_page(args, budget, names)
    page = 'retrieval_tuning.md' if args.budget == 'tuning' else 'retrieval.md'
    if args.folder:
        page = 'retrieval_clips_init.md' if args.init else 'retrieval_clips.md'
    out = args.out or ROOT / 'docs/results' / page
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(text)
    print(f'written: {out}')
    if failures:
        raise UserError(f'{len(failures)} of the runs did not end well: {failures[0]}')


# The data


def shards_folder(args: argparse.Namespace, split: str) -> Path:
    """Where the clips of a split lie as shards; those of Impacts together."""
    return (
        args.work_dir / 'folder_shards' / split
        if args.folder
        else args.work_dir / f'{impacts_folder(args).name}_shards'
    )


def impacts_folder(args: argparse.Namespace) -> Path:
    """Where the rendered clips lie."""
    return args.work_dir / f'impacts_{BUDGETS[args.budget].data_seed}'


def prepare_impacts(args: argparse.Namespace, budget: Budget) -> None:
    """Impacts of this benchmark's own seed as shards at the model's frame rate; kept for the next call."""
    rendered = render_impacts(
        impacts_folder(args), train=TRAIN_CLIPS, test=TEST_CLIPS, seed=budget.data_seed, difficulty=Difficulty()
    )
    rows = Manifest.read(rendered / 'manifest.csv')
    write_shards(rows, rendered, shards_folder(args, 'train'), fps=4, size=64, sample_rate=16000)


def prepare_folder(args: argparse.Namespace) -> None:
    """The folder's clips whole, at the rate and size that configs/gmscavp_folder.py trains at."""
    settings = load_config(ROOT / 'configs/gmscavp_folder.py').train_dataloader.dataset.clip
    for split in ('train', 'test'):
        clips = VideoFolder(str(args.folder), settings, dict(type='RandomWindow'), split=split)
        form = dict(fps=settings.fps, size=settings.size, sample_rate=settings.sample_rate)
        counts = write_shards(clips.manifest, args.folder, shards_folder(args, split), **form)
        print(f'{split}: {counts}')


# One run


def figures_file(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Where a finished run leaves its figures."""
    kind = ('folder_init' if args.init else 'folder') if args.folder else args.budget
    return args.work_dir / kind / folder_name(name, seed) / 'figures.json'


def run_config(args: argparse.Namespace, budget: Budget, name: str, seed: int) -> Config:
    """The variant's config on the shards, with checkpoints at the early look and at the end."""
    variant = VARIANTS[name]
    config = load_config(ROOT / 'configs' / f'{variant.config}_impacts.py')
    config.model.update(variant.changes(config.model))
    config.merge_from_dict(dict(variant.settings))
    if args.folder:
        clips = load_config(ROOT / 'configs/gmscavp_folder.py')
        config.model.data_preprocessor = clips.model.data_preprocessor
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            config[loader] = clips[loader]
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        old = config[loader].dataset
        if args.folder and old.split == 'test':
            old.window = dict(type='EvenWindows', segments=TEST_WINDOWS)
        kept = {key: old[key] for key in ('clip', 'window', 'transforms', 'replace_bad', 'split') if key in old}
        config[loader].dataset = dict(type='Shards', data_root=str(shards_folder(args, kept['split'])), **kept)
        config[loader].update(num_workers=0, persistent_workers=False)
    config.randomness.seed = seed
    config.train_cfg.update(max_epochs=budget.epochs, val_interval=budget.epochs + 1)
    config.default_hooks.checkpoint.update(interval=budget.early, max_keep_ckpts=-1, save_best=None)
    config.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    config.work_dir = str(figures_file(args, name, seed).parent)
    newest = newest_checkpoint(Path(config.work_dir))
    if newest:
        config.resume, config.load_from = True, str(newest)
    elif args.init:
        # The same variant and seed as it was after training on Impacts.
        config.load_from = str(args.init / folder_name(name, seed) / f'epoch_{BUDGETS["full"].epochs}.pth')
    return config


def run_one(args: argparse.Namespace, budget: Budget, name: str, seed: int) -> None:
    """Train one variant (or go on with it) and write its figures at both looks."""
    if figures_file(args, name, seed).is_file():
        # Another call of the benchmark was quicker.
        return
    config = run_config(args, budget, name, seed)
    # Of the processor: other work on the machine does not count.
    started = time.process_time()
    runner = build_runner(config)
    runner.train()
    minutes = (time.process_time() - started) / 60
    looks = {}
    for look, epoch in (('early', budget.early), ('late', budget.epochs)):
        model = load_model(config, Path(config.work_dir) / f'epoch_{epoch}.pth')
        looks[look] = figures(embed(model, runner.test_dataloader), args)
    parameters = sum(p.numel() for p in runner.bare_model.parameters())
    found = dict(variant=name, seed=seed, minutes=minutes, parameters=parameters, looks=looks)
    found['encoders'] = sum(p.numel() for n, p in runner.bare_model.named_parameters() if not n.startswith('diffusion'))
    figures_file(args, name, seed).write_text(json.dumps(found, indent=1) + '\n')


@torch.no_grad()
def embed(model: Any, loader: Any) -> Gallery:
    """The test clips' embeddings."""
    rows: list[dict[str, Any]] = []
    for batch in loader:
        rows += [row for row in model.test_step(batch) if row['valid']]
    video, audio = (torch.stack([row[f'{side}_embedding'] for row in rows]) for side in ('video', 'audio'))
    return Gallery([row['clip_id'] for row in rows], video, audio)


def figures(everything: Gallery, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Recalls of every gallery with bootstrap intervals. Of a folder the one gallery is called 'test'."""
    if args.folder:
        parts = {'test': torch.arange(len(everything.clip_ids))}
    else:
        rows = Manifest.read(impacts_folder(args) / 'manifest.csv')
        kind_of = dict(zip(rows.column('clip_id'), rows.column('gallery'), strict=True))
        kinds = [kind_of[clip_id] for clip_id in everything.clip_ids]
        parts = {
            gallery: torch.tensor([n for n, kind in enumerate(kinds) if gallery in (kind, 'mixed')])
            for gallery in GALLERIES
        }
    found = {}
    for gallery, rows_of in parts.items():
        v2a, a2v = everything.ordered(rows_of).ranks()
        found[gallery] = rank_figures(v2a, a2v) | {'intervals': recall_intervals(v2a, a2v)}
    return found


# Many runs


def run_all(args: argparse.Namespace, todo: list[tuple[int, str]]) -> list[str]:
    """Run what is missing, `jobs` at a time, each in a process of one thread with its output in a file. What failed."""
    failures = []
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        bar = progress.add_task('runs', total=len(todo))
        jobs = [pool.submit(run_process, args, name, seed) for seed, name in todo]
        try:
            for job in concurrent.futures.as_completed(jobs):
                try:
                    job.result()
                except UserError as error:
                    # Said at the end: the other runs do not depend on this one.
                    failures.append(str(error))
                progress.advance(bar)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def run_process(args: argparse.Namespace, name: str, seed: int) -> None:
    """This script again, for one run."""
    log = figures_file(args, name, seed).parent / 'output.log'
    log.parent.mkdir(parents=True, exist_ok=True)
    given = ['--budget', args.budget, '--work-dir', str(args.work_dir.resolve()), '--run', name, str(seed)]
    given += ['--folder', str(args.folder.resolve())] if args.folder else []
    given += ['--init', str(args.init.resolve())] if args.init else []
    threads = {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    with log.open('a') as output:
        done = subprocess.run(
            [sys.executable, __file__, *given], env=os.environ | threads, stdout=output, stderr=output, check=False
        )
    if done.returncode:
        raise UserError(f'{name}, seed {seed}, ended with code {done.returncode}; its output is in {log}.')


def finished(args: argparse.Namespace, names: tuple[str, ...]) -> Runs:
    """Variant -> what its finished runs found, one a seed."""
    found = {}
    for name in names:
        files = [figures_file(args, name, seed) for seed in args.seeds]
        runs = [json.loads(file.read_text()) for file in files if file.is_file()]
        if runs:
            found[name] = runs
    return found


def results_page(args: argparse.Namespace, budget: Budget, names: tuple[str, ...]) -> str:
    """The markdown that is written, with how it was got."""
    runs = finished(args, names)
    seeds = f'seeds {", ".join(map(str, args.seeds))}, {budget.epochs} epochs'
    if args.folder:
        start = ', started from the models trained on Impacts' if args.init else ''
        command = f'python benchmarks/retrieval_order.py --folder PATH{" --init DIR" if args.init else ""}'
        return folder_page(runs, command, f'train split, windows of 2 s ({TEST_WINDOWS} a test clip), {seeds}{start}')
    command = f'python benchmarks/retrieval_order.py --budget {args.budget}'
    settings = f'{TRAIN_CLIPS} training clips of data seed {budget.data_seed}, {seeds}'
    title = 'the same search of settings for two models' if args.budget == 'tuning' else 'the order of the methods'
    return impacts_page(runs, command, settings, {'early': budget.early, 'late': budget.epochs}, title)


if __name__ == '__main__':
    run_tool(main)
