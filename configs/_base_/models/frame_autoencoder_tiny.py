"""A codec of frames for two CPU cores: 64 x 64 pixels of Impacts to 8 x 8 places of 8 values."""

from gmscavp.models import Autoencoder, ClipPreprocessor, FrameAutoencoder

model = dict(
    type=Autoencoder,
    # The mel is not used.
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=250, bands=64),
    codec=dict(type=FrameAutoencoder, channels=8, strides=[4, 2], widths=[64, 96]),
)
