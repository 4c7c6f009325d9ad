"""The transformers of ours: what they count, see and forget, and that the shortcuts change nothing."""

import math

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models import FrameViT, SpectrogramViT
from gmscavp.models.layers import DropPath, TransformerBlock

SMALL = dict(width=32, depth=3, heads=2)
# timm's ViT of the same size without a head, less the class token and its position (one width each).
PUBLISHED = {
    'tiny': (5_524_416, 192),
    'small': (21_665_664, 384),
    'base': (85_798_656, 768),
    'large': (303_301_632, 1024),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def frames_vit(**settings):
    return FrameViT(**(SMALL | dict(patch=8, image_size=32) | settings))


def mel_vit(**settings):
    return SpectrogramViT(**(SMALL | dict(bands=16, frames=32, patch=(8, 8)) | settings))


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize('size', PUBLISHED)
def test_parameters_are_those_of_the_published_sizes(size):
    total, width = PUBLISHED[size]
    with torch.device('meta'):
        video, mel = FrameViT(size), SpectrogramViT(size)
        over_time = FrameViT(size, temporal_layers=[2, 5])
    assert count(video) == total - 2 * width
    # One channel in place of three, and 128 places in place of 196.
    assert count(mel) == count(video) - 2 * 256 * width - (196 - 128) * width
    assert count(over_time) - count(video) == 2 * (4 * width**2 + 6 * width)
    for kind, net in ((FrameViT, video), (SpectrogramViT, mel)):
        said = f'{count(net) / 1e6:.{0 if size == "large" else 1}f} M'
        assert f"'{size}' (" in kind.__doc__
        assert said in kind.__doc__


def test_shapes_of_the_paper_setting():
    with torch.device('meta'):
        (video,) = FrameViT('tiny')(torch.empty(2, 3, 16, 224, 224))
        (mel,) = SpectrogramViT('tiny')(torch.empty(2, 1, 256, 128))
    assert video.shape == (2, 16, 196, 192)
    assert mel.shape == (2, 16, 8, 192)


def test_block_is_the_definition():
    """Against attention written out with a softmax for every clip and head."""
    block = TransformerBlock(16, 2)
    x = torch.randn(3, 5, 16)
    y = block.attention_norm(x)
    query = block.attention.query(y)
    key, value = block.attention.key_value(y).chunk(2, dim=-1)
    heads = []
    for h in (slice(0, 8), slice(8, 16)):
        weights = (query[..., h] @ key[..., h].transpose(1, 2) / math.sqrt(8)).softmax(-1)
        heads.append(weights @ value[..., h])
    z = x + block.attention.out(torch.cat(heads, -1))
    torch.testing.assert_close(block(x), z + block.mlp(block.mlp_norm(z)))


def test_block_keeps_other_axes_apart():
    block = TransformerBlock(16, 2)
    x = torch.randn(2, 3, 5, 16)
    torch.testing.assert_close(block(x)[:, 1], block(x[:, 1]))


def test_drop_path_keeps_the_expectation_and_is_off_in_evaluation():
    drop, x = DropPath(0.3), torch.rand(4, 3, 2) + 1
    mean = torch.stack([drop(x) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, x, rtol=0.05, atol=0)
    dropped = drop(torch.ones(1000, 2, 2)).flatten(1)
    assert ((dropped == 0).all(1) | torch.isclose(dropped, torch.tensor(1 / 0.7)).all(1)).all(), 'a clip as a whole'
    assert drop.eval()(x) is x
    with pytest.raises(UserError, match='drop_path'):
        DropPath(1.0)


def test_drop_path_rises_with_depth():
    rates = [layer.block.drop_path.drop for layer in frames_vit(drop_path=0.2, temporal_layers=1).layers]
    assert rates == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize('temporal_layers', [1, 2, [1, 3]])
def test_attention_over_time_changes_nothing_at_the_start(temporal_layers):
    frozen_time, over_time = frames_vit(), frames_vit(temporal_layers=temporal_layers)
    over_time.load_state_dict(frozen_time.state_dict(), strict=False)
    video = torch.randn(2, 3, 5, 32, 32)
    torch.testing.assert_close(over_time(video)[0], frozen_time(video)[0], rtol=0, atol=0)
    over_time(video)[0].square().sum().backward()
    outs = [layer.time.attention.out for layer in over_time.layers if layer.time is not None]
    assert outs
    assert all(out.weight.grad.abs().sum() > 0 for out in outs), 'it can leave the start'


def test_without_attention_over_time_frames_do_not_see_each_other():
    net, video, order = frames_vit(), torch.randn(2, 3, 5, 32, 32), torch.randperm(5)
    torch.testing.assert_close(net(video[:, :, order])[0], net(video)[0][:, order])


def test_attention_over_time_sees_order_and_keeps_to_its_place():
    net = frames_vit(depth=1, temporal_layers=[1])
    torch.nn.init.normal_(net.layers[0].time.attention.out.weight)
    tokens, order = torch.randn(1, 5, 4, 32), torch.tensor([4, 3, 2, 1, 0])
    time = net.layers[0].time
    assert not torch.allclose(time(tokens[:, order]), time(tokens)[:, order], atol=1e-3)
    changed = tokens.clone()
    changed[:, 2, 1] += 1
    touched = (time(changed) - time(tokens)).abs().sum((0, 1, 3)) > 1e-4
    assert touched.tolist() == [False, True, False, False]


@pytest.mark.parametrize('make', [lambda **s: frames_vit(temporal_layers=2, **s), mel_vit], ids=['frames', 'mel'])
def test_checkpointed_gradients_are_the_plain_ones(make):
    plain = make(drop_path=0.3)
    saving = make(drop_path=0.3, gradient_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 3, 32, 32) if isinstance(plain, FrameViT) else torch.rand(2, 1, 32, 16)
    for net in (plain, saving):
        torch.manual_seed(1)
        net.train()(x)[0].square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_positions_are_kept_at_their_size_and_interpolated_for_others():
    net = frames_vit()
    assert net(torch.randn(1, 3, 2, 48, 40))[0].shape == (1, 2, 6 * 5, 32)
    flat = frames_vit()
    torch.nn.init.ones_(flat.patches.positions)
    torch.nn.init.zeros_(flat.patches.project.weight)
    torch.testing.assert_close(flat.patches(torch.randn(1, 3, 40, 56)), torch.ones(1, 5, 7, 32))
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 32, 4, 4)
    flat.patches.positions.data.copy_(ramp)
    rows = flat.patches(torch.randn(1, 3, 64, 32))[0, :, 0, 0]
    assert (rows.diff() > 0).all(), 'rows stay rows'


@pytest.mark.parametrize(
    ('frames', 'bands', 'patch', 'stride'),
    [
        (256, 128, (16, 16), None),
        (257, 130, (16, 16), (10, 10)),
        (33, 17, (8, 4), (3, 2)),
        (16, 16, (16, 16), (10, 10)),
    ],
)
def test_overlapping_patches_are_as_many_as_documented(frames, bands, patch, stride):
    net = SpectrogramViT(**SMALL, bands=bands, frames=frames, patch=patch, stride=stride)
    step = stride or patch
    wanted = [(n - p) // s + 1 for n, p, s in zip((frames, bands), patch, step, strict=True)]
    (features,) = net(torch.rand(1, 1, frames, bands))
    assert list(features.shape[1:3]) == wanted
    longer = net(torch.rand(1, 1, 2 * frames + 1, bands))[0]
    assert longer.shape[1] == (2 * frames + 1 - patch[0]) // step[0] + 1


def test_steps_are_in_time_and_places_are_bands_from_low_to_high():
    """What the patches hold, before they attend to each other."""
    net = mel_vit()
    mel = torch.zeros(1, 1, 32, 16)
    mel[..., 8:16, 8:] = 1
    changed = (net.patches(mel) - net.patches(torch.zeros_like(mel))).abs().sum(-1)[0] > 0
    assert changed.nonzero().tolist() == [[1, 1]]


def test_places_are_cells_row_by_row():
    net = frames_vit(depth=1, image_size=16)
    video = torch.zeros(1, 3, 1, 16, 32)
    video[..., 8:, :8] = 1
    seen = []
    net.layers.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(video), net(torch.zeros_like(video))
    assert ((seen[0] - seen[1]).abs().sum(-1)[0, 0] > 0).tolist() == [False] * 4 + [True] + [False] * 3


def test_several_depths_come_out_as_stages():
    net, video = frames_vit(out_layers=[1, 3]), torch.randn(1, 3, 2, 32, 32)
    early, late = net(video)
    assert net.out_channels == [32, 32]
    last = frames_vit()
    last.load_state_dict(net.state_dict(), strict=False)
    torch.testing.assert_close(last(video)[0], late)
    with torch.no_grad():
        net.layers[2].block.mlp[0].weight += 1
    torch.testing.assert_close(net(video)[0], early, msg='what is deeper changes nothing')


@pytest.mark.parametrize('net', [frames_vit(out_layers=[1, 3], temporal_layers=1), mel_vit()], ids=['frames', 'mel'])
def test_parts_by_depth_hold_every_parameter_once(net):
    parts = net.by_depth()
    assert len(parts) == 4
    held = [id(p) for part in parts for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    assert parts[2] is net.layers[1], 'part i is layer i'


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: frames_vit()(torch.zeros(1, 3, 2, 7, 32)), 'frames of 7 x 32 pixels hold no patch of 8 x 8'),
        (lambda: frames_vit(image_size=4), 'image_size = 4 x 4 hold no patch'),
        (lambda: FrameViT('huge'), "size must be one of tiny, small, base, large, not 'huge'"),
        (lambda: frames_vit(heads=5), 'cannot be shared out to 5 heads'),
        (lambda: frames_vit(out_layers=[4]), 'out_layers: there are layers 1 to 3, no layer 4'),
        (lambda: frames_vit(out_layers=[]), 'out_layers names no layer'),
        (lambda: frames_vit(temporal_layers=[0]), 'temporal_layers: there are layers 1 to 3, no layer 0'),
        (lambda: frames_vit(temporal_layers=4), 'temporal_layers: there are layers 1 to 3, no layer 4'),
        (lambda: mel_vit()(torch.zeros(1, 1, 7, 16)), 'a mel of 7 frames holds no patch of 8'),
        (lambda: mel_vit()(torch.zeros(1, 1, 32, 20)), 'the mel has 20 bands, the backbone is for 16'),
        (lambda: mel_vit(patch=(8, 32)), 'frames and bands = 32 x 16 hold no patch of 8 x 32'),
        (lambda: mel_vit(patch=16), 'pairs'),
        (lambda: mel_vit(stride=(0, 4)), 'at least 1'),
    ],
)
def test_what_does_not_fit_is_said(make, message):
    with pytest.raises(UserError, match=message):
        make()
