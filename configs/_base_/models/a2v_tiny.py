"""Video from sound with tiny networks for CPU: latents of frames, half a second of a sixteenth of the picture at a time."""

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
    denoiser=dict(type=LatentTransformer, patch=[4, 2, 2], width=192, depth=4),
    scheduler=dict(type=RectifiedFlow, prediction='x0', mean=1.0, std=1.3, spacing='trailing', shift=5.0),
    codec=dict(type=FrameAutoencoder, channels=8, strides=[4, 2], widths=[64, 96]),
    sampler=dict(type=Euler),
    sampling=dict(steps=25, guidance=3.0),
)
