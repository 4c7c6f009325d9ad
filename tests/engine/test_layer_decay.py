"""Learning rates that fall with depth: exact for every part, beside MMEngine's own rules."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from gmscavp.engine.config import load_config
from gmscavp.engine.optim import LayerDecayConstructor, depth_factors
from gmscavp.errors import UserError
from gmscavp.registry import MODELS
from tests.models.builders import tiny_model
from tests.test_configs import IMPACTS

LR, WEIGHT_DECAY = 0.1, 0.2


def optimizer_of(model, **paramwise_cfg):
    cfg = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=LR, weight_decay=WEIGHT_DECAY),
        constructor='LayerDecayConstructor',
        paramwise_cfg=paramwise_cfg,
    )
    with DefaultScope.overwrite_default_scope('gmscavp'):
        return build_optim_wrapper(model, cfg).optimizer


def settings_of(model, optimizer):
    """Parameter name -> (learning rate, weight decay)."""
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: (group['lr'], group['weight_decay']) for group in optimizer.param_groups for p in group['params']}


@pytest.fixture
def model():
    return MODELS.build(tiny_model())


def test_rate_of_part_d_of_n_is_decay_to_the_power_n_less_d(model):
    rates = settings_of(model, optimizer_of(model, layer_decay=0.5))
    wanted = {name: LR for name, _ in model.named_parameters()}
    for side in ('video_backbone', 'audio_backbone'):
        parts = getattr(model, side).by_depth()
        assert len(parts) == 3
        for d, part in enumerate(parts):
            held = {id(p) for p in part.parameters()}
            wanted |= {name: LR * 0.5 ** (3 - d) for name, p in model.named_parameters() if id(p) in held}
    assert {name: lr for name, (lr, _) in rates.items()} == pytest.approx(wanted)
    assert rates['video_backbone.stem.weight'][0] == pytest.approx(LR / 8)
    assert rates['video_backbone.stages.1.down.weight'][0] == pytest.approx(LR / 2)
    assert rates['head.log_scale'][0] == LR


def test_mmengines_own_rules_count_as_well(model):
    rates = settings_of(
        model,
        optimizer_of(
            model,
            layer_decay=0.5,
            norm_decay_mult=0.0,
            bias_decay_mult=0.5,
            custom_keys={'video_backbone.stem': dict(lr_mult=3.0), 'head.log_scale': dict(decay_mult=0.0)},
        ),
    )
    assert rates['video_backbone.stem.weight'] == pytest.approx((3 * LR / 8, WEIGHT_DECAY))
    assert rates['head.log_scale'] == (LR, 0)
    assert rates['audio_backbone.stem.bias'] == pytest.approx((LR / 8, WEIGHT_DECAY / 2))
    norm = next(name for name, m in model.video_backbone.named_modules() if isinstance(m, nn.GroupNorm))
    assert rates[f'video_backbone.{norm}.weight'][1] == 0


def test_every_parameter_is_there_once_and_equal_settings_share_a_group(model):
    groups = optimizer_of(model, layer_decay=0.5, bias_decay_mult=0.0).param_groups
    held = [id(p) for group in groups for p in group['params']]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    # Depths 0 to 2 and everything after them, each with biases apart.
    assert len(groups) == 8


def test_a_decay_of_one_changes_nothing(model):
    assert {lr for lr, _ in settings_of(model, optimizer_of(model, layer_decay=1)).values()} == {LR}


def test_frozen_parameters_are_left_out_and_do_not_shift_the_others():
    model = MODELS.build(tiny_model(video_frozen=1, audio_frozen=True))
    rates = settings_of(model, optimizer_of(model, layer_decay=0.5))
    assert not any(name.startswith(('video_backbone.stem', 'audio_backbone')) for name in rates)
    assert rates['video_backbone.stages.0.down.weight'][0] == pytest.approx(LR / 4)
    assert rates.keys() == {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_first_step_is_as_long_as_the_rate(model):
    """Adam's first step is the learning rate in every weight: what was set is what is done."""
    optimizer = optimizer_of(model, layer_decay=0.5)
    for group in optimizer.param_groups:
        group['weight_decay'] = 0.0
    weights = {name: model.get_parameter(f'video_backbone.{name}') for name in ('stem.weight', 'stages.1.down.weight')}
    before = {name: p.detach().clone() for name, p in weights.items()}
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    for name, rate in (('stem.weight', LR / 8), ('stages.1.down.weight', LR / 2)):
        torch.testing.assert_close(weights[name], before[name] - rate)


def test_a_config_names_it_dumps_and_reloads(tmp_path):
    mine, dumped = tmp_path / 'mine.py', tmp_path / 'dumped.py'
    load_config(IMPACTS).dump(str(mine))
    mine.write_text(
        f'from {LayerDecayConstructor.__module__} import LayerDecayConstructor\n{mine.read_text()}\n'
        'optim_wrapper.update(constructor=LayerDecayConstructor)\n'
        "optim_wrapper['paramwise_cfg'].update(layer_decay=0.75)\n"
    )
    load_config(mine).dump(str(dumped))
    again = load_config(dumped)
    model = MODELS.build(again.model)
    rates = settings_of(model, build_optim_wrapper(model, again.optim_wrapper).optimizer)
    assert rates['audio_backbone.stem.weight'][0] == pytest.approx(2e-3 * 0.75**3)
    assert rates['head.log_scale'] == (pytest.approx(2e-3), 0)


def test_the_command_line_may_add_the_decay():
    constructor = 'LayerDecayConstructor'
    options = {'optim_wrapper.constructor': constructor, 'optim_wrapper.paramwise_cfg.layer_decay': 0.5}
    config = load_config(IMPACTS, options)
    assert config.optim_wrapper.constructor == constructor
    assert config.optim_wrapper.paramwise_cfg.layer_decay == 0.5


@pytest.mark.parametrize(
    ('paramwise_cfg', 'message'),
    [
        (dict(layer_decy=0.5), "no setting 'layer_decy'. Did you mean layer_decay"),
        (dict(layer_decay=0), 'above 0 and at most 1'),
        (dict(layer_decay=1.5), 'it is 1.5'),
        (dict(), 'it is None'),
    ],
)
def test_wrong_settings_are_named(model, paramwise_cfg, message):
    with pytest.raises(UserError, match=message):
        optimizer_of(model, **paramwise_cfg)


class Forgetful(nn.Module):
    """A backbone whose parts leave something out."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)

    def by_depth(self):
        return [self.first]


def test_a_backbone_whose_parts_leave_parameters_out_is_named():
    with pytest.raises(UserError, match=r'Forgetful: by_depth\(\) leaves out last.weight'):
        depth_factors(nn.Sequential(Forgetful()), 0.5)
