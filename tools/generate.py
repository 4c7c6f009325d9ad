"""Make sound for videos, or videos for sounds, with a trained generator.

    python tools/generate.py CONFIG CHECKPOINT --video in.mp4 --out out.mp4
    python tools/generate.py CONFIG CHECKPOINT --audio in.wav --out out.mp4

The pictures (or the sound) of the input go into the output as they are. Several inputs: give a folder or a quoted
pattern ('clips/*.mp4'), and a folder as --out. docs/generation.md says what the settings do.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gmscavp.datasets.muxing import picture_track
from gmscavp.datasets.video_folder import VIDEO_ENDINGS
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import add_config_options, load_config
from gmscavp.errors import UserError
from gmscavp.inference import Model, load, write_sound, write_video
from gmscavp.inference.files import AUDIO_ENDINGS, Job, find_files, plan, refusal
from gmscavp.models.sampling import Sampling
from gmscavp.registry import SAMPLERS


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Exit code: 0 all is made, 1 some inputs failed, 2 nothing could be done. --traceback shows where an '
        'error came from.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file the checkpoint was trained with')
    parser.add_argument('checkpoint', type=Path, help='.pth file, or a work directory (its newest checkpoint)')
    files = parser.add_argument_group('files')
    given = files.add_mutually_exclusive_group(required=True)
    given.add_argument('--video', metavar='PATH', help='video, folder or pattern: make sound for it')
    given.add_argument('--audio', metavar='PATH', help='sound, folder or pattern: make a video for it')
    files.add_argument('--out', type=Path, required=True, help='.mp4 to write; a folder for several inputs')
    files.add_argument('--wav', action='store_true', help='with --video: also write the bare sound, as .wav')
    files.add_argument('--force', action='store_true', help='replace outputs that are there already')
    how = parser.add_argument_group('how it is made')
    how.add_argument('--steps', type=int, help="steps of the sampler (default: the config's)")
    how.add_argument(
        '--guidance',
        type=float,
        help="how strictly the input is followed; 1 is off, 2 to 5 are usual (default: the config's)",
    )
    how.add_argument(
        '--rescale',
        type=float,
        help="share, 0 to 1, in which strong guidance is kept from overdriving (default: the config's)",
    )
    how.add_argument(
        '--alignment',
        type=float,
        help="scale of guidance by the alignment classifier, for models that have one; 0 is off (default: the config's)",
    )
    how.add_argument('--sampler', metavar='NAME', help="for example Euler, Heun or DDIM (default: the config's)")
    how.add_argument('--seed', type=int, default=0, help='the same seed makes the same (default: 0)')
    how.add_argument('--duration', type=float, metavar='S', help='only the first so many seconds')
    how.add_argument(
        '--num-samples', type=int, default=1, metavar='N', help='so many different ones, of seeds SEED, SEED + 1, ...'
    )
    how.add_argument(
        '--batch', type=int, default=1, metavar='N', help='so many samples at once: quicker on a GPU (default: 1)'
    )
    how.add_argument(
        '--compile',
        action='store_true',
        help='compile the denoiser first: it takes a while and pays for many files or steps; needs a C++ compiler',
    )
    how.add_argument('--device', help='cpu, cuda, cuda:1 (default: a GPU where there is one)')
    add_config_options(parser)
    return parser.parse_args()


@dataclass(frozen=True)
class Request:
    """What is asked for, apart from the files."""

    direction: str
    settings: dict[str, Any]
    samples: int
    batch: int
    duration_s: float | None
    wav: bool
    force: bool


def request_of(args: argparse.Namespace) -> Request:
    """The settings, tested before anything is loaded. UserError: one that makes no sense."""
    if args.num_samples < 1:
        raise UserError(f'--num-samples must be at least 1, not {args.num_samples}.')
    if args.batch < 1:
        raise UserError(f'--batch must be at least 1, not {args.batch}.')
    if args.duration is not None and not 0 < args.duration < float('inf'):
        raise UserError(f'--duration must be above 0 seconds, not {args.duration:g}.')
    if args.rescale is not None and not 0 <= args.rescale <= 1:
        raise UserError(f'--rescale must be from 0 to 1, not {args.rescale:g}.')
    if not 0 <= args.seed < 2**63 - args.num_samples:
        raise UserError(f'--seed must be a whole number from 0 that fits 63 bits, not {args.seed}.')
    if args.wav and args.audio is not None:
        raise UserError('--wav goes with --video; with --audio the sound is the one you have.')
    if args.sampler is not None and SAMPLERS.get(args.sampler) is None:
        raise UserError(SAMPLERS.unknown(args.sampler))
    asked = {name: getattr(args, name) for name in ('steps', 'guidance', 'rescale', 'alignment', 'seed')}
    settings = {name: value for name, value in asked.items() if value is not None}
    if args.sampler:
        settings['sampler'] = dict(type=args.sampler)
    Sampling(**settings)
    direction = 'v2a' if args.video is not None else 'a2v'
    return Request(direction, settings, args.num_samples, args.batch, args.duration, args.wav, args.force)


def main() -> None:
    """Make what is asked for, one input after the other; then say what was made and what was not."""
    args = parse_args()
    request = request_of(args)
    given = args.video if request.direction == 'v2a' else args.audio
    endings = VIDEO_ENDINGS if request.direction == 'v2a' else AUDIO_ENDINGS
    jobs = plan(given, find_files(given, endings), args.out, request.samples)
    alone = len(jobs) == 1 and jobs[0].source == Path(given)
    if alone and (reason := refusal(jobs[0], request.force)):
        raise UserError(reason)
    trained = load(load_config(args.config, args.cfg_options), args.checkpoint, args.device, args.compile)
    trained.demand(request.direction)
    sampling = replace(trained.sampling, **request.settings)
    outcomes = []
    try:
        with progress_bar() as bar:
            for number, job in enumerate(jobs, 1):
                task = bar.add_task(f'{number}/{len(jobs)} {job.source.name}', total=None)
                try:
                    outcomes.append(make(job, trained, request, sampling, partial(show, bar, task)))
                except UserError as error:
                    if alone:
                        raise
                    outcomes.append(Outcome(job, 'failed', [str(error)]))
                bar.remove_task(task)
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt('stopped by Ctrl-C; what is finished is kept, nothing else was written.') from stopped
    finally:
        if outcomes:
            report(outcomes)
    if any(outcome.state == 'failed' for outcome in outcomes):
        sys.exit(1)


@dataclass
class Outcome:
    """What became of a job: 'made', 'skipped' or 'failed', with notes or the reason."""

    job: Job
    state: str
    notes: list[str]
    lasts_s: float = 0.0


def make(job: Job, trained: Model, request: Request, sampling: Sampling, told: Any) -> Outcome:
    """One input. UserError: it cannot be used."""
    if reason := refusal(job, request.force):
        return Outcome(job, 'skipped', [reason])
    job.targets[0].parent.mkdir(parents=True, exist_ok=True)
    build = sound_for if request.direction == 'v2a' else video_for
    return build(job, trained, request, sampling, told)


def sound_for(job: Job, trained: Model, request: Request, sampling: Sampling, told: Any) -> Outcome:
    """Write the video with each of the sounds made for it."""
    track, notes = picture_track(job.source), []
    made = trained.generate_sound(
        job.source, sampling, request.duration_s, request.samples, progress=told, track=track, batch=request.batch
    )
    for k, (target, wave) in enumerate(zip(job.targets, made.waveforms, strict=True)):
        notes = write_sound(
            job.source,
            target,
            wave,
            made.sample_rate,
            comment=trained.provenance(sampling, k),
            duration_s=request.duration_s,
            wave_file=target.with_suffix('.wav') if request.wav else None,
            track=track,
        )
    if track.duration_s < trained.clip.duration_s:
        notes = [*notes, f'shorter than a clip of {trained.clip.duration_s:g} s: its last picture was held']
    return Outcome(job, 'made', notes, made.waveforms.shape[1] / made.sample_rate)


def video_for(job: Job, trained: Model, request: Request, sampling: Sampling, told: Any) -> Outcome:
    """Write the sound with each of the videos made for it."""
    notes: list[str] = []
    made = trained.generate_video(
        job.source, sampling, request.duration_s, request.samples, progress=told, batch=request.batch
    )
    for k, (target, frames) in enumerate(zip(job.targets, made.frames, strict=True)):
        comment = trained.provenance(sampling, k)
        notes = write_video(job.source, target, frames, made.fps, comment=comment, duration_s=request.duration_s)
    lasts_s = made.frames.shape[1] / made.fps
    if made.frames.shape[1] < trained.clip.frames:
        notes = [*notes, f'shorter than a clip of {trained.clip.duration_s:g} s: it was filled up by silence']
    return Outcome(job, 'made', notes, lasts_s)


def progress_bar() -> Progress:
    """Steps of the input at work."""
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, transient=True)


def show(bar: Progress, task: Any, done: int, total: int) -> None:
    """Move the bar."""
    bar.update(task, completed=done, total=total)


def report(outcomes: list[Outcome]) -> None:
    """A row an input, then how many there were of each kind."""
    table = Table(box=SIMPLE)
    for title in ('input', 'output', 'seconds', 'note'):
        table.add_column(title, overflow='fold', justify='right' if title == 'seconds' else 'left')
    for outcome in outcomes:
        made = outcome.state == 'made'
        targets = outcome.job.targets
        last = f' to {targets[-1].name}' if len(targets) > 1 else ''
        table.add_row(
            str(outcome.job.source),
            f'{targets[0]}{last}' if made else outcome.state,
            f'{outcome.lasts_s:.2f}' if made else '',
            '; '.join(outcome.notes),
        )
    Console().print(table)
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in ('made', 'skipped', 'failed')}
    print(', '.join(f'{count} {state}' for state, count in counts.items()))


if __name__ == '__main__':
    run_tool(main)
