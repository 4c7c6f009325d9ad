"""Exported encoders give what the model gives, for batches of any size."""

import importlib.util

import pytest
import torch

from gmscavp.engine.config import load_config
from gmscavp.errors import UserError
from gmscavp.inference import Model, exporting
from gmscavp.inference.exporting import export_encoder
from gmscavp.registry import MODELS
from tests.test_inference_model import SMALL


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    config = load_config('configs/gmscavp_impacts.py', SMALL)
    torch.manual_seed(0)
    return Model(MODELS.build(config.model).eval(), config, tmp_path_factory.mktemp('x'), torch.device('cpu'))


@pytest.mark.parametrize('side', ['video', 'audio'])
def test_torch_graphs_are_the_model_for_any_batch(model, side, tmp_path):
    made = export_encoder(model, side, 'torch', tmp_path)
    assert made.difference < 1e-5
    graph = torch.export.load(made.file).module()
    clips = torch.zeros(5, 16, 3, 64, 64, dtype=torch.uint8) if side == 'video' else torch.rand(5, 64_000) - 0.5
    found, wanted = graph(clips), model.encode(side, clips)
    assert torch.allclose(found[0], model.model.head.embed(wanted), atol=1e-5)
    assert [x.shape for x in found[1:]] == [x.shape for x in wanted]


@pytest.mark.skipif(
    not all(importlib.util.find_spec(x) for x in ('onnx', 'onnxscript', 'onnxruntime')),
    reason='the extra export is not there',
)
@pytest.mark.parametrize('side', ['video', 'audio'])
def test_onnx_graphs_are_the_model(model, side, tmp_path):
    made = export_encoder(model, side, 'onnx', tmp_path)
    assert made.difference < 1e-4
    assert ('uint8' if side == 'video' else 'log-mel') in made.takes


def test_what_is_missing_is_named_with_the_command(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r'onnx and onnxscript; install with: pip install .*gmscavp\[export\]'):
        export_encoder(model, 'video', 'onnx', tmp_path)
