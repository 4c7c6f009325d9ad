"""Sound from video at the ancestor's sizes: 8.192 s, 32 frames, latents of 4 x 64 x 16 (channels, time, band).

Sizes of the ancestor are those of Diff-Foley (Luo et al. 2023). Our choice, and today's default: rectified flow and a
transformer (Esser et al. 2024; Peebles & Xie 2023) under the tokens of all scales of a GMS-CAVP model.
"""

from gmscavp.models import (
    ClipPreprocessor,
    ConvPyramid,
    CrossModalGenerator,
    Euler,
    IstftVocoder,
    LatentTransformer,
    MelAutoencoder,
    RectifiedFlow,
    SlowOnlyR50,
)

# Twice as long as in pretraining, 4 s: the windows of every scale last as long as there.
lengths = [32, 16, 8, 4, 2]

model = dict(
    type=CrossModalGenerator,
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=256, bands=128, keep_audio=True),
    direction='v2a',
    size=[512, 128],
    window=32,
    backbone=dict(type=SlowOnlyR50),
    pyramid=dict(type=ConvPyramid, dim=512, lengths=lengths, places='image', grids=[1, 2, 4]),
    frozen=True,
    denoiser=dict(type=LatentTransformer, patch=[2, 2], width=768, depth=12, heads=12),
    scheduler=dict(type=RectifiedFlow),
    codec=dict(type=MelAutoencoder, channels=4, strides=[(2, 2), (2, 2), (2, 2)], widths=[64, 128, 256], blocks=2),
    sampler=dict(type=Euler),
    vocoder=dict(type=IstftVocoder),
    null_prob=0.2,
    sampling=dict(steps=25, guidance=4.5),
)
