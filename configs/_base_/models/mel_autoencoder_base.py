"""A codec of the log-mel at the ancestor's sizes: 512 x 128 (8.192 s) to 64 x 16 places of 4 values.

The sizes are those of Diff-Foley (Luo et al. 2023), which takes Stable Diffusion's picture autoencoder as it is: the same
latents from the same folder come of DiffusersCodec(folder, side='audio', bands_first=True). A codec trained on log-mels,
its widths and its objective are our choice.
"""

from gmscavp.models import Autoencoder, ClipPreprocessor, MelAutoencoder

model = dict(
    type=Autoencoder,
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=256, bands=128),
    codec=dict(type=MelAutoencoder, channels=4, strides=[(2, 2), (2, 2), (2, 2)], widths=[64, 128, 256], blocks=2),
)
