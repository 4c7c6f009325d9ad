"""What makes a training step faster or smaller and leaves what it learns: `speed` in a config (docs/training_speed.md).

Parts of a model are told by what they are registered as: backbones, pyramids, heads and denoisers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from gmscavp.distributed import world
from gmscavp.errors import UserError, near_names
from gmscavp.registry import BACKBONES, DENOISERS, HEADS, PYRAMIDS

_LAYOUTS = {nn.Conv2d: torch.channels_last, nn.Conv3d: torch.channels_last_3d}
# Layers of one class with other numbers (drop paths, widths) are graphs of their own.
_GRAPHS = 64


@dataclass(frozen=True)
class Compiled:
    """What `speed.compile` takes: regions, names of parts (default: all that can be), and torch.compile's own settings."""

    regions: list[str] | None = None
    backend: str = 'inductor'
    mode: str | None = None
    dynamic: bool | None = None


@dataclass(frozen=True)
class Speed:
    """The config's `speed`.

    channels_last: weights of convolutions over pictures and videos with the channels innermost in memory. checkpointing:
    backbones and denoisers keep no activations and compute them again in the backward pass. compile: parts of the model
    through torch.compile while training, each as one graph; True, or settings (Compiled).
    """

    channels_last: bool = False
    checkpointing: bool = False
    compile: Compiled | None = None


def speed_of(settings: Mapping[str, Any] | None) -> Speed:
    """Read a config's `speed`. Raises UserError for a name that nothing reads and a switch that is none."""
    given = dict(settings or {})
    _check_names('speed', given, Speed)
    for name in ('channels_last', 'checkpointing'):
        if not isinstance(given.get(name, False), bool):
            raise UserError(f'speed.{name} is True or False, not {given[name]!r}.')
    compile_ = given.pop('compile', None)
    if isinstance(compile_, Mapping):
        _check_names('speed.compile', compile_, Compiled)
        return Speed(**given, compile=Compiled(**compile_))
    if compile_ not in (None, True, False):
        raise UserError(f'speed.compile is True, False or a dictionary of settings, not {compile_!r}.')
    return Speed(**given, compile=Compiled() if compile_ else None)


def speed_of_run(config: Mapping[str, Any]) -> Speed:
    """The `speed` of a whole config. Raises UserError for MMEngine's own keys, which do the same less well."""
    for name, ours in (('compile', 'speed.compile'), ('activation_checkpointing', 'speed.checkpointing')):
        if config.get(name):
            raise UserError(f"the config's '{name}' is not followed; set {ours} in its place (docs/training_speed.md).")
    return speed_of(config.get('speed'))


def prepare(model: nn.Module, speed: Speed) -> None:
    """What has to be there before anything takes hold of the weights: memory layout and checkpointing."""
    if speed.channels_last:
        channels_last(model)
    if speed.checkpointing:
        checkpoint_activations(model)


def channels_last(model: nn.Module) -> None:
    """Lay out the weights of convolutions with the channels innermost; activations follow. Nothing else changes."""
    for module in model.modules():
        for kind, layout in _LAYOUTS.items():
            if isinstance(module, kind):
                # The types that torch states leave this argument out.
                move: Any = module.to
                move(memory_format=layout)


def checkpoint_activations(model: nn.Module) -> None:
    """Have every backbone and denoiser compute activations again. Raises UserError for one that cannot."""
    for name, part in parts_of(model):
        if isinstance(part, _classes(BACKBONES, DENOISERS)) and not _recomputes(part):
            raise UserError(
                f'speed.checkpointing: {type(part).__name__} ({name}) cannot do without its activations; set '
                'speed.checkpointing=False, and gradient_checkpointing=True in the parts that have it.'
            )


