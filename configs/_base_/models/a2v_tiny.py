"""Video from sound with tiny networks for CPU: latents of whole frames, one token each."""

from gmscavp.models import (
    ClipPreprocessor,
    ConvPyramid,
    CrossModalGenerator,
    EulerAncestral,
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
    # Whole frames: where a thing is gets settled within a token.
    denoiser=dict(type=LatentTransformer, patch=[1, 8, 8], width=384, depth=4),
    # Near pure noise, as in v2a_tiny.
    scheduler=dict(type=RectifiedFlow, prediction='x0', mean=1.2, std=1.3, spacing='trailing', shift=10.0),
    codec=dict(type=FrameAutoencoder, channels=8, strides=[4, 2], widths=[64, 96]),
    # Reading and coding a clip take as long as the denoiser takes for four of its draws.
    draws=4,
    # Fresh noise on the way repairs what the steps before got wrong.
    sampler=dict(type=EulerAncestral),
    sampling=dict(steps=40, guidance=3.0),
)
