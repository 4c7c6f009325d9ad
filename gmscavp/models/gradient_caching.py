"""Batches larger than memory: encode a few rows at a time and keep only what the loss compares.

Forward encodes every chunk without keeping activations, so that the head sees the tokens of the whole batch; backward has
the gradient of those tokens and encodes each chunk again, with the random numbers that it had, to hand it on to the
weights. Gradient caching, Gao et al. 2021 (GradCache), by way of torch's checkpointing: there is one graph and one
backward pass, so that autocast, accumulation and DistributedDataParallel need know nothing of it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from gmscavp.errors import UserError
from gmscavp.structures import Pyramid


def check_chunk(chunk: int | None) -> None:
    """Raise UserError unless `chunk` is None or a number of rows."""
    if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
        raise UserError(
            f'chunk must be a number of clips from 1 on, or None to encode the batch at once; it is {chunk!r}.'
        )


def encoded_in_chunks(encode: Callable[[Tensor], Pyramid], rows: Tensor, chunk: int) -> Pyramid:
    """What encode(rows) gives, with the activations of no more than `chunk` rows in memory at any time.

    rows: (B, ...). encode: works on every row by itself. -> [(B, L_s, D)]. Dropout draws for each chunk in turn, other
    numbers than for the whole batch, and in backward the same again.
    """
    parts = []
    for part in rows.split(chunk):
        # Autocast keeps a weight's bfloat16 copy, and all chunks would sum its gradient in bfloat16.
        torch.clear_autocast_cache()
        parts.append(checkpoint(encode, part, use_reentrant=False, preserve_rng_state=True))
    return [torch.cat(scale) for scale in zip(*parts, strict=True)]


def demand_independent_rows(*modules: nn.Module) -> None:
    """Raise UserError where BatchNorm would make a row's tokens depend on the chunk it is in."""
    for module in modules:
        for name, layer in module.named_modules():
            if isinstance(layer, _BatchNorm) and layer.training:
                raise UserError(
                    f'chunk: {type(module).__name__}.{name} is BatchNorm in training, whose statistics would be those of '
                    'a chunk and not of the batch; freeze it (frozen_norm=True in the backbone, or video_frozen and '
                    'audio_frozen), use a backbone with GroupNorm or LayerNorm, or set chunk to None.'
                )
