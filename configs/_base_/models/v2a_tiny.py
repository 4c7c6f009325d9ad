"""Sound from video with tiny networks for CPU: the log-mel itself is generated, 64 ms of all bands at a time."""

from gmscavp.models import (
    ClipPreprocessor,
    ConvPyramid,
    CrossModalGenerator,
    Euler,
    GriffinLim,
    LatentTransformer,
    MelCodec,
    RectifiedFlow,
    TinyVideoNet,
)

# Frames of the video in a clip. The finest tokens are one a frame: a sound must begin within 50 ms.
window = 64
dim = 128

model = dict(
    type=CrossModalGenerator,
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=250, bands=64, keep_audio=True),
    direction='v2a',
    size=[256, 64],
    window=window,
    backbone=dict(type=TinyVideoNet, width=16),
    pyramid=dict(
        type=ConvPyramid, dim=dim, lengths=[64, 32, 16, 8, 4, 2, 1], places='image', grids=[1, 2, 4], detail=False
    ),
    denoiser=dict(type=LatentTransformer, patch=[4, 64], width=192, depth=4),
    # Times near pure noise in training and sampling: there the condition has to be used, and nothing else can be.
    scheduler=dict(type=RectifiedFlow, prediction='x0', mean=1.5, std=1.3, spacing='trailing', shift=15.0),
    codec=dict(type=MelCodec, mean=0.36, std=0.12),
    sampler=dict(type=Euler),
    vocoder=dict(type=GriffinLim),
    sampling=dict(steps=25, guidance=3.0),
)
