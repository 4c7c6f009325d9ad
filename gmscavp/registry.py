"""One registry per kind of plug-in: the folder is the kind is the registry.

Kinds that MMEngine's Runner builds itself (models, datasets, transforms, metrics, hooks, optimiser wrappers) are
children of MMEngine's registries; the others are roots, because MMEngine allows one child per parent and scope.
"""

from typing import Any

import mmengine.optim  # noqa: F401  (registers torch's optimisers by name)
from mmengine import registry as mmengine_registry

from gmscavp.errors import UserError, near_names


class Registry(mmengine_registry.Registry):
    """A registry whose error for an unknown name says which names are near and what to import."""

    def build(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        """Build the object that `cfg` describes: dict(type=Class or name, argument=value, ...)."""
        kind = cfg.get('type') if isinstance(cfg, dict) else None
        if isinstance(kind, str) and self.get(kind) is None:
            raise UserError(self.unknown(kind))
        return super().build(cfg, *args, **kwargs)

    def names(self) -> list[str]:
        """All registered names, parents' included."""
        self.import_from_location()
        parent = self.parent.module_dict if self.parent else {}
        return sorted({*self.module_dict, *parent})

    def unknown(self, name: str) -> str:
        """What to say about a name that is not registered."""
        known = self.names()
        own = ', '.join(sorted(self.module_dict)) or 'none yet'
        return (
            f"no {self.name} is called '{name}'.{near_names(name, known)} Known: {own}. A plug-in of your own is found "
            'when its config imports it: write `from <package>.<module> import <Class>` and `type=<Class>`.'
        )


def _root(kind: str, *modules: str) -> Registry:
    return Registry(kind, scope='gmscavp', locations=[f'gmscavp.{module}' for module in modules])


def _child(kind: str, parent: mmengine_registry.Registry, *modules: str) -> Registry:
    return Registry(kind, parent=parent, scope='gmscavp', locations=[f'gmscavp.{module}' for module in modules])


MODELS = _child('model', mmengine_registry.MODELS, 'models')
DATASETS = _child('dataset', mmengine_registry.DATASETS, 'datasets')
TRANSFORMS = _child('transform', mmengine_registry.TRANSFORMS, 'datasets.transforms')
METRICS = _child(
    'metric',
    mmengine_registry.METRICS,
    'evaluation.metrics',
    'evaluation.reconstruction',
    'evaluation.generation_metric',
    'evaluation.classification_metric',
)
HOOKS = _child(
    'hook',
    mmengine_registry.HOOKS,
    'engine.hooks',
    'engine.checkpoints',
    'engine.losses_hook',
    'engine.accumulation',
    'engine.guards',
    'engine.collapse',
)
DATA_SAMPLERS = _child('data sampler', mmengine_registry.DATA_SAMPLERS, 'datasets.samplers', 'datasets.shards')
OPTIM_WRAPPERS = _child('optimiser wrapper', mmengine_registry.OPTIM_WRAPPERS, 'engine.optim')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimiser wrapper constructor', mmengine_registry.OPTIM_WRAPPER_CONSTRUCTORS, 'engine.optim'
)

# MMEngine looks in every one of its registries for a child of the project's scope, and warns where there is none.
for _parent in (
    mmengine_registry.LOOPS,
    mmengine_registry.OPTIMIZERS,
    mmengine_registry.PARAM_SCHEDULERS,
    mmengine_registry.VISBACKENDS,
    mmengine_registry.VISUALIZERS,
):
    mmengine_registry.Registry(_parent.name, parent=_parent, scope='gmscavp', locations=['gmscavp'])

BACKBONES = _root('backbone', 'models.backbones')
PYRAMIDS = _root('pyramid', 'models.pyramids')
HEADS = _root('head', 'models.heads')
DENOISERS = _root('denoiser', 'models.denoisers')
NOISE_SCHEDULERS = _root('noise scheduler', 'models.noise_schedulers')
SAMPLERS = _root('sampler', 'models.samplers')
CODECS = _root('codec', 'models.codecs')
VOCODERS = _root('vocoder', 'models.vocoders')
EMBEDDERS = _root('embedder', 'evaluation.embedders')
