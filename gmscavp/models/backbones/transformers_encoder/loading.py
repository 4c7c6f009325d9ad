"""Loading an encoder of the library `transformers`: from a folder, from the hub by its id, or random from a config."""

import importlib
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

# The library imports torchaudio by itself, which works beside a CPU build of torch only after this.
import gmscavp.compat  # noqa: F401
from gmscavp.errors import UserError, near_names

# By name: the types of an optional library cannot be checked where it is not installed.
transformers: Any
_REFUSALS: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, RuntimeError, SafetensorError)
try:
    transformers = importlib.import_module('transformers')
    _REFUSALS += (importlib.import_module('huggingface_hub.errors').StrictDataclassError,)
except ImportError:  # the extra gmscavp[hf]
    transformers = None

INSTALL = 'pip install -c requirements/constraints.txt "gmscavp[hf]"'
_HUB_ID = re.compile(r'[\w-][\w.-]*(/[\w-][\w.-]*)?')


class Kind(NamedTuple):
    """A family of encoders: its adapter, its class in the library, and where it is inside of larger ones that were saved.

    inside: class of the larger model -> name of its attribute that is the encoder.
    """

    adapter: type[nn.Module]
    encoder: str
    inside: Mapping[str, str] = {}


def load_encoder(
    kinds: Mapping[str, Kind], source: str | Mapping[str, Any], pretrained: bool, gradient_checkpointing: bool
) -> tuple[Kind, Any]:
    """(the family, the encoder in float32) for what `source` names; `kinds` are the model types that will do.

    The network is used only where `source` is an id of the hub. Raises UserError when the library is missing, when
    source is no such encoder, and when weights are missing or damaged.
    """
    if transformers is None:
        raise UserError(f'this backbone needs the library transformers; install it with: {INSTALL}')
    if isinstance(source, Mapping) and pretrained:
        raise UserError('source is a config, which has no weights: set pretrained=False, or give a folder or an id.')
    try:
        settings = dict(source) if isinstance(source, Mapping) else _saved_settings(source)
        kind = _kind(kinds, settings.get('model_type'))
        with _quiet():
            if isinstance(source, Mapping):
                encoder = _from_settings(kind, settings)
            elif pretrained:
                encoder = _from_weights(kind, source, settings)
            else:
                architecture = getattr(transformers, kind.encoder)
                encoder = architecture(architecture.config_class.from_pretrained(_place(source)))
    except ImportError as error:
        raise UserError(
            f'the library transformers does not import ({error}); a torchvision that does not fit torch does this: '
            f'pip uninstall torchvision, then {INSTALL}'
        ) from error
    except _REFUSALS as error:
        said = 'the config' if isinstance(source, Mapping) else source
        raise UserError(f'source: {said} cannot be loaded: {textwrap.shorten(str(error), 300)}') from error
    if gradient_checkpointing:
        if not encoder.supports_gradient_checkpointing:
            raise UserError(f'{kind.encoder} cannot do without its activations; leave gradient_checkpointing out.')
        encoder.activation_checkpointing_enable()
    return kind, encoder


def _place(source: str) -> str:
    """The path of a folder, or an id of the hub as it is."""
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / 'config.json').is_file():
            raise UserError(f'{path} has no config.json; give the folder that save_pretrained wrote.')
        return str(path)
    if path.exists() or not _HUB_ID.fullmatch(source):
        raise UserError(f'{source} is no folder; give one that save_pretrained wrote, or an id of the hub: owner/name.')
    return source


def _saved_settings(source: str) -> dict[str, Any]:
    return transformers.PreTrainedConfig.get_config_dict(_place(source))[0]


def _kind(kinds: Mapping[str, Kind], model_type: Any) -> Kind:
    if model_type not in kinds:
        known = ', '.join(kinds)
        raise UserError(f"model_type '{model_type}' is none that this backbone takes; it takes {known}.")
    return kinds[model_type]


def _from_settings(kind: Kind, settings: dict[str, Any]) -> Any:
    """Random weights. The library would keep a misspelt setting and use the default in its place."""
    architecture = getattr(transformers, kind.encoder)
    known = architecture.config_class().to_dict()
    for name in settings:
        if name not in known:
            raise UserError(f"source: {kind.encoder} has no setting '{name}'.{near_names(name, known)}")
    settings.pop('model_type')
    return architecture(architecture.config_class(**settings))


def _from_weights(kind: Kind, source: str, settings: Mapping[str, Any]) -> Any:
    """The encoder with the weights that were saved, every one of them."""
    saved = next((name for name in settings.get('architectures') or () if name in kind.inside), kind.encoder)
    model, report = getattr(transformers, saved).from_pretrained(
        _place(source), dtype=torch.float32, output_loading_info=True
    )
    if report['missing_keys'] or report['mismatched_keys']:
        missing = sorted(map(str, [*report['missing_keys'], *report['mismatched_keys']]))
        raise UserError(f'{source} lacks {len(missing)} weights of {saved}, for example {missing[0]}.')
    return getattr(model, kind.inside[saved]) if saved in kind.inside else model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's list of weights that were left out, as heads of no use here are; its errors remain."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
