"""P1 on AudioSet: one middle frame against the sound of 10 s, 5 clips a class of the evaluation segments.

python tools/test.py CONFIG CHECKPOINT --protocol configs/retrieval/p1_audioset.py
with --cfg-options data_root=PATH

The published list has 1,725 clips (345 x 5; data lists of github.com/YuanGongND/cav-mae) and does not say how they were
chosen. The rule here takes 5 clips of every class that the found clips have, the rarest class first, in the order of a
hash: another gallery, and a larger one, whose hash stands in the report. For figures to be compared with published ones
give a list of the data set's clip_ids (<youtube id>_<start>_<end> in milliseconds):
    --cfg-options test_dataloader.dataset.gallery.rule=list test_dataloader.dataset.gallery.gallery_file=PATH
What the model sees is as in p1_vggsound.py.
"""

from gmscavp.datasets import AudioSet, EvenWindows, GallerySubset

data_root = 'data/audioset/video'
annotations = 'data/audioset/eval_segments.csv'
class_labels = 'data/audioset/class_labels_indices.csv'

test_dataloader = dict(
    batch_size=16,
    dataset=dict(
        type=GallerySubset,
        protocol='P1 AudioSet, 5 a class by hash',
        gallery=dict(rule='five_per_class'),
        still='clip',
        dataset=dict(
            type=AudioSet,
            data_root=data_root,
            annotations=annotations,
            class_labels=class_labels,
            split='eval',
            window=dict(type=EvenWindows, segments=3),
        ),
    ),
)
