"""Which objects sound in a clip of Impacts: the judge of generated sound. Minutes on one CPU core.

python tools/train.py configs/audio_classifier_impacts.py
"""

from mmengine.config import read_base

from gmscavp.datasets import Gain, LabelledClips
from gmscavp.evaluation.classification_metric import ClassificationMetric
from gmscavp.models import ClipClassifier, ClipPreprocessor, TinyAudioNet

with read_base():
    from ._base_.datasets.impacts import *
    from ._base_.default_runtime import *
    from ._base_.schedules.adamw import *

classes = [
    f'{colour} {shape}'
    for colour in ('red', 'yellow', 'green', 'cyan', 'blue', 'magenta')
    for shape in ('disc', 'square', 'triangle', 'diamond', 'ring')
]

model = dict(
    type=ClipClassifier,
    data_preprocessor=dict(type=ClipPreprocessor, sample_rate=16000, hop=250, bands=64),
    audio_backbone=dict(type=TinyAudioNet, width=16, strides=[(2, 2), (1, 2)]),
    classes=classes,
    bands=8,
    dropout=0.2,
)

# The sound is all that counts: one small picture a clip is read.
dataset['clip'] = dict(duration_s=4.0, fps=0.25, size=8, sample_rate=16000, backend='pyav')
labelled = dict(type=LabelledClips, classes=classes, separator='+')
train_dataloader.update(batch_size=24)
train_dataloader['dataset'] = dict(
    **labelled, dataset=dict(**dataset, split='train', transforms=[dict(type=Gain, low_db=-3, high_db=3)])
)
val_dataloader['dataset'] = dict(
    **labelled, dataset=dict(**dataset, split='test', gallery='mixed', clips=256, replace_bad=False)
)
test_dataloader = val_dataloader
val_evaluator = dict(type=ClassificationMetric)
test_evaluator = val_evaluator
default_hooks['checkpoint'].update(save_best='classes/mAP')
