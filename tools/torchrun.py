"""torchrun with a quiet end: where a rank has ended with a sentence for the user, nothing is added to it.

Takes torchrun's own arguments; tools/dist_train.sh and dist_test.sh call it.
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

# What gmscavp.engine.cli.run_tool ends with after one sentence: a user's mistake, and Ctrl-C.
SAID = (2, 130)

if __name__ == '__main__':
    # Its lines about ranks that ended repeat what the ranks said, and what the error below holds.
    logging.getLogger('torch.distributed.elastic.multiprocessing.api').setLevel(logging.CRITICAL)
    try:
        main()
    except ChildFailedError as error:
        first = error.get_first_failure()[1]
        if first.exitcode not in SAID:
            raise
        sys.exit(first.exitcode)
