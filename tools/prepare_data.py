"""Make a data set ready for training: one subcommand per data set."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.datasets.listing import Listing
from gmscavp.datasets.manifest import Manifest
from gmscavp.datasets.panda70m import PandaFilter
from gmscavp.datasets.preparing.filters import Limits
from gmscavp.datasets.preparing.listings import audioset_listing, folder_listing, panda_listing, vggsound_listing
from gmscavp.datasets.preparing.rewriting import Form
from gmscavp.datasets.preparing.run import Work, prepare
from gmscavp.datasets.shards import write_shards
from gmscavp.engine.cli import run_tool
from gmscavp.errors import UserError

Subparsers = argparse._SubParsersAction

HOW = (
    'Every clip that is there is read by several processes: what is damaged, has no picture or no sound, is too short, '
    'silent or still, hangs or crashes the reader is left out and counted. The manifest lists the others, with what was '
    'measured; beside it lie a report and a journal. Stopped (Ctrl-C), the same command goes on where it was; with other '
    'limits nothing is measured again.'
)


def main() -> None:
    """Read the command line and prepare the data set it names."""
    parser = argparse.ArgumentParser(description=__doc__, epilog='`<data set> --help` explains the options of each.')
    datasets = parser.add_subparsers(title='data sets', dest='dataset', metavar='<data set>', required=True)
    add_impacts(datasets)
    add_vggsound(datasets)
    add_audioset(datasets)
    add_panda70m(datasets)
    add_folder(datasets)
    arguments = parser.parse_args()
    arguments.prepare(arguments)


def add_impacts(datasets: 'Subparsers') -> None:
    """`impacts`: needs no download, everything is rendered here."""
    parser = datasets.add_parser(
        'impacts',
        help='the embedded data set: render bouncing objects and their sounds',
        description='Render IMPACTS: clips of 4 s (64 x 64 pixels, 16 frames/s, 16 kHz) in which one to three objects '
        'bounce; shape is timbre, colour is pitch, size is decay, speed is loudness. Nothing is downloaded. '
        'A stopped run goes on where it was when started again.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--out', type=Path, default=Path('data/impacts'), help='folder to render into')
    parser.add_argument('--train', type=_count, default=1024, help='number of training clips')
    parser.add_argument('--test', type=_count, default=256, help='number of clips in each of the two test galleries')
    parser.add_argument('--seed', type=_count, default=0, help='the same seed gives the same clips')
    parser.add_argument('--workers', type=_count, default=0, help='processes that render; 0 is one per core')
    parser.add_argument('--force', action='store_true', help='replace a rendering with other numbers in this folder')
    parser.set_defaults(prepare=prepare_impacts)


def prepare_impacts(arguments: argparse.Namespace) -> None:
    """Render, then say what there is now and what comes next."""
    root = render_impacts(
        arguments.out,
        train=arguments.train,
        test=arguments.test,
        seed=arguments.seed,
        workers=arguments.workers or None,
        force=arguments.force,
    )
    megabytes = sum(file.stat().st_size for file in (root / 'video').glob('*.mp4')) / 1e6
    print(
        f'{root}: {arguments.train} training clips and 2 x {arguments.test} test clips ({megabytes:.0f} MB in video/),'
    )
    print('listed in manifest.csv (for training), impacts.csv (as VGGSound) and events.jsonl (every impact).')
    print('Next: python tools/train.py configs/gmscavp_impacts.py')


def add_vggsound(datasets: 'Subparsers') -> None:
    """`vggsound`: files named by YouTube id and start."""
    parser = _add_real(
        datasets,
        'vggsound',
        'clips of VGGSound',
        'python tools/prepare_data.py vggsound data/vggsound/video --annotations data/vggsound/vggsound.csv '
        '--out data/vggsound/manifest.parquet',
        "Files '<youtube id>_<start, 6 digits>.mp4' anywhere below ROOT.",
    )
    parser.add_argument('--annotations', type=Path, required=True, help='vggsound.csv, or a list of one split')
    parser.add_argument('--split', help='the split of all clips, for a list that does not say (train or test)')
    parser.set_defaults(list=lambda given: vggsound_listing(given.root, given.annotations, given.split))


def add_audioset(datasets: 'Subparsers') -> None:
    """`audioset`: segments with several labels."""
    parser = _add_real(
        datasets,
        'audioset',
        'segments of AudioSet',
        'python tools/prepare_data.py audioset data/audioset/video --train data/audioset/balanced_train_segments.csv '
        '--test data/audioset/eval_segments.csv --class-labels data/audioset/class_labels_indices.csv '
        '--out data/audioset/manifest.parquet',
        "Files '<youtube id>.mp4', '<youtube id>_<start>.mp4' or '<youtube id>_<start>_<end>.mp4' (seconds or "
        'milliseconds, with or without a Y before) anywhere below ROOT.',
    )
    parser.add_argument('--train', type=Path, nargs='+', default=[], help='segments csv files of the train split')
    parser.add_argument('--test', type=Path, nargs='+', default=[], help='segments csv files of the test split')
    parser.add_argument('--class-labels', type=Path, required=True, help='class_labels_indices.csv')
    parser.add_argument(
        '--whole-videos', action='store_true', help="'<youtube id>.mp4' is the whole video, not the segment alone"
    )
    parser.set_defaults(list=_list_audioset)


def _list_audioset(given: argparse.Namespace) -> Listing:
    if not given.train and not given.test:
        raise UserError('give --train or --test, the segments csv files of AudioSet.')
    return audioset_listing(given.root, given.train, given.test, given.class_labels, given.whole_videos)


def add_panda70m(datasets: 'Subparsers') -> None:
    """`panda70m`: many clips of a video, with captions."""
    parser = _add_real(
        datasets,
        'panda70m',
        'clips of Panda-70M',
        'python tools/prepare_data.py panda70m data/panda70m/video --annotations data/panda70m/panda70m_training_2m.csv '
        '--min-score 0.43 --out data/panda70m/manifest.parquet',
        "Whole videos '<video id>.mp4', clips '<video id>_<number>.mp4', or what the data set's download tool wrote (with "
        'its json files), anywhere below ROOT.',
    )
    parser.add_argument('--annotations', type=Path, required=True, help='one of the csv files of Panda-70M')
    parser.add_argument('--min-score', type=float, default=0.0, help='least matching score of caption and clip')
    parser.add_argument('--desirable', action='store_true', help='only clips that the csv calls desirable')
    parser.add_argument('--test-share', type=_share, default=0.001, help='share of the videos that is the test split')
    parser.add_argument('--split', help='the split of all clips instead, for the csv files of validation and test')
    parser.set_defaults(list=_list_panda)


def _list_panda(given: argparse.Namespace) -> Listing:
    wanted = PandaFilter(given.min_score, given.min_duration or 0.0, given.max_duration, given.desirable)
    return panda_listing(given.root, given.annotations, wanted, given.test_share, given.split)


def add_folder(datasets: 'Subparsers') -> None:
    """`folder`: any videos."""
    parser = _add_real(
        datasets,
        'folder',
        'any folder of videos',
        'python tools/prepare_data.py folder data/videos --out data/videos.parquet',
        'All video files below ROOT, or the rows of a manifest (docs/data.md).',
        min_duration=2.0,
    )
    parser.add_argument('--manifest', type=Path, help='a csv or parquet with windows, labels, captions, splits, groups')
    parser.add_argument(
        '--test-share', type=_share, default=0.1, help='share of the files (or groups) that is the test split'
    )
    parser.set_defaults(list=lambda given: folder_listing(given.root, given.manifest, given.test_share))


def _add_real(
    datasets: 'Subparsers', name: str, what: str, example: str, names: str, min_duration: float = 4.0
) -> argparse.ArgumentParser:
    """A subcommand for clips that are on disk, with the options that all of them have."""
    parser = datasets.add_parser(
        name,
        help=what,
        description=f'Prepare {what}. {names} {HOW}',
        epilog=f'Example: {example}',
        formatter_class=_Help,
    )
    parser.add_argument('root', metavar='ROOT', type=Path, help='folder of the video files')
    parser.add_argument('--out', type=Path, required=True, help='manifest to write, .parquet or .csv')
    parser.add_argument('--dry-run', action='store_true', help='only count which of the listed clips are there')
    parser.add_argument('--workers', type=_count, default=0, help='processes; 0 is one per core')
    parser.add_argument('--timeout', type=_above_0, default=60.0, help='seconds that one clip may take')
    parser.add_argument(
        '--memory', type=_above_0, default=4096.0, metavar='MIB', help='that a process may take beyond its libraries'
    )
    parser.add_argument('--fresh', action='store_true', help='forget what earlier runs found')
    parser.add_argument('--retry', action='store_true', help='try clips again that timed out or crashed')
    parser.add_argument(
        '--part',
        type=_part,
        metavar='K/N',
        help='of N machines that share the disk, be the K-th: measure and rewrite every N-th clip; when all are done, the '
        'same command without --part puts it together',
    )
    limits = parser.add_argument_group('what is left out', "each limit takes a number, or 'none'")
    limits.add_argument('--min-duration', type=_limit, default=min_duration, help='least seconds')
    limits.add_argument('--max-duration', type=_limit, default=None, help='most seconds')
    limits.add_argument('--silent', type=_limit, default=-60.0, help='least loudness, RMS in dB of full scale')
    limits.add_argument(
        '--still', type=_limit, default=1.0, help='least motion, grey levels of 255 in a quarter second'
    )
    limits.add_argument('--min-side', type=_limit, default=None, help='least pixels of the shorter side')
    forms = parser.add_argument_group('other forms of the data')
    forms.add_argument(
        '--rewrite', metavar='DIR', type=Path, help='write the kept clips as small h264 + AAC files here'
    )
    forms.add_argument('--shards', metavar='DIR', type=Path, help='write the kept clips as tar shards here')
    forms.add_argument('--size', type=_positive, default=256, help='short side in pixels')
    forms.add_argument('--sample-rate', type=_positive, default=16_000, help='samples a second, mono')
    forms.add_argument('--rewrite-fps', type=_above_0, help="frames a second; without it the file's own, 10 to 30")
    forms.add_argument('--gop', type=_above_0, default=0.5, help='most seconds between key frames of rewritten files')
    forms.add_argument('--crf', type=_count, default=23, help='h264 quality of rewritten files, 0 (best) to 51')
    forms.add_argument('--fps', type=_above_0, default=4.0, help='frames a second in shards')
    forms.add_argument('--clips-per-shard', type=_positive, default=512, help='clips in one shard')
    parser.set_defaults(prepare=prepare_real)
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


def prepare_real(arguments: argparse.Namespace) -> None:
    """List, measure, filter, rewrite and shard as asked for; then say what there is now and what comes next."""
    listing = arguments.list(arguments)
    if arguments.dry_run:
        splits = Counter(listing.manifest.column('split'))
        told = ', '.join(f'{count:,} {split or "without a split"}' for split, count in sorted(splits.items(), key=str))
        print(f'{len(listing.manifest):,} of {listing.listed:,} listed clips are below {arguments.root} ({told}).')
        return
    limits = Limits(
        min_duration_s=arguments.min_duration,
        max_duration_s=arguments.max_duration,
        silent=arguments.silent,
        still=arguments.still,
        min_side=arguments.min_side,
    )
    work = Work(
        arguments.workers,
        arguments.timeout,
        arguments.fresh,
        arguments.retry,
        part=arguments.part,
        memory_mib=arguments.memory,
    )
    form = Form(arguments.size, arguments.rewrite_fps, arguments.sample_rate, arguments.gop, arguments.crf)
    report = prepare(listing, arguments.root, arguments.out, limits, work, arguments.rewrite, form)
    Console().print(report.table())
    if arguments.part:
        print('This part is done; when all are, run the same command without --part.')
        return
    root = arguments.rewrite or arguments.root
    print(f'{arguments.out}: {report.kept:,} clips below {root}; report: {arguments.out}.report.json')
    if arguments.shards:
        counts = write_shards(
            Manifest.read(arguments.out),
            root,
            arguments.shards,
            fps=arguments.fps,
            size=arguments.size,
            sample_rate=arguments.sample_rate,
            clips_per_shard=arguments.clips_per_shard,
            workers=arguments.workers,
            force=arguments.fresh,
        )
        print(f'{arguments.shards}: ' + ', '.join(f'{count:,} {what}' for what, count in counts.items()))
    print(
        f'Next: python tools/train.py configs/gmscavp_folder.py --cfg-options data_root={root} manifest={arguments.out}'
    )


def _part(text: str) -> tuple[int, int]:
    """K/N with K from 1 to N."""
    k, _, n = text.partition('/')
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f'{text!r} is not K/N with K from 1 to N, for example 2/8')
    return int(k), int(n)


def _count(text: str) -> int:
    """An integer from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 0')
    return int(text)


def _positive(text: str) -> int:
    """An integer from 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1')
    return int(text)


def _number(is_good: Callable[[float], bool], said: str) -> Callable[[str], float]:
    """A reader of numbers that refuses others in these words."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float('nan')
        if not is_good(number):
            raise argparse.ArgumentTypeError(f'{text!r} is not {said}')
        return number

    return read


_above_0 = _number(lambda number: 0 < number < float('inf'), 'a number above 0')
_share = _number(lambda number: 0 <= number <= 1, 'a share from 0 to 1')
_finite = _number(lambda number: abs(number) < float('inf'), "a number or 'none'")


def _limit(text: str) -> float | None:
    """A number, or None for 'none'."""
    return None if text.lower() == 'none' else _finite(text)


if __name__ == '__main__':
    run_tool(main)
