"""A trained run by its folder or checkpoint alone: its config is read as data, so that nothing in it is run."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import get_object_from_string
from torch import nn

from gmscavp.engine.trained import find_checkpoint, model_with, whole_checkpoint
from gmscavp.errors import UserError

# Packages whose classes a config that is read as data may name. Anything else could be made to run what it likes.
_PACKAGES = ('gmscavp.', 'torch.nn.')
_EXPLICIT = 'a config is code in general: if you trust it, run it with gmscavp.inference.load(config, checkpoint)'


def load_run(path: Path) -> tuple[nn.Module, Config, Path]:
    """Model, config and checkpoint of a work directory (its newest whole one), or of a checkpoint.

    The config is the text that MMEngine keeps in a checkpoint of training; for weights alone, such as .safetensors, the
    one .py file beside them, or in the folder above. UserError: nothing is there, or it holds more than plain values.
    """
    file = find_checkpoint(path)
    checkpoint = whole_checkpoint(file)
    config = _config_of(file, checkpoint)
    # All that is built of a config here.
    for settings in (config.get('model'), clip_settings(config)):
        demand_own_types(settings, str(config.filename))
    return model_with(config, file, checkpoint), config, file


def clip_settings(config: Config) -> Mapping[str, Any]:
    """The settings of the data set that says what clips look like, in `clip`, and how they are treated, in `transforms`.

    That of test_dataloader, or of val_dataloader where a run was trained without tests. UserError: neither says it.
    """
    for name in ('test_dataloader', 'val_dataloader'):
        found = config.get(name)
        # A loader holds a data set, and a protocol wraps another.
        while isinstance(found, Mapping):
            if 'clip' in found:
                return found
            found = found.get('dataset')
    raise UserError(
        f'{config.filename}: test_dataloader.dataset.clip is missing, which says what clips look like, and so is '
        "val_dataloader's; open it with gmscavp.inference.load(config, checkpoint) and a config that has one."
    )


def plain_config(text: str, name: str) -> dict[str, Any]:
    """The values of a config that MMEngine has dumped: names, and constants, lists, tuples and dictionaries.

    UserError: there is anything else in it.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f'{name}: the config cannot be read ({error}).') from error
    values = {}
    for node in body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name) or len(node.targets) > 1:
            raise UserError(f'{name}, line {node.lineno} of the config is no plain value; {_EXPLICIT}.')
        values[node.targets[0].id] = _plain(node.value, name)
    return values


def demand_own_types(settings: Any, name: str) -> None:
    """UserError: a `type` among settings names something else than a class of this package or of torch.nn."""
    for kind in _types(settings):
        if not isinstance(kind, str) or '.' not in kind:
            continue
        found = get_object_from_string(kind) if kind.startswith(_PACKAGES) else None
        if not isinstance(found, type) or not found.__module__.startswith(_PACKAGES):
            raise UserError(f"{name} names the type '{kind}', which is no class of gmscavp; {_EXPLICIT}.")


def _config_of(file: Path, checkpoint: Mapping[str, Any]) -> Config:
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if isinstance(text, str) and text.strip():
        return Config(plain_config(text, file.name), cfg_text=text, filename=str(file))
    for folder in (file.parent, file.parent.parent):
        found = sorted(folder.glob('*.py'))
        if len(found) == 1:
            text = found[0].read_text(errors='replace')
            return Config(plain_config(text, str(found[0])), cfg_text=text, filename=str(found[0]))
        if found:
            break
    raise UserError(
        f'{file} holds no config, and beside it there is not exactly one; put the .py file that its run wrote into its '
        'folder, or say which with gmscavp.inference.load(config, checkpoint).'
    )


def _plain(node: ast.expr, name: str) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=parts):
            return [_plain(part, name) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(_plain(part, name) for part in parts)
        case ast.Dict(keys=keys, values=parts) if None not in keys:
            return {_plain(key, name): _plain(part, name) for key, part in zip(keys, parts, strict=True) if key}
        case ast.Call(func=ast.Name(id='dict'), args=first, keywords=rest) if len(first) <= 1:
            given = _plain(first[0], name) if first else {}
            if isinstance(given, dict):
                for word in rest:
                    given |= {word.arg: _plain(word.value, name)} if word.arg else _plain(word.value, name)
                return given
    raise UserError(f'{name}, line {node.lineno} of the config is no plain value; {_EXPLICIT}.')


def _types(settings: Any) -> Iterator[Any]:
    if isinstance(settings, Mapping):
        if 'type' in settings:
            yield settings['type']
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for inner in settings:
            yield from _types(inner)
