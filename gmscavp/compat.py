"""What upstream releases break, mended in one place.

- `torchaudio`: import it from here. Its release does not pin torch, and beside a CPU build of torch the plain import
  fails with OSError because its compiled extension looks for CUDA libraries. Nothing here needs that extension.
- `load_checkpoint_file`: reads checkpoints without executing what they contain.
"""

import codecs
import importlib
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from gmscavp.errors import UserError


def _extensionless() -> ModuleType:
    """The answers of torchaudio's `_extension` module on a machine without its compiled part."""
    stand_in = ModuleType('torchaudio._extension')

    def unavailable(*_: object, **__: object) -> Callable[..., None]:
        raise RuntimeError('torchaudio has no compiled extension beside this build of torch')

    stand_in.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        # Decorates functions that need the extension: they stay importable and fail when called.
        fail_if_no_align=lambda _function: unavailable,
        _check_cuda_version=lambda: None,
    )
    return stand_in


def _import_torchaudio() -> ModuleType:
    try:
        return importlib.import_module('torchaudio')
    except OSError:
        # The failed import leaves half-loaded parts behind, which would be found instead of loaded again.
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchaudio']:
            del sys.modules[name]
        sys.modules['torchaudio._extension'] = _extensionless()
        return importlib.import_module('torchaudio')


torchaudio = _import_torchaudio()


def _history_statistic(owner: type, name: str) -> Callable[..., float]:
    """Stand in for `getattr` in a checkpoint: only the statistics that a HistoryBuffer refers to."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UserError(f'the checkpoint asks for {owner.__name__}.{name}, which no training run writes.')
    return getattr(HistoryBuffer, name)


# What MMEngine writes into a checkpoint beside tensors: the message hub's histories, which are NumPy arrays.
_CHECKPOINT_TYPES = [
    HistoryBuffer,
    (_history_statistic, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    np.array([0.0]).__reduce__()[0],
    np.float64(0).__reduce__()[0],
    codecs.encode,
    *(type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'bool')),
]


def load_checkpoint_file(file: str | Path, map_location: str | torch.device | None = 'cpu') -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only: no code in it is run.

    Raises UserError when the file is missing, damaged, or holds anything else.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f'checkpoint {path} does not exist; give the path of a .pth file that training wrote.')
    try:
        with torch.serialization.safe_globals(_CHECKPOINT_TYPES):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f'checkpoint {path} is refused: it holds more than tensors and plain values.') from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f'checkpoint {path} is damaged or no checkpoint; take another one of the run.') from error
    if not isinstance(checkpoint, dict):
        raise UserError(f'checkpoint {path} holds a {type(checkpoint).__name__}, not a dictionary of weights.')
    return checkpoint


CheckpointLoader.register_scheme(prefixes='', loader=load_checkpoint_file, force=True)
