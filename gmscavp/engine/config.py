"""Reading a config file, changing it from the command line, and finding mistakes in it before anything is built."""

import argparse
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from mmengine.utils import get_object_from_string
from torch.utils.data import DataLoader

from gmscavp.errors import UserError, near_names

_RUNNER_KEYS = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | {'model_wrapper_cfg'}
_LOADER_KEYS = set(inspect.signature(DataLoader.__init__).parameters) - {'self'} | {'num_batch_per_epoch', 'type'}
# Read by MMEngine from the dictionary itself, before the class sees it.
_BUILDER_KEYS = {'type', 'priority', 'paramwise_cfg', 'constructor', 'convert_to_iter_based', '_scope_'}


class _KeyValue(DictAction):
    """MMEngine's action, with a sentence for what is no KEY=VALUE."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        for value in values:
            if '=' not in value:
                raise UserError(f"--cfg-options takes KEY=VALUE, got '{value}'.")
        try:
            super().__call__(parser, namespace, values, option_string)
        except RecursionError:
            # MMEngine's parser knows lists of plain values only, and calls itself for ever on what it does not know.
            raise UserError(
                f'--cfg-options {" ".join(values)} holds a list that is not of plain values; change it in a config file.'
            ) from None


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Give a tool the argument --cfg-options."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_KeyValue,
        metavar='KEY=VALUE',
        help='change settings of the config, for example data_root=PATH or model.head.temporal_weight=0.2; a name that '
        'stands at the top of the config also changes wherever the same name has the same value',
    )


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config, apply `options` ({'dotted.key': value}) and check every key.

    Raises UserError for a missing or broken file, a misspelt key (with the near ones), and a class that cannot be found.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'config {path} does not exist; the configs of the project are in configs/.')
    try:
        config = Config.fromfile(str(path))
        _resolve(config)
    except (SyntaxError, NameError, ImportError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    apply_options(config, options or {})
    check_config(config)
    return config


def apply_options(config: Config, options: Mapping[str, Any]) -> None:
    """Change settings in place. A plain name at the top changes also wherever that name has the same value."""
    for key, value in options.items():
        _check_option(config, key)
        if '.' not in key and not isinstance(config.get(key), dict | list):
            _replace_everywhere(config._cfg_dict, key, config.get(key), value)
        config.merge_from_dict({key: value})


def check_config(config: Config) -> None:
    """Raise UserError for a key that nothing reads: in a class's settings, in a loader, or almost a key of the runner."""
    for name in config:
        # What a config imports stands among its names too.
        if name not in _RUNNER_KEYS and not callable(config[name]):
            near = near_names(name, _RUNNER_KEYS, cutoff=0.85)
            if near:
                raise UserError(f"the config's '{name}' is read by nothing.{near}")
    for place, settings in _dictionaries(config._cfg_dict, ''):
        _check_decay(place, settings)
        known = _known_keys(place, settings)
        if known is None:
            continue
        for key in settings:
            if key not in known:
                owner = getattr(settings.get('type'), '__name__', str(settings.get('type', place)).split('.')[-1])
                takes = ', '.join(sorted(known - _BUILDER_KEYS))
                raise UserError(
                    f"{place}.{key}: {owner} has no setting '{key}'.{near_names(key, known)} It takes {takes}."
                )


def _check_decay(place: str, settings: Mapping[str, Any]) -> None:
    """Refuse a decay by depth that MMEngine's own constructor of optimisers would pass over in silence."""
    if 'layer_decay' in (settings.get('paramwise_cfg') or {}) and 'constructor' not in settings:
        raise UserError(
            f"{place}.paramwise_cfg.layer_decay needs {place}.constructor='LayerDecayConstructor'; without it nothing "
            'reads it.'
        )


def _known_keys(place: str, settings: Mapping[str, Any]) -> set[str] | None:
    """The keys that a dictionary of the config may have; None where anything may stand."""
    if place in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        return _LOADER_KEYS
    kind = settings.get('type')
    if isinstance(kind, str) and '.' in kind:
        kind = get_object_from_string(kind)
    if not callable(kind):
        return None
    parameters = inspect.signature(kind).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} | _BUILDER_KEYS


def _dictionaries(value: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dictionary in the config with its dotted place, outermost first."""
    if isinstance(value, dict):
        if place:
            yield place, value
        for key, inner in value.items():
            yield from _dictionaries(inner, f'{place}.{key}' if place else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _dictionaries(inner, f'{place}.{index}')


def _resolve(config: Config) -> None:
    """Touch every value, so that a class that does not exist is found now and not in the middle of building."""
    for _ in _dictionaries(config._cfg_dict, ''):
        pass


def _check_option(config: Config, key: str) -> None:
    *parents, last = key.split('.')
    place: Any = config._cfg_dict
    walked: list[str] = []
    for part in [*parents, last]:
        if isinstance(place, list | tuple) and part.isdigit() and int(part) < len(place):
            place = place[int(part)]
        elif isinstance(place, dict) and part in place:
            place = place[part]
        elif part == last and isinstance(place, dict) and _may_add(place, '.'.join(walked), part):
            return
        else:
            names = place if isinstance(place, dict) else ()
            where = '.'.join(walked) or 'the config'
            raise UserError(f"--cfg-options {key}: {where} has no '{part}'.{near_names(part, names)}")
        walked.append(part)


def _may_add(place: Mapping[str, Any], where: str, key: str) -> bool:
    """Whether a key that is not in the config yet would be read."""
    known = _known_keys(where, place) if where else _RUNNER_KEYS
    return known is None or key in known


def _replace_everywhere(settings: Any, key: str, old: Any, new: Any) -> None:
    values = settings.values() if isinstance(settings, dict) else settings
    for value in list(values):
        if isinstance(value, dict | list | tuple):
            _replace_everywhere(value, key, old, new)
    if isinstance(settings, dict) and key in settings and settings[key] == old and type(settings[key]) is type(old):
        settings[key] = new
