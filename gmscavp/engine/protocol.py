"""Evaluation protocols: a config file that says on which clips, and how cut, any trained model is tested."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.utils import get_object_from_string

from gmscavp.engine.config import apply_options, check_config, load_config
from gmscavp.errors import UserError, near_names

_PARTS = ('test_dataloader', 'test_evaluator')
# Settings of a data set that say how the model wants its clips, whatever the clips are.
_MODELS_OWN = ('clip', 'window', 'transforms')


def load_with_protocol(
    path: str | Path, protocol: str | Path | None, options: Mapping[str, Any] | None = None
) -> Config:
    """A training config whose test is that of a protocol; `options` apply to both together, after they were joined.

    The protocol's test_dataloader has a `dataset` that wraps another (GallerySubset). The wrapped one takes from the
    config's own test set what the protocol leaves open: the format of the clips (each key of `clip` by itself), window
    and transforms always, the other settings where the protocol names no other class. Names at the top of the protocol
    (data_root, gallery_file, ...) stand beside the config's, in place of those of the same name.
    Raises UserError for a protocol that sets anything but the test.
    """
    if protocol is None:
        return load_config(path, options)
    config, plan = load_config(path), load_config(protocol)
    if 'test_dataloader' not in config:
        raise UserError(f'config {path} has no test_dataloader; give the config that the checkpoint was trained with.')
    chosen = _chosen(plan, protocol)
    own = config._cfg_dict.to_dict()['test_dataloader']
    loader = {**own, **chosen.pop('test_dataloader')}
    loader['dataset'] = _joined(own['dataset'], loader['dataset'])
    config.test_dataloader = ConfigDict(loader)
    for name, value in chosen.items():
        config[name] = ConfigDict(value) if isinstance(value, dict) else value
    apply_options(config, options or {})
    check_config(config)
    return config


def _chosen(plan: Config, protocol: str | Path) -> dict[str, Any]:
    """What a protocol sets, classes by their dotted names so that the joined config can be dumped."""
    chosen = plan.to_dict()
    for name, value in chosen.items():
        if isinstance(value, dict) and name not in _PARTS:
            raise UserError(
                f"protocol {protocol} sets '{name}'; a protocol sets {' and '.join(_PARTS)}.{near_names(name, _PARTS)}"
            )
    if not isinstance(chosen.get('test_dataloader', {}).get('dataset', {}).get('dataset'), dict):
        raise UserError(
            f'protocol {protocol} needs test_dataloader = dict(dataset=dict(type=GallerySubset, gallery=..., '
            'dataset=...)); see configs/retrieval/.'
        )
    return chosen


def _joined(own: Mapping[str, Any], wrapper: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol's data set, completed by the settings of the config's own test set."""
    while 'dataset' in own:
        own = own['dataset']
    wrapped = dict(wrapper['dataset'])
    same = 'type' not in wrapped or get_object_from_string(wrapped['type']) is get_object_from_string(own['type'])
    settings = {name: value for name, value in own.items() if same or name in _MODELS_OWN}
    clip = {**own.get('clip', {}), **wrapped.pop('clip', {})}
    return {**wrapper, 'dataset': {**settings, **wrapped, 'clip': clip, 'replace_bad': False}}
