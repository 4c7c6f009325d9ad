"""AudioSet in the paper's setting: 4 s at 4 frames/s, 224 x 224, 16 kHz; 8 GPUs x 90 = 720 clips a step.

Expects `<youtube id>.mp4`, `<youtube id>_<start>.mp4` or `<youtube id>_<start>_<end>.mp4` anywhere below data_root, and the
segments csv files and class_labels_indices.csv as they are distributed. After tools/prepare_data.py audioset, train from
its manifest instead: _base_/datasets/folder.py with data_root and manifest.
"""

from mmengine.config import read_base

from gmscavp.datasets import AudioSet, CentreCrop, CentreWindow, Flip, RandomWindow, ResizedCrop

with read_base():
    from .loaders import *

data_root = 'data/audioset/video'
# For all of AudioSet: unbalanced_train_segments.csv.
train_annotations = 'data/audioset/balanced_train_segments.csv'
test_annotations = 'data/audioset/eval_segments.csv'
class_labels = 'data/audioset/class_labels_indices.csv'
# Whether a file that is named by the YouTube id alone is the whole video, not the segment.
whole_videos = False
batch_size = 90
num_workers = 12

clip = dict(duration_s=4.0, fps=4, size=256, sample_rate=16000, backend='pyav')
dataset = dict(type=AudioSet, data_root=data_root, class_labels=class_labels, whole_videos=whole_videos, clip=clip)

train_dataloader.update(
    batch_size=batch_size,
    num_workers=num_workers,
    pin_memory=True,
    dataset=dict(
        **dataset,
        annotations=train_annotations,
        split='train',
        window=dict(type=RandomWindow),
        transforms=[dict(type=ResizedCrop, size=224), dict(type=Flip)],
    ),
)
val_dataloader.update(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(
        **dataset,
        annotations=test_annotations,
        split='test',
        window=dict(type=CentreWindow),
        transforms=[dict(type=CentreCrop, size=224)],
        replace_bad=False,
    ),
)
test_dataloader = val_dataloader
