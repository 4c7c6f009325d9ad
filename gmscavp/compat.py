"""What upstream releases break, mended in one place.

- `torchaudio`: import it from here. Its release does not pin torch, and beside a CPU build of torch the plain import
  fails with OSError because its compiled extension looks for CUDA libraries. Nothing here needs that extension.
- `load_checkpoint_file`: reads checkpoints, of older versions of this project too, without executing what they contain;
  `load_weights` puts them into a part.
- MMEngine formats a run's config some five times at its start, each time for most of a second: it does so once.
"""

import argparse
import codecs
import errno
import importlib
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mmengine.config import config as mmengine_config
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gmscavp import __version__
from gmscavp.errors import UserError
from gmscavp.seals import is_archive, is_intact, is_intact_safetensors

_FORMATTED_AT_ONCE = 8


def _formatting_once(format_code: Callable[..., tuple[str, bool]]) -> Callable[..., tuple[str, bool]]:
    """yapf's FormatCode, which knows the last texts that it has formatted."""
    known: dict[tuple[str, str], tuple[str, bool]] = {}

    def formatted(text: str, **settings: Any) -> tuple[str, bool]:
        key = text, repr(sorted(settings.items()))
        if key not in known:
            if len(known) == _FORMATTED_AT_ONCE:
                del known[next(iter(known))]
            known[key] = format_code(text, **settings)
        return known[key]

    return formatted


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
mmengine_config.FormatCode = _formatting_once(mmengine_config.FormatCode)


def _history_statistic(owner: type, name: str) -> Callable[..., float]:
    """Stand in for `getattr` in a checkpoint: only the statistics that a HistoryBuffer refers to."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UserError(f'the checkpoint asks for {owner.__name__}.{name}, which no training run writes.')
    return getattr(HistoryBuffer, name)


_RECONSTRUCT, _SCALAR = np.array([0.0]).__reduce__()[0], np.float64(0).__reduce__()[0]
# What stands beside tensors: in a run's own checkpoint MMEngine's histories, which are NumPy arrays; in released files
# also the arguments of the training program, and arrays under the module's name of before NumPy 2.
_CHECKPOINT_TYPES = [
    HistoryBuffer,
    (_history_statistic, 'builtins.getattr'),
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    _RECONSTRUCT,
    _SCALAR,
    (_RECONSTRUCT, 'numpy.core.multiarray._reconstruct'),
    (_SCALAR, 'numpy.core.multiarray.scalar'),
    codecs.encode,
    *(type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'bool')),
]
# For a file of its own kind that holds nonsense, beside UnpicklingError and OSError.
_TORCH_RAISES = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    zipfile.BadZipFile,
)
SAFETENSORS = '.safetensors'
ABSENT = 'absent'
"""Entry of a converted file's metadata: the keys, as JSON, that it lacks because its user said so."""

FORMAT = 1
"""Of the checkpoints that are written: one more with every change of what they hold that older code would misread.

0: without these entries, before 0.1.0 was released. 1: with them.
"""
_FORMAT, _VERSION = 'gmscavp_format', 'gmscavp_version'
# Format -> what makes a checkpoint of the next one of it, as `load_checkpoint_file` gives it; where nothing is named, it is
# one already. Released weights of others are of format 0 too, so that these have to leave alone what they do not know.
_CONVERSIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has: Python 3.13 can say it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def format_entries() -> dict[str, str]:
    """What the metadata of a checkpoint says of its format and maker; text, because that of safetensors is."""
    return {_FORMAT: str(FORMAT), _VERSION: __version__}


