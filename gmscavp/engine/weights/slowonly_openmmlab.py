"""SlowOnly-R50 as OpenMMLab releases it: {'state_dict': {'backbone...', 'cls_head...'}}."""

from collections.abc import Iterator

from gmscavp.engine.weights.layout import Entry, Layout, Shapes, batch_norm, same

# (blocks, width, frames that the first convolution of a block spans)
_STAGES = ((3, 64, 1), (4, 128, 1), (6, 256, 3), (3, 512, 3))


def _conv_norm(released: str, ours: str, shape: tuple[int, ...]) -> Iterator[Entry]:
    yield same(f'{released}.conv.weight', f'{ours}.conv.weight', shape)
    yield from batch_norm(f'{released}.bn', f'{ours}.norm', shape[0])


def slow_only_entries(released: str, ours: str) -> Iterator[Entry]:
    """The keys of a SlowOnly-R50 under the two prefixes; CAVP's video encoder has the same."""
    yield from _conv_norm(f'{released}.conv1', f'{ours}.stem', (64, 3, 1, 7, 7))
    channels = 64
    for stage, (blocks, width, span) in enumerate(_STAGES):
        for block in range(blocks):
            theirs, here = f'{released}.layer{stage + 1}.{block}', f'{ours}.stages.{stage}.{block}'
            yield from _conv_norm(f'{theirs}.conv1', f'{here}.conv1', (width, channels, span, 1, 1))
            yield from _conv_norm(f'{theirs}.conv2', f'{here}.conv2', (width, width, 1, 3, 3))
            yield from _conv_norm(f'{theirs}.conv3', f'{here}.conv3', (4 * width, width, 1, 1, 1))
            if block == 0:
                yield from _conv_norm(f'{theirs}.downsample', f'{here}.shortcut', (4 * width, channels, 1, 1, 1))
            channels = 4 * width


def _table(shapes: Shapes) -> list[Entry]:
    return list(slow_only_entries('backbone', 'video_backbone'))


SLOWONLY_OPENMMLAB = Layout(
    name='slowonly_openmmlab',
    about='SlowOnly-R50 trained on Kinetics: video_backbone=SlowOnlyR50 with mean=(.485, .456, .406), '
    'std=(.229, .224, .225).',
    licence='Apache-2.0 (MMAction2; the terms of Kinetics are their own: check the source)',
    table=_table,
    wrapper='state_dict',
    ignored=('cls_head.*',),
)
