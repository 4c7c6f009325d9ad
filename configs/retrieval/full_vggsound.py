"""VGGSound, all clips of the test split that are there (about 15,000 of 15,446; a part is gone from the web).

python tools/test.py CONFIG CHECKPOINT --protocol configs/retrieval/full_vggsound.py
with --cfg-options data_root=PATH

What a model of 4 s sees: the whole clip of 10 s, pictures and sound, in three windows of its own length that cover it (0-4,
3-7, 6-10 s); the score of a pair is the mean over the windows (our choice), so that every backbone gets the shapes it was
trained on. The gallery is what was found, whatever its share: compare two runs where the hash of the gallery is the same.
"""

from gmscavp.datasets import EvenWindows, GallerySubset, VGGSound

data_root = 'data/vggsound/video'
annotations = 'data/vggsound/vggsound.csv'

test_dataloader = dict(
    batch_size=16,
    dataset=dict(
        type=GallerySubset,
        protocol='VGGSound test, all found',
        gallery=dict(rule='all'),
        min_found=0.0,
        dataset=dict(
            type=VGGSound,
            data_root=data_root,
            annotations=annotations,
            split='test',
            window=dict(type=EvenWindows, segments=3),
        ),
    ),
)
