"""Start the browser page: python -m gmscavp.webapp --run work_dirs/quickstart

Open the address that it prints. Whatever a person drops on the page stays on this machine and is removed when the page
ends, or an hour after it came. The password, if there is to be one, is asked for (--password) or taken from the
environment variable GMSCAVP_PASSWORD; the user name is free.
"""

import argparse
import getpass
import importlib
import importlib.util
import os
import sys
from pathlib import Path

from gmscavp.engine.cli import run_tool
from gmscavp.errors import UserError
from gmscavp.webapp.limits import Limits
from gmscavp.webapp.served import open_served

INSTALL = 'pip install -c requirements/constraints.txt "gmscavp[web]"'
PASSWORD = 'GMSCAVP_PASSWORD'
_LOCAL = ('127.0.0.1', 'localhost', '::1')


def parse_args(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='python -m gmscavp.webapp', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = parser.add_argument_group('models (work directories or checkpoints)')
    models.add_argument('--run', type=Path, required=True, metavar='RUN', help='GMSCAVP, which searches and looks')
    models.add_argument(
        '--generator', type=Path, metavar='RUN', help='makes sound for a video (default: RUN/v2a if it is there)'
    )
    models.add_argument('--heat-map', type=Path, metavar='RUN', help='GMSCAVP with DenseHead, to see where a sound is')
    models.add_argument('--device', help='cpu, cuda, cuda:1 (default: a GPU where there is one)')
    library = parser.add_argument_group('library')
    library.add_argument(
        '--db', metavar='DB', help='database of tools/search.py index (default: RUN/search if it is there)'
    )
    library.add_argument('--root', type=Path, help='where the library is now, if it was moved')
    library.add_argument(
        '--examples', type=Path, metavar='DIR', help='folder of examples (default: three files of the library)'
    )
    server = parser.add_argument_group('server')
    server.add_argument('--host', default='127.0.0.1', help='address to listen on (default: 127.0.0.1, this machine)')
    server.add_argument('--port', type=int, default=7860, help='0 takes any that is free (default: 7860)')
    server.add_argument('--password', action='store_true', help=f'ask for a password now, or take it from {PASSWORD}')
    limits = parser.add_argument_group('limits for whoever uses the page')
    limits.add_argument('--max-mb', type=int, default=200, metavar='N', help='size of a file (default: 200)')
    limits.add_argument(
        '--max-seconds', type=float, default=600, metavar='S', help='duration of a file to search with (default: 600)'
    )
    limits.add_argument(
        '--max-generate-seconds', type=float, default=60, metavar='S', help='the same, to make sound for (default: 60)'
    )
    limits.add_argument('--queue', type=int, default=40, metavar='N', help='people who may wait (default: 40)')
    return parser.parse_args(given)


def main() -> None:
    """Load the models, then serve until Ctrl-C."""
    args = parse_args()
    if importlib.util.find_spec('gradio') is None:
        raise UserError(f'the page needs the library gradio; install it with: {INSTALL}')
    limits = Limits(args.max_mb, args.max_seconds, args.max_generate_seconds, args.queue)
    password = os.environ.get(PASSWORD) or (getpass.getpass('Password for the page: ') if args.password else '')
    if args.password and not password:
        raise UserError('the password is empty; type one, or leave --password out.')
    served = open_served(args.run, args.generator, args.heat_map, args.db, args.root, args.device)
    # By name, after the test above: these modules cannot be imported without gradio.
    server = importlib.import_module('gmscavp.webapp.server')
    with server.serving(served, limits, args.host, args.port, password, args.examples) as address:
        print(f'Open {address} in a browser; Ctrl-C ends it.', flush=True)
        if args.host not in _LOCAL and not password:
            print(
                f'Everybody who reaches {args.host} can use this page; --password asks who it is.',
                file=sys.stderr,
                flush=True,
            )
        server.wait()


if __name__ == '__main__':
    run_tool(main)
