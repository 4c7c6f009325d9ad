"""SlowOnly-R50: shapes, where it looks into time, what it is normalised by, statistics in tuning."""

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models.backbones import SlowOnlyR50
from gmscavp.models.backbones.batch_norm import run_checkpointed

STEPS = 6


@pytest.fixture
def video():
    return torch.rand(2, 3, STEPS, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def build(**settings):
    torch.manual_seed(0)
    return SlowOnlyR50(width=4, **settings)


def awake(net):
    """A net whose blocks differ from their shortcuts, which they are at the start of training."""
    for name, parameter in net.named_parameters():
        if name.endswith('conv3.norm.weight'):
            torch.nn.init.ones_(parameter)
    return net


def test_it_has_the_parameters_and_channels_of_the_released_trunk():
    with torch.device('meta'):
        net = SlowOnlyR50()
    assert sum(p.numel() for p in net.parameters()) == 31_634_496
    assert net.out_channels == [256, 512, 1024, 2048]


def test_every_stage_comes_out_with_all_steps_of_time(video):
    features = build().eval()(video)
    assert [tuple(x.shape) for x in features] == [
        (2, STEPS, 256, 16), (2, STEPS, 64, 32), (2, STEPS, 16, 64), (2, STEPS, 4, 128)
    ]  # fmt: skip


def test_only_the_last_two_stages_look_into_time(video):
    net = awake(build()).eval()
    other = video.clone()
    other[:, :, 0] += 0.5
    before, after = net(video), net(other)
    for stage, (x, y) in enumerate(zip(before, after, strict=True)):
        changed = (x - y).abs().amax(dim=(0, 2, 3)) > 0
        assert changed[0]
        assert changed[1:].any() == (stage >= 2)


def test_mean_and_std_normalise_frames_in_0_to_1(video):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    plain, normed = build().eval(), build(mean=mean, std=std).eval()
    m, s = (torch.tensor(values).view(1, 3, 1, 1, 1) for values in (mean, std))
    by_hand = ((video + 1) / 2 - m) / s
    torch.testing.assert_close(normed(video)[-1], plain(by_hand * 2 - 1)[-1], rtol=1e-4, atol=1e-5)
    assert not [name for name in normed.state_dict() if name in ('mean', 'std')]


def test_a_new_block_is_its_shortcut(video):
    net = build().train()
    x = torch.rand(2, 16, STEPS, 8, 8)
    block = net.stages[0][1]
    torch.testing.assert_close(block(x), x)


def test_parts_by_depth_hold_all_parameters():
    net = build()
    parts = [p for part in net.by_depth() for p in part.parameters()]
    assert len(parts) == len({id(p) for p in parts}) == len(list(net.parameters()))


def test_checkpointing_changes_neither_gradients_nor_statistics(video):
    nets = [awake(build(gradient_checkpointing=checkpointing)).train() for checkpointing in (False, True)]
    for net in nets:
        net(video)[-1].square().mean().backward()
    kept, again = nets
    for (name, p), q in zip(kept.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda said, name=name: f'{name}: {said}')
    for (name, x), y in zip(kept.named_buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(x, y, msg=lambda said, name=name: f'{name}: {said}')


def test_plain_checkpointing_would_move_the_statistics_twice():
    """What `run_checkpointed` is there for: if this fails, it can go."""
    counts = []
    for run in (run_checkpointed, lambda m, x: torch.utils.checkpoint.checkpoint(m, x, use_reentrant=False)):
        norm = torch.nn.BatchNorm1d(3)
        run(norm, torch.rand(4, 3, requires_grad=True)).sum().backward()
        counts.append(int(norm.num_batches_tracked))
    assert counts == [1, 2]


def test_frozen_norm_keeps_its_statistics_in_training(video):
    net = build(frozen_norm=True).train()
    before = {name: x.clone() for name, x in net.named_buffers()}
    trained = net(video)[-1]
    assert all(torch.equal(x, before[name]) for name, x in net.named_buffers())
    assert torch.equal(trained, net.eval()(video)[-1])
    assert net.train().stem.training
    assert not net.stem.norm.training


def test_a_mean_that_is_not_three_numbers_is_refused():
    with pytest.raises(UserError, match='mean takes one value for red, green and blue each'):
        SlowOnlyR50(mean=[0.5])
