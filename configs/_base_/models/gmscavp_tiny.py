"""GMS-CAVP with tiny convolutional backbones: trains on two CPU cores."""

from gmscavp.models import (
    GMSCAVP,
    ClipPreprocessor,
    ConvPyramid,
    MultiScaleDiffusion,
    MultiScaleInfoNCE,
    RectifiedFlow,
    TinyAudioNet,
    TinyVideoNet,
    TokenTransformer,
)

lengths = [16, 8, 4, 2, 1]
dim = 64

model = dict(
    type=GMSCAVP,
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=250, bands=64),
    video_backbone=dict(type=TinyVideoNet, width=16),
    audio_backbone=dict(type=TinyAudioNet, width=16, strides=[(2, 2), (1, 2)]),
    video_pyramid=dict(type=ConvPyramid, dim=dim, lengths=lengths, places='image', grids=[1, 2, 4]),
    audio_pyramid=dict(type=ConvPyramid, dim=dim, lengths=lengths, places='bands', grids=[1, 2, 4]),
    head=dict(type=MultiScaleInfoNCE, temporal_weight=0.1),
    diffusion=dict(
        type=MultiScaleDiffusion,
        scheduler=dict(type=RectifiedFlow),
        denoiser=dict(type=TokenTransformer, width=64, depth=2),
        target='latent',
        loss_weight=0.5,
    ),
)
