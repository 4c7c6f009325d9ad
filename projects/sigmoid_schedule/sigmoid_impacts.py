"""Sound from video under a pretrained encoder, with the noise scheduler of this folder."""

from mmengine.config import read_base

from projects.sigmoid_schedule.sigmoid_schedule import SigmoidSchedule

with read_base():
    from ...configs.v2a_frozen_impacts import *

# The clean signal is predicted and most times lie near pure noise, as in the base: there the condition has to be used.
model['scheduler'] = dict(type=SigmoidSchedule, prediction='x0', start=0.0, end=3.0, tau=0.5, spacing='karras')
