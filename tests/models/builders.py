"""A model small enough for tests, as a config."""

from typing import Any

import torch

LENGTHS = [4, 2, 1]


def tiny_model(**changes: Any) -> dict[str, Any]:
    """The config of a GMSCAVP of a few thousand parameters; keyword arguments replace its entries."""
    model = dict(
        type='GMSCAVP',
        data_preprocessor=dict(type='ClipPreprocessor', bands=32),
        video_backbone=dict(type='TinyVideoNet', width=4),
        audio_backbone=dict(type='TinyAudioNet', width=4, strides=[(2, 2), (2, 2)]),
        video_pyramid=dict(type='ConvPyramid', dim=16, lengths=LENGTHS, places='image', grids=[1, 2]),
        audio_pyramid=dict(type='ConvPyramid', dim=16, lengths=LENGTHS, places='bands', grids=[1, 2]),
        head=dict(type='MultiScaleInfoNCE'),
        diffusion=dict(
            type='MultiScaleDiffusion',
            scheduler=dict(type='RectifiedFlow'),
            denoiser=dict(type='TokenTransformer', width=16, depth=1, heads=2),
            bands=4,
            grids=2,
        ),
    )
    return model | changes


def tiny_batch(clips: int = 4, seed: int = 0) -> dict[str, Any]:
    """What a data loader gives: clips of half a second."""
    generator = torch.Generator().manual_seed(seed)
    return dict(
        video=torch.randint(256, (clips, 8, 3, 32, 32), dtype=torch.uint8, generator=generator),
        audio=torch.randn(clips, 8000, generator=generator).clamp(-1, 1) * 0.3,
        clip_id=[f'clip{i}' for i in range(clips)],
        start_s=torch.zeros(clips),
        valid=torch.ones(clips, dtype=torch.bool),
        failures=[''] * clips,
    )
