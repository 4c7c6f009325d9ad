"""CAVP as released with Diff-Foley: {'state_dict': {'module.video_encoder...', 'module.spec_encoder...'}}."""

from gmscavp.engine.weights.layout import Entry, Layout, Shapes, affine
from gmscavp.engine.weights.panns_cnn14 import cnn14_entries
from gmscavp.engine.weights.slowonly_openmmlab import slow_only_entries

_BANDS, _WIDTH, _DIM = 128, 2048, 512


def _table(shapes: Shapes) -> list[Entry]:
    return [
        # The released number is the logarithm already, as is ours.
        Entry('logit_scale', ('head.log_scale',), (), our_shape=(1,)),
        *slow_only_entries('video_encoder', 'video_backbone'),
        *affine('video_project_head', 'video_pyramid.project', (_DIM, _WIDTH)),
        *cnn14_entries('spec_encoder.', 'audio_backbone.', 'bn', _BANDS),
        *affine('spec_encoder.final_project', 'audio_pyramid.project', (_DIM, _WIDTH)),
    ]


CAVP = Layout(
    name='cavp',
    about='the whole of CAVP: video_backbone=SlowOnlyR50, audio_backbone=Cnn14, both pyramids SingleScale of dim=512, '
    'head=MultiScaleInfoNCE.',
    licence='MIT (stated at the weights of Diff-Foley; trained on VGGSound and AudioSet: check the source)',
    table=_table,
    wrapper='state_dict',
    prefix='module.',
)
