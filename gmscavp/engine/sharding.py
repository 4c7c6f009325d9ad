"""One model over several ranks, each with a part of every weight: torch's fully_shard behind `model_sharding`.

Zhao et al. 2023 (FSDP), after Rajbhandari et al. 2020 (ZeRO stage 3): weights, gradients, moments of the optimiser and the
moving average lie in parts; a layer's weights are gathered when it runs and let go behind it. A unit is one layer, not a
block of layers, because parts of some blocks are called from outside them; and so that under autocast just those weights
travel as bfloat16 that autocast would round anyway, while norms, gains and logit scales stay float32.
"""

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine import __version__ as mmengine_version
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from gmscavp.distributed import same_everywhere, world
from gmscavp.engine.sharded_checkpoints import SUFFIX, Like
from gmscavp.errors import UserError, near_names

SETTING = 'model_sharding'
# The layers whose weights autocast rounds.
_ROUNDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class ModelSharding:
    """enabled: split the model's weights over ranks. group: over so many, neighbours in rank, each such group with a copy
    of its own (all ranks where None). unit_parameters: smaller layers stay gathered throughout a step."""

    enabled: bool = False
    group: int | None = None
    unit_parameters: int = 2**18


def sharding_of(config: Config) -> ModelSharding | None:
    """What the config asks for; None where the model stays whole on every rank. UserError: unknown settings."""
    asked = config.get(SETTING) or {}
    if isinstance(asked, bool):
        asked = {'enabled': asked}
    known = ModelSharding.__dataclass_fields__
    for key in asked:
        if key not in known:
            raise UserError(f"{SETTING} has no setting '{key}'.{near_names(key, known)} It takes {', '.join(known)}.")
    settings = ModelSharding(**asked)
    return settings if settings.enabled and config.get('launcher', 'none') != 'none' else None


def prepare_config(config: Config) -> None:
    """Have checkpoints named as the folders they will be. UserError for settings that do not go with sharding."""
    if sharding_of(config) is None:
        return
    speed = config.get('speed') or {}
    for name in ('compile', 'channels_last'):
        if speed.get(name):
            raise UserError(f'{SETTING} does not go with speed.{name}; switch one of them off.')
    saving = config.get('default_hooks', {}).get('checkpoint')
    if saving:
        counted = 'epoch_{}' if saving.get('by_epoch', True) else 'iter_{}'
        saving['filename_tmpl'] = (saving.get('filename_tmpl') or counted).removesuffix('.pth') + SUFFIX