def parts_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, part) of the registered parts: backbones, pyramids, heads, denoisers; none that lies within another."""
    kinds, within = _classes(BACKBONES, PYRAMIDS, HEADS, DENOISERS), ''
    for name, module in model.named_modules():
        if issubclass(type(module), kinds) and not (within and name.startswith(f'{within}.')):
            within = name
            yield name, module


def compile_parts(model: nn.Module, settings: Compiled, in_pieces: bool = False) -> list[str]:
    """Let parts of a model go through torch.compile where gradients are on; give the names of what is compiled.

    Each is one graph: what breaks it is a UserError in the first step. Weights keep their names. Evaluation stays as it
    is, and so compiles nothing anew for batches of other sizes. in_pieces: of a backbone the layers by themselves, for
    layers whose activations are computed again. The head is left out where several processes gather in it. Raises
    UserError for a name that is no such part and where there is no compiler.
    """
    found = dict(parts_of(model))
    unknown = next((name for name in settings.regions or () if name not in found), None)
    if unknown is not None:
        raise UserError(
            f"speed.compile.regions: '{unknown}' is no part that can be compiled.{near_names(unknown, found)} There are "
            f'{", ".join(found)}.'
        )
    _check_compiler(model, settings.backend)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
    heads, alone = _classes(HEADS), world()[1] == 1
    chosen = settings.regions or [name for name, part in found.items() if alone or not isinstance(part, heads)]
    for name in chosen:
        for module in _pieces(found[name]) if in_pieces else [found[name]]:
            others = [other for other in chosen if other != name]
            module._compiled_call_impl = _one_graph(module, name, settings, others)
    return chosen


def match_layouts(optimizer: Optimizer) -> None:
    """Lay out an optimiser's moments as its weights are.

    Those of a run that was resumed with another memory layout are not, and kernels that update several tensors at once
    go by position in memory.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def check_fused(optimizer: Optimizer) -> None:
    """Raise UserError where a fused optimiser has no kernel for the device its weights are on."""
    devices = _get_fused_kernels_supported_devices()
    for group in optimizer.param_groups:
        for weight in group['params'] if group.get('fused') else ():
            if weight.device.type not in devices or not weight.is_floating_point():
                raise UserError(
                    f'optim_wrapper.optimizer.fused=True has no kernel for weights of {weight.dtype} on '
                    f'{weight.device.type}, but for floating point on {", ".join(devices)}; leave fused out.'
                )


def _classes(*registries: Any) -> tuple[type, ...]:
    for registry in registries:
        registry.import_from_location()
    return tuple(kind for registry in registries for kind in registry.module_dict.values() if isinstance(kind, type))


def _check_names(place: str, settings: Mapping[str, Any], kind: Any) -> None:
    known = [field.name for field in fields(kind)]
    for name in settings:
        if name not in known:
            raise UserError(f"{place} has no setting '{name}'.{near_names(name, known)} It takes {', '.join(known)}.")


def _check_compiler(model: nn.Module, backend: str) -> None:
    """Ask for the compiler now: torch would ask for it in the first step, in many lines."""
    if backend != 'inductor' or any(weight.is_cuda for weight in model.parameters()):
        return
    # torch loads these when they are first asked for, half a second that only those wait who compile.
    compilers, exceptions = torch._inductor.cpp_builder, torch._inductor.exc
    try:
        compilers.get_cpp_compiler()
    except exceptions.InvalidCxxCompiler as error:
        raise UserError(
            'speed.compile needs a C++ compiler: sudo apt-get install -y g++, or set speed.compile=False.'
        ) from error


def _recomputes(part: nn.Module) -> bool:
    """Turn checkpointing on in a part; whether it has it."""
    for module in part.modules():
        # Encoders of the library transformers have a way of their own.
        if hasattr(module, 'activation_checkpointing_enable'):
            encoder: Any = module
            if encoder.supports_gradient_checkpointing:
                encoder.activation_checkpointing_enable()
            return bool(encoder.supports_gradient_checkpointing)
    holders: list[Any] = [m for m in part.modules() if isinstance(getattr(m, 'gradient_checkpointing', None), bool)]
    for holder in holders:
        holder.gradient_checkpointing = True
    return bool(holders)


def _pieces(part: Any) -> Iterator[nn.Module]:
    """The layers of a backbone that are graphs of their own, or another part as it is."""
    if not hasattr(part, 'by_depth'):
        yield part
        return
    for layer in part.by_depth():
        each = layer if isinstance(layer, nn.Sequential) else [layer]
        # torch compiles no layer of its own by itself.
        yield from (module for module in each if not type(module).__module__.startswith('torch.'))


def _one_graph(module: nn.Module, name: str, settings: Compiled, others: list[str]) -> Any:
    """The module's call, compiled where gradients are on."""
    plain = module._call_impl
    compiled = torch.compile(
        plain, fullgraph=True, backend=settings.backend, mode=settings.mode, dynamic=settings.dynamic
    )

    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **kwargs)
        try:
            return compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            # What the part itself refuses, it refuses in better words.
            plain(*args, **kwargs)
            said = next(line for line in str(error).splitlines() if line.strip())
            raise UserError(
                f'speed.compile: {name} ({type(module).__name__}) is not one graph: {said.strip()}; leave it out with '
                f'speed=dict(compile=dict(regions={others})) in the config, or set speed.compile=False.'
            ) from error

    return call
