"""Evaluate a checkpoint: python tools/test.py configs/gmscavp_impacts.py work_dirs/gmscavp_impacts/epoch_12.pth

The config says what is measured: retrieval, generation, or the classes of a classifier. Retrieval on the clips of a
published protocol: ... --protocol configs/retrieval/p1_vggsound.py (docs/evaluation.md).
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from gmscavp.datasets.base import ClipDataset
from gmscavp.distributed import stop, world
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import add_config_options
from gmscavp.engine.facts import run_facts
from gmscavp.engine.hooks import BAD_CLIPS_FILE
from gmscavp.engine.protocol import load_with_protocol
from gmscavp.engine.runner import PretrainRunner, add_launch_options, build_runner
from gmscavp.engine.trained import find_checkpoint
from gmscavp.errors import UserError
from gmscavp.evaluation.classes import class_order
from gmscavp.evaluation.generation_metric import GenerationMetric
from gmscavp.evaluation.generation_tables import counted_words, generation_table
from gmscavp.evaluation.generation_tables import plain_names as plain_generation
from gmscavp.evaluation.metrics import RetrievalMetric
from gmscavp.evaluation.report import ReportData, read_curves, write_report
from gmscavp.evaluation.retrieval import Gallery
from gmscavp.evaluation.samples_page import SampleCard, SamplesData, write_samples
from gmscavp.evaluation.tables import Table as Rows
from gmscavp.evaluation.tables import figures_table, gallery_words, number, plain_names, scales_table
from gmscavp.inference.samples import GENERATED, generated_cards, sample_cards
from gmscavp.pictures import PICTURE_CELLS, png_bytes, similarity_picture

# With more classes their borders would cover the picture.
MOST_CLASSES = 40


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='--traceback shows where an error came from.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file the checkpoint was trained with')
    parser.add_argument('checkpoint', type=Path, help='.pth file, or a work directory (its newest checkpoint)')
    parser.add_argument(
        '--protocol',
        type=Path,
        metavar='CONFIG',
        help='test on the clips of this protocol (configs/retrieval/) rather than on those of the config; --cfg-options '
        'reach its settings too, for example data_root=PATH gallery_file=PATH',
    )
    parser.add_argument(
        '--out', type=Path, metavar='JSON', help='write figures, intervals, scales and facts to this file'
    )
    parser.add_argument(
        '--picture', type=Path, metavar='PNG', help='draw the similarity matrix of retrieval, ordered by class'
    )
    parser.add_argument(
        '--report',
        type=Path,
        metavar='HTML',
        help='write a page: curves, similarities and confusions of retrieval, samples of generation',
    )
    parser.add_argument(
        '--generator',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help=f'show in the page of retrieval {GENERATED} clips that this generator makes from test clips',
    )
    parser.add_argument('--work-dir', help='folder for logs (default: eval/ beside the checkpoint)')
    add_launch_options(parser)
    add_config_options(parser)
    return parser.parse_args()


def main() -> None:
    """Evaluate, print the table, write what was asked for."""
    args = parse_args()
    checkpoint = find_checkpoint(args.checkpoint)
    config = load_with_protocol(args.config, args.protocol, args.cfg_options)
    config.work_dir = args.work_dir or str(checkpoint.parent / 'eval')
    config.load_from, config.resume = str(checkpoint), False
    demand_pages(config.get('test_evaluator') or {}, args)
    runner = build_runner(config, args.launcher)
    metrics = runner.test()
    main_process = world()[0] == 0
    # Left open, the process group aborts a run that has ended well.
    stop()
    if not main_process:
        return
    facts = run_facts(config, runner.bare_model) | {'checkpoint': str(checkpoint)}
    metric = measured(runner)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        entries = {'metrics': metrics, **getattr(metric, 'details', {}), 'facts': facts}
        args.out.write_text(json.dumps(without_nan(entries), indent=2, allow_nan=False) + '\n')
    if isinstance(metric, RetrievalMetric):
        if args.picture:
            draw_picture(args.picture, metric)
        if args.report:
            generated = generated_cards(*args.generator) if args.generator else []
            write_page(args.report, runner, metric, metrics, facts, checkpoint.parent, generated)
        print_tables(metrics, metric.details)
    elif isinstance(metric, GenerationMetric):
        if args.report:
            write_samples_page(args.report, runner, metric, metrics, facts)
        plain = plain_generation(metrics)
        print_table(f'Generation: {counted_words(plain)}', generation_table(plain))
    else:
        print_table('Figures', Rows(['', 'value'], [(name, [number(value)]) for name, value in metrics.items()]))
    for file in (args.out, args.picture, args.report):
        if file:
            print(f'written: {file}')


def measured(runner: PretrainRunner) -> Any:
    """The metric that says what kind of run this is."""
    metrics = runner.test_evaluator.metrics
    return next((metric for metric in metrics if isinstance(metric, RetrievalMetric | GenerationMetric)), metrics[0])


def demand_pages(evaluators: Any, args: argparse.Namespace) -> None:
    """Raise UserError, before anything is computed, for a file that such a run has nothing to write into."""
    kinds = [each.get('type') for each in (evaluators if isinstance(evaluators, list) else [evaluators])]
    names = {getattr(kind, '__name__', str(kind).rpartition('.')[2]) for kind in kinds}
    for flag, able in (('picture', {'RetrievalMetric'}), ('report', {'RetrievalMetric', 'GenerationMetric'})):
        if getattr(args, flag) and not names & able:
            raise UserError(f'--{flag} needs {" or ".join(sorted(able))} in test_evaluator; leave --{flag} out.')


def without_nan(value: Any) -> Any:
    """What JSON can hold: null for what is no number."""
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(title: str, rows: Rows, caption: str | None = None) -> None:
    """A table in the terminal."""
    table = Table(title=title, caption=caption, box=SIMPLE)
    for column, heading in enumerate(rows.headings):
        table.add_column(heading, justify='right' if column else 'left', overflow='fold')
    for label, cells in rows.rows:
        table.add_row(label, *cells)
    if rows.rows:
        Console().print(table)


def print_tables(metrics: dict[str, float], details: dict[str, Any]) -> None:
    """The figures of both ways beside chance, those of every scale, and which clips were compared."""
    of = plain_names(metrics)
    figures = figures_table(of, details['intervals'])
    title = f'Retrieval among {of["N"]:.0f} clips ({of["skipped"]:.0f} could not be read)'
    for name, rows in {title: figures, 'Every scale by itself': scales_table(details['scales'])}.items():
        print_table(name, rows, 'all but the ranks in percent')
    if details['intervals']:
        low, high = details['intervals']['mean_R1']
        by = f'95 % interval, bootstrap of {details["bootstrap"]["draws"]:,} draws over clips'
        print(f'mean R@1 {of["mean_R1"]:.1f} % ({low:.1f}–{high:.1f}: {by})')
    print(gallery_words(details))


def by_class(metric: RetrievalMetric) -> tuple[Gallery, list[int]]:
    """The gallery just compared in order of class, and where classes begin (empty where there are too many to draw)."""
    gallery = metric.gallery
    assert gallery is not None
    order, borders = class_order(gallery.clip_ids, (metric.dataset_meta or {}).get('labels', {}))
    return gallery.ordered(torch.tensor(order)), borders if len(borders) < MOST_CLASSES else []


def draw_picture(file: Path, metric: RetrievalMetric) -> None:
    """The similarity matrix as a PNG file."""
    gallery, borders = by_class(metric)
    title = metric.details['gallery'].get('protocol', 'similarity')
    matrix = gallery.similarity(PICTURE_CELLS)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png_bytes(similarity_picture(matrix, title, borders, len(gallery.clip_ids))))


def write_page(
    file: Path,
    runner: PretrainRunner,
    metric: RetrievalMetric,
    metrics: dict[str, float],
    facts: dict[str, str],
    run_dir: Path,
    generated: list[SampleCard],
) -> None:
    """Gather what the report shows: the gallery just compared, the curves of the training run, the bad clips."""
    gallery, _ = by_class(metric)
    bad: dict[str, set[str]] = {}
    for folder in (run_dir, Path(runner.work_dir)):
        if (folder / BAD_CLIPS_FILE).is_file():
            for cause, files in json.loads((folder / BAD_CLIPS_FILE).read_text()).items():
                bad.setdefault(cause, set()).update(files)
    data = ReportData(
        title=Path(facts['config']).stem,
        metrics=metrics,
        similarity=gallery.similarity(),
        clip_ids=gallery.clip_ids,
        curves=read_curves(sorted(run_dir.glob('*/vis_data/scalars.json'))),
        bad_clips={cause: sorted(files) for cause, files in bad.items()},
        facts=facts,
        details=metric.details,
        ordered='Clips of the same label stand together.' if 'retrieval/labelled' in metrics else '',
        samples=generated,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_report(file, data, clip_shower(runner))


def clip_shower(runner: PretrainRunner) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    """clip_id -> frames (T, H, W, 3) uint8 and mel (F, M) of a clip of the test set; its windows in succession."""
    dataset: ClipDataset = runner.test_dataloader.dataset
    place = {clip_id: index for index, clip_id in enumerate(dataset.manifest.column('clip_id'))}
    preprocessor = runner.bare_model.data_preprocessor

    def show(clip_id: str) -> tuple[np.ndarray, np.ndarray]:
        sample = dataset[place[clip_id]]
        video = sample['video'].flatten(0, -4).permute(0, 2, 3, 1)
        audio = sample['audio'].flatten()[None].to(preprocessor.device)
        return video.numpy(), preprocessor.log_mel(audio)[0, 0].cpu().numpy()

    return show


def write_samples_page(
    file: Path, runner: PretrainRunner, metric: GenerationMetric, metrics: dict[str, float], facts: dict[str, str]
) -> None:
    """Show the first clips as generated and as they are."""
    cards = sample_cards(
        metric.examples, runner.test_dataloader.dataset, runner.bare_model.data_preprocessor, metric.details['clips']
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_samples(file, SamplesData(Path(facts['config']).stem, metrics, cards, facts))


if __name__ == '__main__':
    run_tool(main)