def _in_this_format(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """What an older version wrote, as this one would. UserError: a newer one wrote it."""
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    found = meta.get(_FORMAT, '0')
    if not isinstance(found, str) or not found.isdecimal():
        raise UserError(f'checkpoint {path} is damaged: its {_FORMAT} is no number; take another copy of it.')
    if int(found) > FORMAT:
        raise UserError(
            f'checkpoint {path} was made by gmscavp {meta.get(_VERSION)}, this is {__version__}, which cannot read it: '
            'update gmscavp.'
        )
    for number in range(int(found), FORMAT):
        checkpoint = _CONVERSIONS.get(number, lambda same: same)(checkpoint)
    return checkpoint


def load_checkpoint_file(file: str | Path, map_location: str | torch.device | None = 'cpu') -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only: no code in it is run.

    A .safetensors file gives {'state_dict': tensors by name, 'meta': its metadata}. Raises UserError when the file is
    missing, damaged by as much as a bit, of a newer version, or holds anything else.
    """
    path = Path(file).expanduser()
    if path.is_dir():
        raise UserError(f'checkpoint {path} is a folder; make one file of it with tools/export_checkpoint.py.')
    if not path.is_file():
        raise UserError(f'checkpoint {path} does not exist; give the path of a .pth or {SAFETENSORS} file.')
    if path.suffix == SAFETENSORS:
        if not is_intact_safetensors(path):
            raise UserError(f'checkpoint {path} is damaged: its checksum says so; take another copy of it.')
        return _in_this_format(_load_safetensors(path, map_location), path)
    # torch gives changed weights without a word.
    if is_archive(path) and not is_intact(path):
        raise UserError(f'checkpoint {path} is damaged: its checksum says so; take another one of the run.')
    try:
        with torch.serialization.safe_globals(_CHECKPOINT_TYPES):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f'checkpoint {path} is refused: it holds more than tensors and plain values; take a file of weights alone.'
        ) from error
    except _TORCH_RAISES as error:
        raise UserError(f'checkpoint {path} is damaged or no checkpoint; take another one of the run.') from error
    except OSError as error:
        # A file that ends too early makes torch look before its beginning.
        if error.errno != errno.EINVAL:
            raise
        raise UserError(f'checkpoint {path} is damaged: it ends too early; take another copy of it.') from error
    if not isinstance(checkpoint, dict):
        raise UserError(f'checkpoint {path} holds a {type(checkpoint).__name__}, not a dictionary of weights.')
    return _in_this_format(checkpoint, path)


def _load_safetensors(path: Path, map_location: str | torch.device | None) -> dict[str, Any]:
    try:
        with safe_open(path, framework='pt', device=str(map_location or 'cpu')) as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
            return {'state_dict': weights, 'meta': dict(opened.metadata() or {})}
    except SafetensorError as error:
        raise UserError(f'checkpoint {path} is damaged or no safetensors file; take another copy of it.') from error


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's weights in what `load_checkpoint_file` gave, without the prefix that distributed training adds."""
    weights = checkpoint.get('state_dict', checkpoint)
    return {name.removeprefix('module.'): value for name, value in weights.items() if torch.is_tensor(value)}


def differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What keeps the given weights from fitting in the place of a module's own; '' when they do."""
    shapes = [
        f'{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}'
        for name in sorted(set(own) & set(given))
        if own[name].shape != given[name].shape
    ]
    parts = [
        ('missing', sorted(set(own) - set(given))),
        ('unknown', sorted(set(given) - set(own))),
        ('of another shape', shapes),
    ]
    return '; '.join(f'{len(names)} {word} (for example {names[0]})' for word, names in parts if names)


def load_weights(module: nn.Module, file: str | Path, prefix: str = '') -> list[str]:
    """Start a part of a model from a file: every weight of `module` from the file's '<prefix>.<name>'.

    All or nothing, but for what the file says it lacks because its user left it out when it was converted: those names are
    returned and keep the values they have. Raises UserError for a file without such weights, or of another network.
    """
    checkpoint = load_checkpoint_file(file)
    weights = weights_of(checkpoint)
    start = f'{prefix}.' if prefix else ''
    given = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    # The part may be a whole model, trained by itself.
    given = given or (weights if weights.keys() == module.state_dict().keys() else {})
    if not given:
        parts = ', '.join(sorted({name.partition('.')[0] for name in weights})) or 'nothing'
        raise UserError(f'{file} holds no weights of {prefix}; it holds those of {parts}.')
    own = module.state_dict()
    declared = json.loads(checkpoint.get('meta', {}).get(ABSENT, '[]'))
    absent = sorted({name.removeprefix(start) for name in declared if name.startswith(start)} & set(own) - set(given))
    said = differences({name: value for name, value in own.items() if name not in absent}, given)
    if said:
        raise UserError(
            f'{file} does not fit the {type(module).__name__} that is set up: of {len(own)} weights {said}. '
            'Set the part up as the weights were trained, or leave out what differs when you convert them.'
        )
    module.load_state_dict(given, strict=False)
    return absent


CheckpointLoader.register_scheme(prefixes='', loader=load_checkpoint_file, force=True)
