"""GMS-CAVP on Impacts, the quickstart's run: minutes on two CPU cores."""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.impacts import *
    from ._base_.default_runtime import *
    from ._base_.models.gmscavp_tiny import *
    from ._base_.schedules.adamw import *