def shard_model(model: nn.Module, settings: ModelSharding, rounded: bool, device: str | None = None) -> nn.Module:
    """Split a model's weights, in place, over the ranks of the process group; rank 0's are those that count.

    rounded: gather the weights of linear layers and convolutions as bfloat16, for a forward pass under autocast.
    UserError: what the model does cannot be done in parts.
    """
    group = _group(settings)
    _demand_shardable(model)
    device = device or get_device()
    same_everywhere(model)
    mesh = _ranks_in_groups(torch.device(device).type, group)
    for unit in units(model, settings.unit_parameters):
        narrow = rounded and isinstance(unit, _ROUNDED)
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if narrow else None, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    # Let go after evaluation too, so that hooks always find parts.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    # MMEngine's moving average copies the model, which torch refuses for what gathers weights; it needs the weights alone.
    whole: Any = model
    whole.__deepcopy__ = lambda memo: copy.deepcopy(_weights_alone(whole), memo)
    if rounded:
        # MMEngine validates outside autocast, where inputs would not be of the type of the weights that were gathered.
        whole.forward = torch.autocast(torch.device(device).type, dtype=torch.bfloat16)(whole.forward)
    # Buffers, and where the preprocessor sends its batches.
    return model.to(device)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard_model` has split the model."""
    return isinstance(model, FSDPModule)


def units(model: nn.Module, least: int) -> Iterator[nn.Module]:
    """The layers of at least so many parameters, which are gathered one by one."""
    for module in model.modules():
        if next(module.children(), None) is None and sum(p.numel() for p in module.parameters()) >= least:
            yield module


def like_parts(model: nn.Module, optim_wrapper: Any = None) -> Like:
    """How the tensors of a checkpoint lie over ranks: as the weights that they are, or belong to.

    Their names are state_dict.<weight>, ema_state_dict.module.<weight>, optimizer.state.<number of weight>.<moment>.
    """
    weights = dict(model.named_parameters())
    numbered: list[Tensor] = []
    if isinstance(optim_wrapper, OptimWrapper):
        numbered = [weight for group in optim_wrapper.optimizer.param_groups for weight in group['params']]

    def like(name: str) -> Tensor | None:
        kind, _, rest = name.partition('.')
        if kind == 'optimizer':
            number = rest.removeprefix('state.').partition('.')[0]
            return numbered[int(number)] if number.isdigit() and int(number) < len(numbered) else None
        return weights.get(rest.removeprefix('module.') if kind == 'ema_state_dict' else rest)

    return like


def checkpoint_of(
    runner: Runner, save_optimizer: bool, save_param_scheduler: bool, meta: Mapping[str, Any] | None, by_epoch: bool
) -> dict[str, Any]:
    """What MMEngine's runner would save of a run, weights and moments in parts."""
    counters = dict(epoch=runner.epoch + by_epoch, iter=runner.iter + (not by_epoch)) | dict(meta or {})
    counters |= dict(
        cfg=runner.cfg.pretty_text,
        seed=runner.seed,
        experiment_name=runner.experiment_name,
        time=time.strftime('%Y%m%d_%H%M%S', time.localtime()),
        mmengine_version=mmengine_version,
    )
    dataset_meta = getattr(runner.train_dataloader.dataset, 'metainfo', None)
    saved: dict[str, Any] = {
        'meta': counters | ({} if dataset_meta is None else {'dataset_meta': dataset_meta}),
        'state_dict': dict(runner.model.state_dict()),
        'message_hub': apply_to(runner.message_hub.state_dict(), lambda x: hasattr(x, 'cpu'), lambda x: x.cpu()),
    }
    if save_optimizer:
        saved['optimizer'] = runner.optim_wrapper.state_dict()
    if save_param_scheduler and runner.param_schedulers is not None:
        saved['param_schedulers'] = [scheduler.state_dict() for scheduler in runner.param_schedulers]
    runner.call_hook('before_save_checkpoint', checkpoint=saved)
    return saved


def _weights_alone(model: nn.Module) -> nn.Module:
    """A tree of modules that do nothing, with the same parameters and buffers under the same names in the same order."""
    bare = nn.Module()
    for name, parameter in model.named_parameters(recurse=False):
        bare.register_parameter(name, parameter)
    for name, buffer in model.named_buffers(recurse=False):
        bare.register_buffer(name, buffer, persistent=name not in model._non_persistent_buffers_set)
    for name, child in model.named_children():
        bare.add_module(name, _weights_alone(child))
    return bare


def _group(settings: ModelSharding) -> int:
    _, ranks = world()
    group = ranks if settings.group is None else settings.group
    if group < 1 or ranks % group:
        raise UserError(
            f'{SETTING}.group={group} does not divide the {ranks} ranks; set it to a divisor of {ranks}, or to None for '
            'one copy over all.'
        )
    return group


def _ranks_in_groups(device: str, group: int) -> DeviceMesh:
    """All ranks, `group` of them in a row to share one copy of something: (copies, group), or (group,) for one copy."""
    _, ranks = world()
    if group == ranks:
        return init_device_mesh(device, (ranks,))
    return init_device_mesh(device, (ranks // group, group), mesh_dim_names=('copies', 'parts'))


def _demand_shardable(model: nn.Module) -> None:
    if not hasattr(checkpoint, 'HuggingFaceStorageWriter'):
        raise UserError(f'{SETTING} needs a newer torch than {torch.__version__} to save in parts; 2.13 does.')
    scalars = [name for name, parameter in model.named_parameters() if parameter.dim() == 0]
    if scalars:
        raise UserError(f'{SETTING}: {scalars[0]} is a single number, which has no parts; use another part there.')
    kind: Any = type(model)
    if kind.train_step is not BaseModel.train_step or kind.val_step is not BaseModel.val_step:
        raise UserError(f'{SETTING}: {kind.__name__} trains its parts in turn; only models of one loss can be sharded.')
    if getattr(model, 'rerank', None) is not None:
        raise UserError(
            f'{SETTING}: rerank asks the model on one rank alone; set model.rerank=None, and rerank with the exported '
            'weights (tools/export_checkpoint.py).'
        )
    if getattr(model, 'chunk', None) is not None:
        raise UserError(
            f'{SETTING}: with chunk, ranks of uneven batches would wait for each other for ever; set model.chunk=None, '
            "and the backbones' gradient_checkpointing instead."
        )


def folder_name(filename: str) -> str:
    """The name of a sharded checkpoint, whatever ending it was asked for with."""
    return Path(filename).name.removesuffix(SUFFIX).removesuffix('.pth') + SUFFIX
