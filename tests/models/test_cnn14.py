"""Cnn14: shapes, the summary, dropout, statistics in tuning, and mels that do not fit."""

import pytest
import torch
from torch.nn import functional as F

from gmscavp.errors import UserError
from gmscavp.models.backbones import Cnn14

PANNS_POOLS = [(2, 2)] * 5 + [(1, 1)]


@pytest.fixture
def mel():
    return torch.rand(2, 1, 64, 128, generator=torch.Generator().manual_seed(0))


def build(**settings):
    torch.manual_seed(0)
    return Cnn14(width=4, **settings)


def test_it_has_the_parameters_of_the_released_trunk_less_the_projection():
    with torch.device('meta'):
        net = Cnn14()
        projection = torch.nn.Linear(2048, 512)
    count = sum(p.numel() for p in net.parameters())
    assert count == 79_673_920
    assert count + sum(p.numel() for p in projection.parameters()) == 80_723_008
    assert net.out_channels == [64, 128, 256, 512, 1024, 2048]


def test_time_is_divided_by_16_and_the_last_entry_is_the_summary(mel):
    features = build().eval()(mel)
    assert [tuple(x.shape) for x in features] == [
        (2, 32, 64, 4), (2, 16, 32, 8), (2, 8, 16, 16), (2, 4, 8, 32), (2, 4, 4, 64), (2, 4, 1, 128)
    ]  # fmt: skip


def test_without_summary_the_last_block_keeps_its_bands_low_to_high(mel):
    whole, banded = build().eval(), build(summary=False).eval()
    banded.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith('fc.')})
    features = banded(mel)
    assert features[-1].shape == (2, 4, 4, 128)
    x = features[-1].mean(dim=2).transpose(1, 2)
    padded = F.pad(x, (1, 1))
    windows = padded.unfold(2, 3, 1)
    # ReLU has left nothing below zero, so that padding by zero is right for the maximum too.
    pooled = (windows.amax(-1) + windows.mean(-1)).transpose(1, 2)
    expected = F.relu(whole.fc(F.relu(whole.fc(pooled))))
    torch.testing.assert_close(whole(mel)[-1][:, :, 0], expected, rtol=1e-4, atol=1e-6)
    low = mel.clone()
    low[..., :8] += 0.5
    changed = (banded(low)[-1] - features[-1]).abs().amax(dim=(0, 1, 3))
    assert changed[0] > changed[-1]


def test_pools_of_panns_divide_time_by_32(mel):
    assert build(pools=PANNS_POOLS).eval()(mel)[-1].shape == (2, 2, 1, 128)


def test_bands_are_normalised_one_by_one(mel):
    """A level and scale of its own in every band changes nothing: the norm takes them off again."""
    net = build(dropout=0.0, summary_dropout=0.0).train()
    scale, level = torch.rand(128) + 0.5, torch.rand(128)
    torch.testing.assert_close(net(mel * scale + level)[-1], net(mel)[-1], rtol=1e-2, atol=1e-3)


def test_dropout_acts_in_training_alone(mel):
    net = build()
    assert not torch.equal(net.train()(mel)[-1], net(mel)[-1])
    assert torch.equal(net.eval()(mel)[-1], net(mel)[-1])


def test_parts_by_depth_hold_all_parameters():
    for net in (build(), build(summary=False)):
        parts = [p for part in net.by_depth() for p in part.parameters()]
        assert len(parts) == len({id(p) for p in parts}) == len(list(net.parameters()))


def test_checkpointing_changes_neither_gradients_nor_statistics(mel):
    nets = [build(gradient_checkpointing=checkpointing).train() for checkpointing in (False, True)]
    for net in nets:
        torch.manual_seed(1)
        net(mel)[-1].square().mean().backward()
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    for x, y in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        torch.testing.assert_close(x, y)


def test_frozen_norm_keeps_its_statistics_in_training(mel):
    net = build(frozen_norm=True, dropout=0.0, summary_dropout=0.0).train()
    before = {name: x.clone() for name, x in net.named_buffers()}
    trained = net(mel)[-1]
    assert all(torch.equal(x, before[name]) for name, x in net.named_buffers())
    assert torch.equal(trained, net.eval()(mel)[-1])


def test_mels_that_do_not_fit_are_named(mel):
    with pytest.raises(UserError, match='the mel has 128 bands, Cnn14 expects 64; give'):
        build(bands=64)(mel)
    with pytest.raises(UserError, match='15 mel frames are fewer than the 16'):
        build()(mel[:, :, :15])
    with pytest.raises(UserError, match='each of 6 blocks, got 2'):
        build(pools=[(2, 2), (2, 2)])
