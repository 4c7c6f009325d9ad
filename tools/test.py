"""Evaluate a checkpoint: python tools/test.py configs/gmscavp_impacts.py work_dirs/gmscavp_impacts/epoch_12.pth"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from gmscavp.datasets.base import ClipDataset
from gmscavp.distributed import stop, world
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import add_config_options, load_config
from gmscavp.engine.facts import run_facts
from gmscavp.engine.hooks import BAD_CLIPS_FILE
from gmscavp.engine.runner import PretrainRunner, add_launch_options, build_runner, newest_checkpoint
from gmscavp.errors import UserError
from gmscavp.evaluation.report import ReportData, read_curves, write_report


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog='--traceback shows where an error came from.')
    parser.add_argument('config', help='config file the checkpoint was trained with')
    parser.add_argument('checkpoint', type=Path, help='.pth file, or a work directory (its newest checkpoint)')
    parser.add_argument('--out', type=Path, metavar='JSON', help='write the figures to this file')
    parser.add_argument('--report', type=Path, metavar='HTML', help='write a page of curves, similarities, confusions')
    parser.add_argument('--work-dir', help='folder for logs (default: eval/ beside the checkpoint)')
    add_launch_options(parser)
    add_config_options(parser)
    return parser.parse_args()


def main() -> None:
    """Evaluate, print the table, write what was asked for."""
    args = parse_args()
    checkpoint = newest_checkpoint(args.checkpoint) if args.checkpoint.is_dir() else args.checkpoint
    if checkpoint is None or not checkpoint.is_file():
        raise UserError(f'there is no checkpoint at {args.checkpoint}; train first, or give the path of a .pth file.')
    config = load_config(args.config, args.cfg_options)
    config.work_dir = args.work_dir or str(checkpoint.parent / 'eval')
    config.load_from, config.resume = str(checkpoint), False
    runner = build_runner(config, args.launcher)
    metrics = runner.test()
    main_process = world()[0] == 0
    # Left open, the process group aborts a run that has ended well.
    stop()
    if not main_process:
        return
    facts = run_facts(config, runner.bare_model) | {'checkpoint': str(checkpoint)}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({'metrics': metrics, 'facts': facts}, indent=2) + '\n')
    if args.report:
        write_page(args.report, runner, metrics, facts, checkpoint.parent)
    print_table(metrics)
    for file in (args.out, args.report):
        if file:
            print(f'written: {file}')


def print_table(metrics: dict[str, float]) -> None:
    """R@k both ways beside chance."""
    of = {name.removeprefix('retrieval/'): value for name, value in metrics.items()}
    table = Table(title=f'Retrieval among {of["N"]:.0f} clips ({of["skipped"]:.0f} could not be read)')
    for heading in ('', 'R@1 %', 'R@5 %', 'R@10 %', 'median rank', 'mean rank'):
        table.add_column(heading, justify='right')
    for direction, name in (('v2a', 'video -> audio'), ('a2v', 'audio -> video')):
        recalls = [f'{of[f"{direction}_R{k}"]:.1f}' for k in (1, 5, 10)]
        table.add_row(name, *recalls, *(f'{of[f"{direction}_{rank}"]:.1f}' for rank in ('MedR', 'MeanR')))
    middle = f'{(of["N"] + 1) / 2:.1f}'
    table.add_row('chance', *(f'{of[f"chance_R{k}"]:.1f}' for k in (1, 5, 10)), middle, middle)
    Console().print(table)


def write_page(
    file: Path, runner: PretrainRunner, metrics: dict[str, float], facts: dict[str, str], run_dir: Path
) -> None:
    """Gather what the report shows: the gallery just compared, the curves of the training run, the bad clips."""
    gallery = next(metric.gallery for metric in runner.test_evaluator.metrics if hasattr(metric, 'gallery'))
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
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_report(file, data, clip_shower(runner))


def clip_shower(runner: PretrainRunner) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    """clip_id -> frames (T, H, W, 3) uint8 and mel (F, M) of a clip of the test set."""
    dataset: ClipDataset = runner.test_dataloader.dataset
    place = {clip_id: index for index, clip_id in enumerate(dataset.manifest.column('clip_id'))}
    preprocessor = runner.bare_model.data_preprocessor

    def show(clip_id: str) -> tuple[np.ndarray, np.ndarray]:
        sample = dataset[place[clip_id]]
        audio = sample['audio'][None].to(preprocessor.device)
        return sample['video'].permute(0, 2, 3, 1).numpy(), preprocessor.log_mel(audio)[0, 0].cpu().numpy()

    return show


if __name__ == '__main__':
    run_tool(main)
