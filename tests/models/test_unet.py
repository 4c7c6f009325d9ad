"""The U-Net denoiser: what it keeps of sizes, condition and noise level, and what it refuses."""

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models.denoisers import UNetDenoiser

LENGTHS, DIM = [4, 2, 1], 12
GIVEN = dict(channels=3, size=[16, 8], condition_lengths=LENGTHS, condition_dim=DIM)
SMALL = dict(width=8, multipliers=[1, 2], blocks=1, attention_levels=[1], heads=2, context=16)


def denoiser(**changes):
    """One that no longer ends in zeros."""
    torch.manual_seed(0)
    model = UNetDenoiser(**(GIVEN | SMALL | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model.eval()


def drawn(clips=4, seed=0, channels=3, size=(16, 8)):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(clips, channels, *size, generator=generator)
    condition = [torch.randn(clips, length, DIM, generator=generator) for length in LENGTHS]
    return x, torch.rand(clips, generator=generator), condition


@pytest.mark.parametrize(
    'changes',
    [
        {},
        dict(multipliers=[1, 2, 2, 3], attention_levels=[0, 2, 3], blocks=2),
        dict(multipliers=[1], attention_levels=[]),
        dict(channels=1, size=[32, 24], multipliers=[2, 1, 4], attention_levels=[1]),
    ],
)
def test_the_prediction_has_the_shape_of_the_signal_and_every_weight_learns(changes):
    model = denoiser(**changes)
    settings = GIVEN | changes
    x, t, condition = drawn(channels=settings['channels'], size=settings['size'])
    keep = torch.tensor([True, False, True, True])
    predicted = model(x, t, condition, keep)
    assert predicted.shape == x.shape
    predicted.square().mean().backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert [name for name in without if 'key_value.bias' not in name] == []


def test_it_predicts_zero_at_the_start():
    model = UNetDenoiser(**GIVEN, **SMALL)
    assert not model(*drawn()).any()


def test_the_null_condition_knows_nothing_of_the_condition():
    model = denoiser()
    (x, t, condition), (_, _, another) = drawn(), drawn(seed=1)
    with torch.no_grad():
        kept, other = model(x, t, condition), model(x, t, another)
        dropped = [model(x, t, each, torch.zeros(4, dtype=torch.bool)) for each in (condition, another)]
        mixed = model(x, t, condition, torch.tensor([True, False, True, False]))
    torch.testing.assert_close(dropped[0], dropped[1], rtol=0, atol=0)
    difference = (kept - other).flatten(1).abs().amax(1)
    assert (difference > 1e-4).all()
    assert ((kept - dropped[0]).flatten(1).abs().amax(1) > 1e-4).all()
    torch.testing.assert_close(mixed[::2], kept[::2])
    torch.testing.assert_close(mixed[1::2], dropped[0][1::2])
    torch.testing.assert_close(model(x, t, condition, torch.ones(4, dtype=torch.bool)), kept)


def test_the_condition_gets_a_gradient_at_every_scale_and_only_where_it_is_kept():
    model = denoiser()
    x, t, condition = drawn()
    condition = [part.requires_grad_() for part in condition]
    model(x, t, condition, torch.tensor([True, False, True, True])).square().sum().backward()
    for part in condition:
        assert part.grad.isfinite().all()
        size = part.grad.flatten(1).norm(dim=1)
        assert (size[[0, 2, 3]] > 0).all()
        assert size[1] == 0


def test_the_order_of_the_conditions_tokens_counts():
    """Attention by itself would not tell; the learned positions do."""
    model = denoiser()
    with torch.no_grad():
        model.condition_positions.normal_()
        x, t, condition = drawn()
        turned = [condition[0].flip(1), *condition[1:]]
        assert (model(x, t, condition) - model(x, t, turned)).abs().max() > 1e-4
        model.condition_positions.zero_()
        torch.testing.assert_close(model(x, t, condition), model(x, t, turned), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('changes', [{}, dict(width=32), dict(width=20)])
def test_the_noise_level_matters_and_clips_do_not_mix(changes):
    model = denoiser(**changes)
    x, t, condition = drawn()
    with torch.no_grad():
        whole = model(x, t, condition)
        assert ((whole - model(x, 1 - t, condition)).flatten(1).abs().amax(1) > 1e-4).all()
        alone = model(x[1:2], t[1:2], [part[1:2] for part in condition])
    torch.testing.assert_close(whole[1:2], alone, atol=1e-5, rtol=1e-4)


def test_what_is_remembered_of_a_condition_is_the_condition(monkeypatch):
    model = denoiser()
    x, t, condition = drawn()
    for keep in (None, torch.zeros(len(t), dtype=torch.bool), torch.arange(len(t)) > 0):
        known, expected = model.remember(condition, keep), [model(x, at, condition, keep) for at in (t, 1 - t)]
        with monkeypatch.context() as patch:
            patch.setattr(model, '_source', None)  # not asked again
            assert all(torch.equal(model(x, at, *known), made) for at, made in zip((t, 1 - t), expected, strict=True))
    model.gradient_checkpointing = True
    assert torch.equal(model(x, t, condition), model(x, t, *model.remember(condition)))


def test_every_place_is_seen_from_every_other():
    model = denoiser()
    x, t, condition = drawn(clips=1)
    x.requires_grad_()
    model(x, t, condition)[0, 0, 0, 0].backward()
    assert (x.grad.abs().amax(dim=(0, 1)) > 0).all()


def test_the_ancestors_sizes():
    with torch.device('meta'):
        model = UNetDenoiser(
            channels=4,
            size=[64, 16],
            condition_lengths=[32],
            condition_dim=512,
            width=320,
            multipliers=[1, 2, 4, 4],
            blocks=2,
            attention_levels=[0, 1, 2],
            heads=8,
            context=768,
        )
        shape = model(torch.zeros(1, 4, 64, 16), torch.zeros(1), [torch.zeros(1, 32, 512)]).shape
    assert shape == (1, 4, 64, 16)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert f'{millions:.1f} M parameters' in (UNetDenoiser.__doc__ or '')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(size=[4, 16, 16]), 'use LatentTransformer for video'),
        (dict(size=[15, 8]), r'2 levels need places that divide by 2, not \[15, 8\]'),
        (dict(size=[16, 4], multipliers=[1, 2, 2, 2]), r'4 levels need places that divide by 8, not \[16, 4\]'),
        (dict(attention_levels=[2]), 'attention_levels among its 2 levels, 0 to 1'),
        (dict(blocks=0), 'blocks must be 1 or more'),
        (dict(heads=3), r'\[16\] channels do not divide into 3 heads'),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        UNetDenoiser(**(GIVEN | SMALL | changes))
