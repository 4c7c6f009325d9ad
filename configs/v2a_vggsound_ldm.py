"""Sound from video on VGGSound as the published ancestor does it, for comparison with v2a_vggsound.py.

From Diff-Foley (Luo et al. 2023): 32 tokens of CAVP, one a frame, through 512 -> 768 with a learned position each; a U-Net
over latents of 4 x 64 x 16 that predicts the noise; betas 0.00085 to 0.012, scaled linear; the condition dropped for 0.2
of the clips; DPM-Solver++ with 25 steps, guidance 4.5. Alignment guidance needs a classifier (docs/alignment.md).
PRETRAINED is a run of cavp_vggsound.py; the rest as in v2a_vggsound.py.
"""

from mmengine.config import read_base

from gmscavp.models import DPMSolver2M, ScaledLinearDDPM, SingleScale, UNetDenoiser

with read_base():
    from .v2a_vggsound import *

model['pyramid'] = dict(type=SingleScale, dim=512, steps=32)
model['denoiser'] = dict(
    type=UNetDenoiser, width=320, multipliers=[1, 2, 4, 4], blocks=2, attention_levels=[0, 1, 2], heads=8, context=768
)
model['scheduler'] = dict(type=ScaledLinearDDPM, prediction='epsilon')
model['sampler'] = dict(type=DPMSolver2M)
