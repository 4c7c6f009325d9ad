"""torchrun with a quiet end: where a rank has ended with a sentence for the user, nothing is added to it.

Takes torchrun's own arguments; tools/dist_train.sh and dist_test.sh call it.
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

# What gmscavp.engine.cli.run_tool ends with after one sentence: a user's mistake, Ctrl-C and SIGTERM.
SAID = (2, 130, 143)


def code_of(failed: ChildFailedError) -> int | None:
    """With what to end where a rank said what is wrong; None where none did. Others fail because that one has gone."""
    codes = [failure.exitcode for failure in failed.failures.values()]
    return next((code for code in codes if code in SAID), None)


if __name__ == '__main__':
    # Its lines about ranks that ended repeat what the ranks said, and what the error below holds.
    logging.getLogger('torch.distributed.elastic.multiprocessing.api').setLevel(logging.CRITICAL)
    try:
        main()
    except ChildFailedError as error:
        code = code_of(error)
        if code is None:
            raise
        sys.exit(code)
