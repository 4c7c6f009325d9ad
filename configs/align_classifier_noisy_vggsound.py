"""The alignment classifier on VGGSound, for guidance of v2a_vggsound: it judges the noisy latents of that generator.

bash tools/dist_train.sh configs/align_classifier_noisy_vggsound.py 8 --amp --cfg-options \
    init.video_backbone=PRETRAINED.pth init.video_pyramid=PRETRAINED.pth init.codec=CODEC.pth

PRETRAINED is a run of gmscavp_vggsound.py, CODEC the generator's, a run of mel_autoencoder_vggsound.py. Codec and
scheduler are those of _base_/models/v2a_base.py.
"""

from mmengine.config import read_base

from gmscavp.models import ConvPyramid, MelAutoencoder, RectifiedFlow

with read_base():
    from .align_classifier_vggsound import *

model['audio_backbone'] = None
model['scheduler'] = dict(type=RectifiedFlow)
model['codec'] = dict(
    type=MelAutoencoder, channels=4, strides=[(2, 2), (2, 2), (2, 2)], widths=[64, 128, 256], blocks=2
)
# A window has 32 x 16 places of latents; its 16 steps come out 256 wide over 2 bands.
model['latents'] = dict(width=64, strides=[(1, 1), (2, 2), (1, 4)])
model['audio_pyramid'] = dict(type=ConvPyramid, dim=512, lengths=[16, 8, 4, 2, 1], places='bands', grids=[1, 2])
