"""Print a config as it is after its bases and --cfg-options: python tools/print_config.py configs/gmscavp_impacts.py"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import add_config_options, load_config


def main() -> None:
    """Load, check and print."""
    parser = argparse.ArgumentParser(description=__doc__, epilog='--traceback shows where an error came from.')
    parser.add_argument('config', help='config file')
    add_config_options(parser)
    args = parser.parse_args()
    print(load_config(args.config, args.cfg_options).pretty_text)


if __name__ == '__main__':
    run_tool(main)
