"""What every command-line tool shares: how it ends when something is wrong."""

import atexit
import errno
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from gmscavp.distributed import lost_ranks
from gmscavp.engine.stopping import Stopped
from gmscavp.errors import UserError
from gmscavp.readers import lost_reader

# Seconds for the rank that is at fault to end first; a launcher goes by the first, and then ends all others at once.
_AFTER_OTHERS = 2


def run_tool(main: Callable[[], None]) -> None:
    """Run `main`; end a mistake of the user's with one sentence and exit code 2, Ctrl-C with 130, SIGTERM with 143.

    A rank that fails because another one has gone ends with a sentence too, and 1. A rank ends without Python's own
    teardown, in which gloo's threads have aborted runs that had ended well.

    `--traceback` anywhere on the command line shows the whole traceback instead.
    """
    with_traceback = '--traceback' in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != '--traceback']
    try:
        main()
        if _is_rank():
            _leave(0)
    except KeyboardInterrupt as stopped:
        if isinstance(stopped, Stopped):
            _end(str(stopped), stopped.code)
        kept = 'stopped by Ctrl-C; finished checkpoints are kept, and train.py goes on with --resume.'
        _end(str(stopped) or kept, 130)
    except UserError as error:
        if with_traceback:
            raise
        _end(_sentence(error), 2)
    except RuntimeError as error:
        if (lost := lost_reader(error)) and not with_traceback:
            _end(lost, 2)
        if not lost_ranks(error):
            raise
        # The launcher may end this process while it waits.
        sys.stdout.flush()
        time.sleep(_AFTER_OTHERS)
        if with_traceback:
            raise
        _end(
            'another rank has ended or does not answer; what it said itself is the cause. One that only needs longer is '
            'waited for env_cfg.dist_cfg.timeout seconds.',
            1,
        )
    except OSError as error:
        if with_traceback or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f' for {error.filename}' if error.filename else ''
        _end(f'no disk space is left{place}; free some, or give another disk (--work-dir, --out).', 2)


def _sentence(error: UserError) -> str:
    """The error's own words; a DataLoader's worker passes them on at the end of a whole traceback."""
    return str(error).rstrip().rpartition(f'{UserError.__module__}.{UserError.__name__}: ')[2]


def _end(sentence: str, code: int) -> NoReturn:
    sys.stdout.flush()
    if sentence:
        print(f'gmscavp: {sentence}', file=sys.stderr)
    if _is_rank():
        _leave(code)
    sys.exit(code)


def _is_rank() -> bool:
    """Whether torchrun or Slurm started this process; one that Python forked is not, and has no teardown."""
    return ('RANK' in os.environ or 'SLURM_PROCID' in os.environ) and multiprocessing.parent_process() is None


def _leave(code: int) -> NoReturn:
    """End this process once what it still has to write is written."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    # All that Python itself does before its teardown, and it has no public name.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
