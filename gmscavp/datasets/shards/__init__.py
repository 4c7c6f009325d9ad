"""Shards: clips decoded once and packed in tar files as WebDataset has them, read at random or almost in sequence.

writing.py writes them (members.py: what is in them; claim.py, pool.py: its folder and its processes), index.py says where
everything lies, finding.py and reading.py read, dataset.py is the data set and sampling.py the order.
"""

from gmscavp.datasets.shards.dataset import Shards
from gmscavp.datasets.shards.index import build_index, load_index
from gmscavp.datasets.shards.sampling import ShardShuffle
from gmscavp.datasets.shards.writing import write_shards

__all__ = ['ShardShuffle', 'Shards', 'build_index', 'load_index', 'write_shards']
