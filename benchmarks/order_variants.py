"""What benchmarks/retrieval_order.py compares: CAVP, DiffGAP, GMS-CAVP, ablations, and trials of their settings."""

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gmscavp.engine.config import load_config

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = [16, 8, 4, 2, 1]


@dataclass(frozen=True)
class Variant:
    """The config's name, what differs from it in its model, and its other settings by dotted name."""

    config: str
    changes: Callable[[Any], dict[str, Any]] = lambda model: {}
    settings: Mapping[str, Any] = field(default_factory=dict)


def changed(settings: Any, **values: Any) -> Any:
    """A part of a config with other values. `|` would put classes where the config has their names, and MMEngine could
    not write it down.
    """
    part = copy.deepcopy(settings)
    part.update(values)
    return part


def folder_name(name: str, seed: int) -> str:
    """Of a run, from its variant's name."""
    return f'{re.sub("[^A-Za-z0-9.-]+", "_", name)}_{seed}'


def pyramids(kind: str) -> dict[str, Any]:
    """Both pyramids of another kind, at the lengths and width of the default."""
    common = dict(type=kind, dim=64, lengths=LENGTHS)
    return {
        'video_pyramid': dict(common, places='image', grids=[1, 2, 4]),
        'audio_pyramid': dict(common, places='bands', grids=[1, 2, 4]),
    }


def latent_diffusion(model: Any) -> dict[str, Any]:
    """The default's diffusion on the single scale of CAVP."""
    return {'diffusion': load_config(ROOT / 'configs/gmscavp_impacts.py').model.diffusion}


def aligned_diffusion(model: Any) -> dict[str, Any]:
    """Diffusion that names the clean signal, at noisy times, given the condition of the same moment."""
    changes = dict(
        scheduler=dict(type='RectifiedFlow', prediction='x0', mean=1.5),
        denoiser=changed(model.diffusion.denoiser, aligned=True),
        detail=True,
        grids=4,
        loss_weight=3.0,
    )
    return {'diffusion': changed(model.diffusion, **changes)}


SMALL_BATCH = {'train_dataloader.batch_size': 12, 'optim_wrapper.optimizer.lr': 1e-3}
VARIANTS = {
    'CAVP': Variant('cavp'),
    'DiffGAP': Variant('diffgap'),
    'GMS-CAVP': Variant('gmscavp'),
    'scales only': Variant('gmscavp', lambda model: {'diffusion': None}),
    'diffusion only': Variant('cavp', latent_diffusion),
    'embedding targets': Variant('gmscavp', lambda model: {'diffusion': changed(model.diffusion, target='embedding')}),
    'diffusion weight x 8': Variant('gmscavp', lambda model: {'diffusion': changed(model.diffusion, loss_weight=4.0)}),
    'aligned diffusion': Variant('gmscavp', aligned_diffusion),
    'temporal term off': Variant('gmscavp', lambda model: {'head': changed(model.head, temporal_weight=0.0)}),
    'pooling pyramid': Variant('gmscavp', lambda model: pyramids('PoolingPyramid')),
    'feature pyramid': Variant('gmscavp', lambda model: pyramids('FeaturePyramid')),
    'query pyramid': Variant('gmscavp', lambda model: pyramids('QueryPyramid')),
    'plain tokens (detail off)': Variant(
        'gmscavp',
        lambda model: {side: changed(model[side], detail=False) for side in ('video_pyramid', 'audio_pyramid')},
    ),
    'batches of 12: scales only': Variant('gmscavp', lambda model: {'diffusion': None}, SMALL_BATCH),
    'batches of 12: aligned diffusion': Variant('gmscavp', aligned_diffusion, SMALL_BATCH),
}


def wider(model: Any) -> dict[str, Any]:
    """Tokens of twice the width."""
    return {side: changed(model[side], dim=128) for side in ('video_pyramid', 'audio_pyramid')}


# The same for both models, one at a time from the default.
TRIALS: dict[str, tuple[Callable[[Any], dict[str, Any]], dict[str, Any]]] = {
    'default': (lambda model: {}, {}),
    'rate 1e-3': (lambda model: {}, {'optim_wrapper.optimizer.lr': 1e-3}),
    'rate 4e-3': (lambda model: {}, {'optim_wrapper.optimizer.lr': 4e-3}),
    'temperature 1/30': (lambda model: {'head': changed(model.head, init_scale=30.0)}, {}),
    'width 128': (wider, {}),
}
TUNED = {
    f'{name}: {trial}': Variant(config, changes, settings)
    for name, config in (('CAVP', 'cavp'), ('GMS-CAVP', 'gmscavp'))
    for trial, (changes, settings) in TRIALS.items()
}
VARIANTS |= TUNED
