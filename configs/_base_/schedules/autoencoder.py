"""What the training of codecs shares: AdamW almost without decay, and the best checkpoint by its reconstruction."""

from mmengine.config import read_base

from gmscavp.evaluation.reconstruction import ReconstructionMetric

with read_base():
    from .adamw import *

optim_wrapper['optimizer'].update(lr=2e-3, weight_decay=1e-4)
optim_wrapper['clip_grad'].update(max_norm=1.0)

# A config sets both: what its data set compares is retrieval.
reconstruction = dict(type=ReconstructionMetric)
best_reconstruction = dict(save_best='reconstruction/psnr', rule='greater')
