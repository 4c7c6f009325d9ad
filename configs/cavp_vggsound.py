"""CAVP on VGGSound with the 8-GPU recipe: bash tools/dist_train.sh configs/cavp_vggsound.py 8 --amp

From the paper and its released code (Luo et al. 2023, Diff-Foley): SlowOnly-R50 and Cnn14, each to width 512, maximum over
time; of every video three windows of 4 s at 4 frames/s whose starts lie 2 s apart or more, other windows of a video being
negatives; the windows of a video told from each other as well; 224 x 224, 128 mel bins at hop 250; 8 x 30 videos x 3
windows = 720 clips a step, AdamW at 8e-4, betas (.9, .999), weight decay .2, warm-up over 200 steps, cosine decay.
Our choice: the weight of the contrast between windows, 100 epochs, the moving average, crops and flips, bfloat16 where the
released code uses float16. Evaluation takes one window a clip, from the middle.
"""

from mmengine.config import read_base

from gmscavp.datasets import SegmentWindows
from gmscavp.models import Cnn14, MultiScaleInfoNCE, SingleScale

with read_base():
    from .gmscavp_vggsound import *

batch_size = 30
train_dataloader.update(batch_size=batch_size)
train_dataloader['dataset']['window'] = dict(type=SegmentWindows, segments=3, fps=4)

model['audio_backbone'] = dict(type=Cnn14)
model['video_pyramid'] = dict(type=SingleScale, dim=512)
model['audio_pyramid'] = dict(type=SingleScale, dim=512)
model['head'] = dict(type=MultiScaleInfoNCE, temporal_weight=0.0, segment_weight=1.0, same_video='negative')
model['diffusion'] = None
