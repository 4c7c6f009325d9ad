"""Video from sound with tiny networks for CPU: latents of frames, half a second of an eighth of the picture at a time."""

from gmscavp.models import (
    ClipPreprocessor,
    ConvPyramid,
    CrossModalGenerator,
    Euler,
    FrameAutoencoder,
    LatentTransformer,
    RectifiedFlow,
    TinyAudioNet,
)

# Frames of the log-mel in a clip.
window = 256
dim = 128

model = dict(
    type=CrossModalGenerator,
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=250, bands=64),
    direction='a2v',
    size=[32, 64, 64],
    window=window,
    backbone=dict(type=TinyAudioNet, width=16, strides=[(2, 2), (1, 2)]),
    pyramid=dict(
        type=ConvPyramid, dim=dim, lengths=[64, 32, 16, 8, 4, 2, 1], places='bands', grids=[1, 2, 4, 8], detail=False
    ),
    # Whole columns: what falls and bounces stays in its own.
    denoiser=dict(type=LatentTransformer, patch=[4, 8, 1], width=192, depth=4),
    # Near pure noise, as in v2a_tiny.
    scheduler=dict(type=RectifiedFlow, prediction='x0', mean=1.2, std=1.3, spacing='trailing', shift=10.0),
    codec=dict(type=FrameAutoencoder, channels=8, strides=[4, 2], widths=[64, 96]),
    # Reading and coding a clip take as long as the denoiser.
    draws=2,
    sampler=dict(type=Euler),
    sampling=dict(steps=25, guidance=3.0),
)
