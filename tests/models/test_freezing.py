"""Frozen parts: no gradient, no running statistics, no dropout; everything else trains as before."""

import copy

import pytest
import torch
from torch import nn

from gmscavp.errors import UserError
from gmscavp.models import Backbone
from gmscavp.models.freezing import freeze
from gmscavp.registry import BACKBONES, MODELS
from tests.models.builders import tiny_batch, tiny_model


@BACKBONES.register_module(force=True)
class NormedNet(Backbone):
    """Three parts, each with what freezing has to hold still: weights, running statistics and dropout."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(self.part(a, b) for a, b in ((3, 8), (8, 8), (8, 8)))
        self.out_channels = [8]

    @staticmethod
    def part(channels, out_channels):
        return nn.Sequential(
            nn.Conv3d(channels, out_channels, 3, (1, 2, 2), 1), nn.BatchNorm3d(out_channels), nn.Dropout(0.5)
        )

    def by_depth(self):
        return list(self.parts)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return [x.flatten(3).permute(0, 2, 3, 1)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def model_of(**settings):
    return MODELS.build(tiny_model(video_backbone=dict(type='NormedNet'), **settings))


def step(model):
    """One training step as a runner makes it: mode first, then losses, then all that has a gradient moves."""
    model.train()
    losses = model(**model.data_preprocessor(tiny_batch(), True), mode='loss')
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1).step()


def moved(before, after):
    """Names of weights and statistics that a step changed."""
    return {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(('frozen', 'parts'), [(False, 0), (0, 0), (1, 1), (2, 2), (3, 3), (True, 3)])
def test_a_step_moves_what_is_not_frozen_and_nothing_else(frozen, parts):
    model = model_of(video_frozen=frozen)
    before = copy.deepcopy(model.state_dict())
    step(model)
    changed = moved(before, model)
    backbone = {name for name in before if name.startswith('video_backbone.')}
    held = {name for name in backbone if int(name.split('.')[2]) < parts}
    # A bias before a norm has no effect and no gradient to speak of.
    idle = {name for name in backbone if name.endswith('.0.bias')}
    assert not changed & held
    assert backbone - held - idle <= changed
    assert any(name.startswith('audio_backbone.') for name in changed)
    for name, p in model.named_parameters():
        assert p.requires_grad == (name not in held), name
        assert name not in held or p.grad is None


def test_frozen_parts_stay_in_evaluation_whatever_the_mode():
    model = model_of(video_frozen=2, audio_frozen=True)
    for mode in (False, True, True):
        assert model.train(mode) is model
        video = [part.training for part in model.video_backbone.by_depth()]
        assert video == [False, False, mode]
        assert not any(part.training for part in model.audio_backbone.by_depth())
        assert model.head.training == mode
    assert not any(module.training for module in model.eval().modules())


def test_a_frozen_backbone_gives_the_same_features_in_training():
    model = model_of(video_frozen=True).train()
    video = torch.randn(2, 3, 4, 16, 16)
    first, again = model.video_backbone(video)[0], model.video_backbone(video)[0]
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not first.requires_grad


def test_a_copy_as_the_moving_average_makes_it_is_frozen_too():
    model = copy.deepcopy(model_of(video_frozen=1)).train()
    assert [part.training for part in model.video_backbone.by_depth()] == [False, True, True]
    assert not next(model.video_backbone.parameters()).requires_grad


def test_freezing_adds_nothing_to_a_checkpoint():
    assert model_of(video_frozen=2).state_dict().keys() == model_of().state_dict().keys()


@pytest.mark.parametrize('depth', [-1, 4])
def test_a_depth_that_is_not_there_is_named(depth):
    with pytest.raises(UserError, match=f'NormedNet has 3 parts, {depth} of them cannot be frozen; set video_frozen'):
        freeze(NormedNet(), depth)
