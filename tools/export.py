"""Write the encoders of a trained model as graphs that run without this package.

python tools/export.py work_dirs/run --side both --format onnx --out exported

torch: torch.export (.pt2), read by torch.export.load and by torch's C++ runtime. onnx: read by onnxruntime and others.
Pictures go in as uint8 frames; sound as the waveform (torch) or the log-mel (onnx). Every file is run on a fixed batch and
held against the model; the largest difference is printed.
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gmscavp.engine.cli import run_tool
from gmscavp.errors import UserError
from gmscavp.inference import Model
from gmscavp.inference.exporting import Format, export_encoder
from gmscavp.inference.windows import SIDES, Side

# Rounding of float32 in another order of sums, on unit vectors.
TOLERANCE = 1e-4


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='--traceback shows where an error came from.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'run', type=Path, help='work directory of a training run (its newest checkpoint), or a checkpoint'
    )
    parser.add_argument('--side', choices=(*SIDES, 'both'), default='both', help='which encoder (default: both)')
    parser.add_argument('--format', choices=get_args(Format), default='torch', help='(default: torch)')
    parser.add_argument('--out', type=Path, required=True, help='folder to write into')
    return parser.parse_args()


def main() -> None:
    """Export, compare, say what was written."""
    args = parse_args()
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f'--out {args.out} is a file; give a folder.')
    model = Model.from_run(args.run, 'cpu')
    sides: tuple[Side, ...] = SIDES if args.side == 'both' else (args.side,)
    for side in sides:
        made = export_encoder(model, side, args.format, args.out)
        print(f'{made.file}: {made.takes} -> {"; ".join(made.gives)}')
        if made.difference is None:
            print('  not compared: onnxruntime is not installed')
        else:
            print(f'  largest difference from the model: {made.difference:.1e}')
            if not made.difference <= TOLERANCE:
                raise UserError(f'{made.file} differs from the model by more than {TOLERANCE:g}; do not use it.')


if __name__ == '__main__':
    run_tool(main)
