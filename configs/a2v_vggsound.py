"""Video from sound on VGGSound, 4 s at 4 frames/s and 256 x 256: a rectified-flow transformer under GMS-CAVP's tokens.

bash tools/dist_train.sh configs/a2v_vggsound.py 8 --amp --cfg-options \\
    init.codec=CODEC.pth init.audio_backbone=PRETRAINED.pth init.audio_pyramid=PRETRAINED.pth

CODEC is a trained FrameAutoencoder (configs/frame_autoencoder_impacts.py shows how). A pretrained one of eightfold
reduction, such as Stable Diffusion's, is codec=dict(type=DiffusersCodec, folder=PATH). PRETRAINED is a run of
gmscavp_vggsound.py. No paper states sizes for this direction: all are our choice.
"""

from mmengine.config import read_base

from gmscavp.datasets import CentreCrop, Flip, ResizedCrop
from gmscavp.models import (
    ClipPreprocessor,
    Cnn14,
    ConvPyramid,
    CrossModalGenerator,
    Euler,
    FrameAutoencoder,
    LatentTransformer,
    RectifiedFlow,
)

with read_base():
    from ._base_.datasets.vggsound import *
    from ._base_.default_runtime import *
    from ._base_.generation import *
    from ._base_.schedules.generation import *

batch_size = 16
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.update(batch_size=batch_size)
    loader['dataset']['clip'].update(size=288)
train_dataloader['dataset'].update(transforms=[dict(type=ResizedCrop, size=256), dict(type=Flip)])
for loader in (val_dataloader, test_dataloader):
    loader['dataset'].update(transforms=[dict(type=CentreCrop, size=256)])

model = dict(
    type=CrossModalGenerator,
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=250, bands=128),
    direction='a2v',
    size=[16, 256, 256],
    window=256,
    backbone=dict(type=Cnn14, summary=False),
    pyramid=dict(type=ConvPyramid, dim=512, lengths=[16, 8, 4, 2, 1], places='bands', grids=[1, 2, 4]),
    frozen=True,
    denoiser=dict(type=LatentTransformer, patch=[1, 2, 2], width=768, depth=12, heads=12),
    scheduler=dict(type=RectifiedFlow, shift=3.0),
    codec=dict(type=FrameAutoencoder, channels=4, strides=[2, 2, 2], widths=[64, 128, 256]),
    sampler=dict(type=Euler),
    null_prob=0.2,
    sampling=dict(steps=25, guidance=4.5),
)
