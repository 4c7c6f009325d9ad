"""Encoding in chunks must learn what the whole batch at once learns, and hold the activations of one chunk."""

import weakref

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from gmscavp.engine.optim import AutocastOptimWrapper
from gmscavp.errors import UserError
from gmscavp.models.gradient_caching import encoded_in_chunks
from gmscavp.registry import MODELS
from tests.models.builders import tiny_batch, tiny_model


def gradients(model, batch, seed=5):
    """Terms and gradients of one training pass, drawn from `seed`."""
    model.zero_grad()
    torch.manual_seed(seed)
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in losses.items()}, grads


def assert_same(found, expected, rel=1e-6):
    """Gradients as one vector are equal to `rel`; and none is missing or all its own."""
    assert found.keys() == expected.keys()
    one, other = (torch.cat([g.flatten() for g in grads.values()]) for grads in (found, expected))
    assert (one - other).norm() <= rel * other.norm()
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= 10 * rel * grad.norm() + 1e-3 * rel * other.norm(), name


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize('chunk', [1, 3, 64])
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_chunks_give_the_gradient_of_the_whole_batch_diffusion_included(chunk, precision, monkeypatch):
    cfg = tiny_model()
    # Terms that need the tokens of the whole batch: half of it for each direction.
    cfg['diffusion'] |= dict(half_batch=True, target='embedding')
    model, batch = MODELS.build(cfg), tiny_batch(7)
    # Convolutions of other batch sizes round otherwise in float32; float64, also where the parts ask for float32, shows
    # that nothing but rounding differs.
    if precision == 'float64':
        monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)
        model, batch['audio'] = model.double(), batch['audio'].double()
    losses, expected = gradients(model, batch)
    model.chunk = chunk
    found_losses, found = gradients(model, batch)
    rel = 1e-10 if precision == 'float64' else 2e-5
    assert found_losses == pytest.approx(losses, rel=rel)
    assert_same(found, expected, rel)


class Noisy(nn.Module):
    """An encoder with dropout, which says how many rows it saw and how many activations are alive."""

    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(6, 8), nn.Dropout(0.5)
        self.seen, self.alive, self.most = [], weakref.WeakSet(), 0

    def forward(self, rows):
        self.seen.append(len(rows))
        hidden = self.drop(self.layer(rows)).exp()
        # What the backward pass of exp needs.
        self.alive.add(hidden.untyped_storage())
        self.most = max(self.most, len(self.alive))
        return [(hidden * hidden)[:, None], hidden.sin()[:, None]]


def distance(pyramid):
    """A loss in which every row meets every other."""
    return sum(torch.cdist(x.flatten(1), x.flatten(1)).square().mean() for x in pyramid)


def test_dropout_is_drawn_again_alike():
    encoder, rows = Noisy(), torch.randn(10, 6)
    torch.manual_seed(3)
    parts = [encoder(part) for part in rows.split(4)]
    distance([torch.cat(scale) for scale in zip(*parts, strict=True)]).backward()
    expected, after = encoder.layer.weight.grad.clone(), torch.rand(1)
    encoder.zero_grad()
    torch.manual_seed(3)
    distance(encoded_in_chunks(encoder, rows, 4)).backward()
    assert (encoder.layer.weight.grad - expected).norm() <= 1e-6 * expected.norm()
    assert torch.rand(1) == after, 'the second encoding must leave the random numbers of training alone'


def test_no_more_than_one_chunk_is_alive():
    encoder, rows = Noisy(), torch.randn(12, 6)
    whole = [encoder(part) for part in rows.split(2)]
    assert encoder.most == 6
    del whole
    encoder.seen, encoder.alive, encoder.most = [], weakref.WeakSet(), 0
    distance(encoded_in_chunks(encoder, rows, 2)).backward()
    assert encoder.seen == [2] * 12
    assert encoder.most <= 2


def with_norm(frozen):
    cfg = tiny_model(diffusion=None)
    cfg['audio_backbone'] = dict(type='Cnn14', bands=32, width=4, frozen_norm=frozen, dropout=0.0, summary_dropout=0.0)
    # Half a second ends in two steps.
    for side in ('video', 'audio'):
        cfg[f'{side}_pyramid'] |= dict(lengths=[2, 1])
    return cfg


def test_batch_norm_in_training_is_refused_and_frozen_works():
    model, batch = MODELS.build(with_norm(False) | dict(chunk=2)), tiny_batch(5)
    with pytest.raises(UserError, match=r'Cnn14\.norm is BatchNorm in training.*frozen_norm=True.*GroupNorm'):
        gradients(model, batch)
    model = MODELS.build(with_norm(True)).train()
    _, expected = gradients(model, batch)
    model.chunk = 2
    _, found = gradients(model, batch)
    assert_same(found, expected, rel=2e-5)


def weights_after(wrapper, chunk):
    """The weights of a model after three steps of MMEngine, of which two are one update."""
    torch.manual_seed(0)
    model = MODELS.build(tiny_model(diffusion=None, chunk=chunk))
    optim = wrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    optim.initialize_count_status(model, 0, 3)
    for seed in range(3):
        model.train_step(tiny_batch(6, seed), optim)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_training_step_with_accumulation_and_autocast():
    start = torch.cat([p.detach().flatten() for p in MODELS.build(tiny_model(diffusion=None)).parameters()])
    expected = weights_after(OptimWrapper, None)
    moved = (expected - start).norm()
    assert (weights_after(OptimWrapper, 4) - expected).norm() <= 1e-4 * moved
    half, half_in_chunks = (weights_after(AutocastOptimWrapper, chunk) for chunk in (None, 4))
    # Rounding differs with the shapes, but chunks must not add to what half precision does by itself.
    assert 0 < (half_in_chunks - expected).norm() <= 1.5 * (half - expected).norm() < 0.5 * moved


@pytest.mark.parametrize('chunk', [0, -3, 2.5, True])
def test_a_chunk_that_is_no_number_of_clips_is_said(chunk):
    with pytest.raises(UserError, match='chunk must be a number of clips from 1 on'):
        MODELS.build(tiny_model(chunk=chunk))
