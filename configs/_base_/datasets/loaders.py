"""What the loaders of all data sets share; a data set adds its `dataset` and its batch size."""

from mmengine.dataset import DefaultSampler

from gmscavp.datasets import StreamShuffle
from gmscavp.evaluation.metrics import RetrievalMetric

num_workers = 2

train_dataloader = dict(
    num_workers=num_workers,
    persistent_workers=True,
    # Every rank must bring the same number of clips to the gather.
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type=StreamShuffle),
)
val_dataloader = dict(
    num_workers=num_workers,
    drop_last=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
val_evaluator = dict(type=RetrievalMetric)
test_evaluator = val_evaluator
