"""--amp: the forward pass runs in bfloat16, weights and gradients stay float32."""

import torch
from torch import nn

from gmscavp.engine.optim import AutocastOptimWrapper


def test_forward_is_bfloat16_and_gradients_are_float32():
    layer = nn.Linear(4, 4)
    wrapper = AutocastOptimWrapper(optimizer=torch.optim.SGD(layer.parameters(), lr=0.1))
    before = layer.weight.detach().clone()
    with wrapper.optim_context(layer):
        out = layer(torch.ones(2, 4))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().sum())
    assert layer.weight.dtype == torch.float32
    torch.testing.assert_close(layer.weight, before - 0.2)
    assert layer(torch.ones(2, 4)).dtype == torch.float32, 'outside of the context nothing changes'
