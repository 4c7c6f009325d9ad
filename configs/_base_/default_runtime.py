"""How a run goes, whatever it trains: logging, checkpoints, moving average, pictures, seeds."""

from mmengine.hooks import DistSamplerSeedHook, IterTimerHook, LoggerHook
from mmengine.model import ExponentialMovingAverage
from mmengine.visualization import LocalVisBackend, Visualizer

from gmscavp.engine.accumulation import UpdateEMAHook, UpdateSchedulerHook
from gmscavp.engine.boards import MediaBoard, PatientVisBackend
from gmscavp.engine.checkpoints import SafeCheckpointHook
from gmscavp.engine.collapse import CollapseHook
from gmscavp.engine.guards import LossSpikeHook, NonFiniteHook
from gmscavp.engine.hooks import BadClipHook, LendModelHook
from gmscavp.engine.picture_hook import PictureHook
from gmscavp.engine.losses_hook import LossesHook

default_scope = 'gmscavp'
randomness = dict(seed=0)
# Parts of the model that start from files of weights, for example dict(video_backbone='slowonly.safetensors').
init = dict()
# What makes a step faster or smaller (docs/training_speed.md); False changes nothing.
speed = dict(channels_last=False, checkpointing=False, compile=False)
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl'))
# True in `enabled` splits the weights over the ranks, for models that do not fit on one (docs/many_machines.md).
model_sharding = dict(enabled=False, group=None, unit_parameters=2**18)
log_processor = dict(window_size=20, by_epoch=True)

default_hooks = dict(
    runtime_info=dict(type=LossesHook),
    timer=dict(type=IterTimerHook),
    sampler_seed=dict(type=DistSamplerSeedHook),
    logger=dict(type=LoggerHook, interval=10),
    param_scheduler=dict(type=UpdateSchedulerHook),
    checkpoint=dict(
        type=SafeCheckpointHook,
        interval=1,
        max_keep_ckpts=3,
        save_best='retrieval/mean_R1',
        rule='greater',
        save_last=True,
    ),
)
custom_hooks = [
    # The average of the last ten or so epochs' weights is what is evaluated and kept.
    dict(type=UpdateEMAHook, ema_type=ExponentialMovingAverage, momentum=0.02),
    dict(type=BadClipHook, max_share=0.2),
    dict(type=PictureHook),
    dict(type=LendModelHook),
    # What goes wrong without ending a run (docs/guards.md).
    dict(type=NonFiniteHook, max_in_a_row=20, on_too_many='stop'),
    dict(type=LossSpikeHook),
    dict(type=CollapseHook),
]

visualizer = dict(
    type=Visualizer,
    vis_backends=[dict(type=PatientVisBackend, backends=[dict(type=LocalVisBackend), dict(type=MediaBoard)])],
)
