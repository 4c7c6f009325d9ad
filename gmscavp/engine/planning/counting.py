"""The work and memory of one training step, counted on shapes alone.

The model is built with parameters that have a shape and no memory (torch's FakeTensorMode), and takes a real step:
preprocessing, forward, losses, backward. Every operation is seen on its way to the kernel, so that autocast,
checkpointing, chunks and tiles count as what they do. Nothing is allocated but buffers, whatever the batch.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from gmscavp.engine.planning.clips import ClipShape, blank_batch, clip_shape
from gmscavp.errors import UserError
from gmscavp.registry import MODELS

aten = torch.ops.aten


class Op(NamedTuple):
    """One operation: FLOPs (2 x multiply-adds of products), bytes read and written, and which arithmetic units it takes.

    kind: 'half' (bfloat16 or float16), 'convolution' (float32, for which GPUs use TF32) or 'single'.
    """

    flops: int
    bytes: int
    kind: str


Work = Counter[Op]


@dataclass(frozen=True)
class Pass:
    """A forward and a backward pass. peak: most bytes alive beyond the parameters; peak_apart: without their gradients."""

    forward: Work
    backward: Work
    peak: int
    peak_apart: int

    @property
    def flops(self) -> tuple[int, int]:
        """Of the forward and of the backward pass."""
        forward, backward = (sum(op.flops * n for op, n in work.items()) for work in (self.forward, self.backward))
        return forward, backward

    @property
    def bytes(self) -> int:
        """Read and written in both passes."""
        return sum(op.bytes * n for op, n in (self.forward + self.backward).items())


@dataclass(frozen=True)
class Loss:
    """The contrastive head alone, at the batch of a rank and at twice that; from both follows any joint batch.

    width: values of one row that travel between ranks in a step. tiled: the tokens of the joint batch are gathered once
    more for the backward pass. ring: they travel from rank to rank instead.
    """

    at_batch: Pass
    at_double: Pass
    width: int
    tiled: bool
    ring: bool


@dataclass(frozen=True)
class Counted:
    """A training step of one rank. rows: clips x segments. Numbers of parameters; largest: of the largest layer."""

    clips: int
    rows: int
    shape: ClipShape
    step: Pass
    loss: Loss | None
    parameters: int
    trainable: int
    largest: int
    tensors: int
    batch_norm: bool


def count_step(config: Config, clips: int, half: bool = False) -> Counted:
    """Count a training step of a config's model on `clips` clips. half: under bfloat16 autocast.

    Raises UserError for a config without a model or clips, and for a model that looks at values while it trains.
    """
    if not config.get('model') or 'data_preprocessor' not in config.model:
        raise UserError(
            f'config {config.filename} has no model with a data_preprocessor; give one that trains a model.'
        )
    shape = clip_shape(config)
    # Fixed, so that a model that draws what to do counts the same each time.
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        torch.manual_seed(0)
        model = shapes_only(fake, lambda: MODELS.build(config.model)).train()
        try:
            tokens, step = _count_model(model, blank_batch(shape, clips), half)
            loss = _count_head(model.head, tokens, shape.segments) if tokens else None
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise UserError(
                f'{type(model).__name__} looks at values while it trains ({error}), so that its step cannot be counted on '
                'shapes alone; give a pretraining config.'
            ) from error
        layers = [sum(p.numel() for p in layer.parameters(recurse=False)) for layer in model.modules()]
        parameters = list(model.parameters())
        return Counted(
            clips=clips,
            rows=clips * shape.segments,
            shape=shape,
            step=step,
            loss=loss,
            parameters=sum(p.numel() for p in parameters),
            trainable=sum(p.numel() for p in parameters if p.requires_grad),
            largest=max(layers),
            tensors=sum(p.requires_grad for p in parameters),
            batch_norm=any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules()),
        )


def shapes_only(fake: FakeTensorMode, build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` gives, with parameters of `fake`; buffers are real, as some are computed by looking at values."""

    def without_memory(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None:
            return None
        return nn.Parameter(fake.from_tensor(parameter.detach()), requires_grad=parameter.requires_grad)

    # torch's annotation leaves out that a hook may give another parameter.
    hook = register_module_parameter_registration_hook(without_memory)  # type: ignore[arg-type]
    try:
        with _left(fake):
            return build()
    finally:
        hook.remove()


def count_pass(forward: Callable[[], Tensor], parameters: list[nn.Parameter], half: bool = False) -> Pass:
    """Count `forward`, which gives a scalar, and its backward pass. Tensors may be fake or real."""
    seen = _Counting()
    hooks = [p.register_post_accumulate_grad_hook(seen.note_gradient) for p in parameters if p.requires_grad]
    try:
        with seen:
            with torch.autocast('cpu', torch.bfloat16, enabled=half):
                loss = forward()
            seen.backward = True
            loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    return Pass(seen.work[False], seen.work[True], seen.peak, seen.peak_apart)


def _count_model(model: nn.Module, raw: dict[str, Tensor], half: bool) -> tuple[list[list[torch.Size]], Pass]:
    """The shapes of the tokens that the head compares, [] without a head, and the whole pass."""
    tokens: list[list[torch.Size]] = []

    def note(_module: nn.Module, given: tuple[Any, ...]) -> None:
        tokens[:] = [[x.shape for x in side] for side in given[:2]]

    head = getattr(model, 'head', None)
    hook = head.register_forward_pre_hook(note) if isinstance(head, nn.Module) else None

    def forward() -> Tensor:
        preprocessor: Any = model.data_preprocessor
        return total(model(**preprocessor(raw, True), mode='loss'))

    step = count_pass(forward, list(model.parameters()), half)
    if hook:
        hook.remove()
    return tokens, step


def _count_head(head: Any, tokens: list[list[torch.Size]], segments: int) -> Loss:
    """The head alone, on tokens of the shapes that it had and on twice as many rows."""

    def counted(times: int) -> Pass:
        sides = [[torch.zeros(times * rows, *rest, requires_grad=True) for rows, *rest in side] for side in tokens]
        return count_pass(lambda: total(head(*sides, segments)), list(head.parameters()))

    video, audio = (sum(shape[1:].numel() for shape in side) for side in tokens)
    tiled, ring = bool(getattr(head, 'tile', None)), getattr(head, 'gather', '') == 'ring'
    # Only the dense semantic term compares both sides with those of all ranks.
    one_side = tiled or ring or getattr(head, 'takes_places', False)
    return Loss(counted(1), counted(2), audio if one_side else video + audio, tiled, ring)


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of the terms, as MMEngine adds them."""
    return torch.stack([value.sum() for name, value in losses.items() if 'loss' in name]).sum()


@contextmanager
def _left(fake: FakeTensorMode) -> Iterator[None]:
    """Outside of a mode that is on."""
    fake.__exit__(None, None, None)
    try:
        yield
    finally:
        fake.__enter__()


class _Counting(TorchDispatchMode):
    """Notes every operation, and which bytes are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.work: dict[bool, Work] = {False: Counter(), True: Counter()}
        self.backward = False
        self.alive = self.peak = self.peak_apart = self.gradients = 0

    def note_gradient(self, parameter: Tensor) -> None:
        """A parameter's gradient is there."""
        if parameter.grad is not None:
            self.gradients += parameter.grad.nbytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        out = func(*args, **kwargs)
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        known = {_key(x) for x in given}
        for x in made:
            if _key(x) not in known:
                known.add(_key(x))
                self._born(x)
        # A view moves nothing, and a tensor without values holds nothing yet.
        new = any(_key(x) not in {_key(y) for y in given} for x in made)
        if (new or func._schema.is_mutable) and not func._schema.name.startswith('aten::empty'):
            moved = sum(min(x.nbytes, x.untyped_storage().nbytes()) for x in (*given, *made))
            self.work[self.backward][Op(flops_of(func, args, kwargs, out), moved, _kind(func, given))] += 1
        return out

    def _born(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self.alive += size
        weakref.finalize(storage, self._gone, size)
        self.peak = max(self.peak, self.alive)
        self.peak_apart = max(self.peak_apart, self.alive - self.gradients)

    def _gone(self, size: int) -> None:
        self.alive -= size


def flops_of(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """2 x multiply-adds of matrix products, convolutions and attention; 0 for anything else."""
    if func._overloadpacket is aten._scaled_dot_product_flash_attention_for_cpu:
        return sdpa_flop_count(*(x.shape for x in args[:3]))
    if func._overloadpacket is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return sdpa_backward_flop_count(*(x.shape for x in args[:4]))
    # Adding a product in place is the same work as adding it.
    plain = getattr(aten, func._overloadpacket.__name__.removesuffix('_'), func._overloadpacket)
    formula = flop_registry.get(plain)
    return formula(*args, **kwargs, out_val=out) if formula else 0


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _kind(func: Any, given: list[Tensor]) -> str:
    if any(x.dtype in (torch.bfloat16, torch.float16) for x in given):
        return 'half'
    return 'convolution' if 'convolution' in func._schema.name else 'single'
