"""A codec of the log-mel for two CPU cores: 256 x 64 of Impacts to 64 x 16 places of 4 values."""

from gmscavp.models import Autoencoder, ClipPreprocessor, MelAutoencoder

model = dict(
    type=Autoencoder,
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=250, bands=64),
    codec=dict(type=MelAutoencoder, channels=4, strides=[(2, 2), (2, 2)], widths=[32, 64]),
)
