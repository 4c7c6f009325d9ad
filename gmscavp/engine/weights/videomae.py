"""VideoMAE as its authors release it, {'model': {'encoder.blocks...'}}, and as it stands on the Hugging Face hub.

Both become the keys of transformers' VideoMAEModel, in which queries, keys and values are three tensors.
"""

import re
from collections.abc import Iterator

from gmscavp.engine.weights.layout import Entry, Layout, Shape, Shapes, affine, same

# Where the transformers wrapper among our backbones keeps the library's model.
_OURS = 'video_backbone.adapter.encoder.'
_PROJECTION = 'embeddings.patch_embeddings.projection'
_LICENCE = 'CC-BY-NC-4.0 (not for commercial use)'


def _sizes(shapes: Shapes) -> tuple[Shape, int, int]:
    """(shape of the tubelet projection, width of the hidden layer, number of layers), in whichever keys they stand."""
    own = {name: shape for name, shape in shapes.items() if not name.startswith('decoder.')}
    projections = [shape for name, shape in own.items() if re.search(r'(patch_embed\.proj|projection)\.weight$', name)]
    projection = next((shape for shape in projections if len(shape) == 5), (768, 3, 2, 16, 16))
    hidden = [shape for name, shape in own.items() if re.search(r'(mlp\.fc1|intermediate\.dense)\.weight$', name)]
    numbers = [re.search(r'(?:^|\.)(?:blocks|encoder\.layer)\.(\d+)\.', name) for name in own]
    layers = [int(found.group(1)) + 1 for found in numbers if found]
    return projection, hidden[0][0] if hidden and hidden[0] else 4 * projection[0], max(layers, default=12)


def _original_layer(released: str, ours: str, width: int, hidden: int) -> Iterator[Entry]:
    """One block of the authors' release: queries, keys and values in one tensor; keys have no bias."""
    attention = f'{ours}.attention.attention'
    fused = tuple(f'{attention}.{name}.weight' for name in ('query', 'key', 'value'))
    yield Entry(f'{released}.attn.qkv.weight', fused, (3 * width, width))
    yield same(f'{released}.attn.q_bias', f'{attention}.query.bias', (width,))
    yield same(f'{released}.attn.v_bias', f'{attention}.value.bias', (width,))
    yield from affine(f'{released}.attn.proj', f'{ours}.attention.output.dense', (width, width))
    yield from affine(f'{released}.norm1', f'{ours}.layernorm_before', (width,))
    yield from affine(f'{released}.norm2', f'{ours}.layernorm_after', (width,))
    yield from affine(f'{released}.mlp.fc1', f'{ours}.intermediate.dense', (hidden, width))
    yield from affine(f'{released}.mlp.fc2', f'{ours}.output.dense', (width, hidden))


def _original(shapes: Shapes) -> list[Entry]:
    projection, hidden, layers = _sizes(shapes)
    width = projection[0]
    # Nets tuned for classification have no decoder, hence no prefix, and norm after the mean instead of before it.
    tuned = any(name.startswith('blocks.') for name in shapes)
    prefix = '' if tuned else 'encoder.'
    table = [*affine(f'{prefix}patch_embed.proj', _OURS + _PROJECTION, projection)]
    for layer in range(layers):
        table += _original_layer(f'{prefix}blocks.{layer}', f'{_OURS}encoder.layer.{layer}', width, hidden)
    return table if tuned else [*table, *affine('encoder.norm', f'{_OURS}layernorm', (width,))]


def _hub_layer(released: str, ours: str, width: int, hidden: int) -> Iterator[Entry]:
    """One layer of the files on the hub: transformers' keys but for two biases, which it renames when it loads."""
    for name in ('query', 'key', 'value'):
        attention = f'attention.attention.{name}.weight'
        yield same(f'{released}.{attention}', f'{ours}.{attention}', (width, width))
    for name, new in (('q_bias', 'query.bias'), ('v_bias', 'value.bias')):
        yield same(f'{released}.attention.attention.{name}', f'{ours}.attention.attention.{new}', (width,))
    for name, shape in (
        ('attention.output.dense', (width, width)),
        ('layernorm_before', (width,)),
        ('layernorm_after', (width,)),
        ('intermediate.dense', (hidden, width)),
        ('output.dense', (width, hidden)),
    ):
        yield from affine(f'{released}.{name}', f'{ours}.{name}', shape)


def _hub(shapes: Shapes) -> list[Entry]:
    projection, hidden, layers = _sizes(shapes)
    width = projection[0]
    table = [*affine(f'videomae.{_PROJECTION}', _OURS + _PROJECTION, projection)]
    for layer in range(layers):
        table += _hub_layer(f'videomae.encoder.layer.{layer}', f'{_OURS}encoder.layer.{layer}', width, hidden)
    tuned = any(name.startswith('fc_norm.') for name in shapes)
    return table if tuned else [*table, *affine('videomae.layernorm', f'{_OURS}layernorm', (width,))]


VIDEOMAE = Layout(
    name='videomae',
    about="VideoMAE in its authors' files, pretrained or tuned: video_backbone=TransformersVideo.",
    licence=_LICENCE,
    table=_original,
    wrapper='model',
    ignored=('decoder.*', 'encoder_to_decoder.*', 'mask_token', 'pos_embed', 'fc_norm.*', 'head.*'),
)
VIDEOMAE_HF = Layout(
    name='videomae_hf',
    about='VideoMAE in the files of the Hugging Face hub: video_backbone=TransformersVideo.',
    licence=_LICENCE,
    table=_hub,
    ignored=('decoder.*', 'encoder_to_decoder.*', 'mask_token', 'fc_norm.*', 'classifier.*'),
)
