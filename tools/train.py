"""Pretrain a model from a config, for example: python tools/train.py configs/gmscavp_impacts.py"""

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gmscavp.distributed import stop
from gmscavp.engine.checkpoints import newest_checkpoint
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import add_config_options, load_config
from gmscavp.engine.launching import is_first_process
from gmscavp.engine.optim import AutocastOptimWrapper
from gmscavp.engine.runner import add_launch_options, build_runner
from gmscavp.engine.stopping import Stopped


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog='--traceback shows where an error came from.')
    parser.add_argument('config', help='config file, for example configs/gmscavp_impacts.py')
    parser.add_argument('--work-dir', help='folder for checkpoints and logs (default: work_dirs/<config name>)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='go on from a checkpoint of this run; without a path, from the newest in the work directory',
    )
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast, on CPU or GPU')
    add_launch_options(parser)
    add_config_options(parser)
    return parser.parse_args()


def main() -> None:
    """Build the run and train."""
    args = parse_args()
    config = load_config(args.config, args.cfg_options)
    config.work_dir = args.work_dir or config.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    if args.resume:
        # At once: a process that its launcher ends takes with it what waits to be written.
        say = partial(print, flush=True) if is_first_process() else lambda _: None
        newest = newest_checkpoint(Path(config.work_dir), say) if args.resume == 'auto' else args.resume
        if newest is None:
            say(f'{config.work_dir} holds no checkpoint to resume: training begins at the beginning')
        else:
            config.resume, config.load_from = True, str(newest)
    if args.amp:
        # By name: a class set here could not be dumped with the config.
        config.optim_wrapper.type = f'{AutocastOptimWrapper.__module__}.{AutocastOptimWrapper.__name__}'
    runner = build_runner(config, args.launcher)
    try:
        runner.train()
    except Stopped as stopped:
        stop()
        raise Stopped(stopped.number, str(stopped) and f'{stopped}; go on with: {command_to_resume(args)}') from None
    # Left open, the process group aborts a run that has ended well.
    stop()


def command_to_resume(args: argparse.Namespace) -> str:
    """This command, going on from the newest checkpoint of its work directory."""
    if args.launcher != 'none':
        return 'the same command and --resume'
    given = [word for word in sys.argv if word not in ('--resume', args.resume, f'--resume={args.resume}')]
    return shlex.join(['python', *given, '--resume'])


if __name__ == '__main__':
    run_tool(main)
