"""GMS-CAVP at the papers' size: SlowOnly-R50, Cnn14, five scales of width 512, diffusion of the signals themselves."""

from gmscavp.models import (
    GMSCAVP,
    ClipPreprocessor,
    Cnn14,
    ConvPyramid,
    MultiScaleDiffusion,
    MultiScaleInfoNCE,
    RectifiedFlow,
    SlowOnlyR50,
    TokenTransformer,
)

lengths = [16, 8, 4, 2, 1]
dim = 512

model = dict(
    type=GMSCAVP,
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=250, bands=128),
    video_backbone=dict(type=SlowOnlyR50),
    # Without CAVP's summary the bands are left for the pyramid to pool in grids.
    audio_backbone=dict(type=Cnn14, summary=False),
    video_pyramid=dict(type=ConvPyramid, dim=dim, lengths=lengths, places='image', grids=[1, 2, 4]),
    audio_pyramid=dict(type=ConvPyramid, dim=dim, lengths=lengths, places='bands', grids=[1, 2, 4]),
    head=dict(type=MultiScaleInfoNCE, temporal_weight=0.1),
    diffusion=dict(
        type=MultiScaleDiffusion,
        scheduler=dict(type=RectifiedFlow),
        denoiser=dict(type=TokenTransformer, width=512, depth=4, heads=8),
        target='latent',
        loss_weight=0.5,
    ),
)
