"""Cnn14 as PANNs releases it: {'model': {'bn0...', 'conv_block1...', 'fc_audioset...'}}."""

from collections.abc import Iterator

from gmscavp.engine.weights.layout import Entry, Layout, Shapes, affine, batch_norm, same

_WIDTHS = (64, 128, 256, 512, 1024, 2048)


def cnn14_entries(released: str, ours: str, norm: str, bands: int) -> Iterator[Entry]:
    """The keys of a Cnn14 under the two prefixes; CAVP's audio encoder has the same but for the name of `norm`."""
    yield from batch_norm(f'{released}{norm}', f'{ours}norm', bands)
    channels = 1
    for block, width in enumerate(_WIDTHS):
        theirs, here = f'{released}conv_block{block + 1}', f'{ours}blocks.{block}'
        for number, before in ((1, channels), (2, width)):
            yield same(f'{theirs}.conv{number}.weight', f'{here}.conv{number}.weight', (width, before, 3, 3))
            yield from batch_norm(f'{theirs}.bn{number}', f'{here}.norm{number}', width)
        channels = width
    yield from affine(f'{released}fc1', f'{ours}fc', (channels, channels))


def _table(shapes: Shapes) -> list[Entry]:
    # 64 in the file for 16 kHz; a net trained on with another number of bands goes back with its own.
    known = (shapes[name] for name in ('bn0.weight', 'audio_backbone.norm.weight') if len(shapes.get(name, ())) == 1)
    return list(cnn14_entries('', 'audio_backbone.', 'bn0', bands=next(known, (64,))[0]))


PANNS_CNN14 = Layout(
    name='panns_cnn14',
    about='Cnn14 trained on AudioSet: audio_backbone=Cnn14 with bands=64; for another number leave out bn0 '
    "(--leave-out 'bn0.*').",
    licence='CC-BY-4.0 (Zenodo record of PANNs; check the source)',
    table=_table,
    wrapper='model',
    ignored=('fc_audioset.*', 'spectrogram_extractor.*', 'logmel_extractor.*'),
)
