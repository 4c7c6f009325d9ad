"""The converter as a user runs it: both ways, partial weights by name, hostile files; and what it writes in use."""

import argparse
import runpy
import sys

import pytest
import torch
from mmengine.runner import Runner
from safetensors.torch import save_file

from gmscavp.compat import ABSENT, load_checkpoint_file
from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.engine.config import load_config
from gmscavp.engine.runner import build_runner
from gmscavp.engine.weights import LAYOUTS
from gmscavp.errors import UserError
from gmscavp.registry import MODELS
from tests.hostile import Payload
from tests.running import ROOT, SMALL, forget_runs

CONFIG = 'configs/gmscavp_impacts.py'
FEW_CLIPS = SMALL | {'test_dataloader.dataset.clips': 4}


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run a tool in this process; return what it printed, or with code=2 its one sentence of refusal."""

    def run(name, *arguments, code=0):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv('COLUMNS', '200')
        forget_runs()
        capsys.readouterr()
        if code == 0:
            runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
        said = capsys.readouterr().err
        assert ended.value.code == code
        assert said.startswith('gmscavp: ')
        assert len(said.strip().splitlines()) == 1
        return said

    return run


def videomae(layers=1):
    """A tiny checkpoint as VideoMAE's authors wrote theirs: wrapped, from distributed training, with the arguments."""
    shapes = {
        'encoder.patch_embed.proj.weight': (4, 3, 2, 2, 2),
        f'encoder.blocks.{layers - 1}.mlp.fc1.weight': (8, 4),
    }
    generator = torch.Generator().manual_seed(0)
    weights = {
        entry.released: torch.randn(entry.shape, generator=generator) for entry in LAYOUTS['videomae'].table(shapes)
    }
    return {'model': weights | {'mask_token': torch.zeros(1, 1, 2)}, 'epoch': 3, 'args': argparse.Namespace(lr=0.1)}


@pytest.fixture
def source(tmp_path):
    torch.save(videomae(), tmp_path / 'released.pth')
    return tmp_path / 'released.pth'


def test_there_and_back_is_bit_for_bit_and_says_where_it_came_from(tool, source, tmp_path):
    ours, back = tmp_path / 'deep' / 'ours.safetensors', tmp_path / 'back.pth'
    said = tool('convert_checkpoint.py', source, '--layout', 'videomae', '--out', ours)
    assert 'licence: CC-BY-NC-4.0 (not for commercial use)' in said
    assert 'mask_token' in said
    assert ours.stat().st_mode == source.stat().st_mode
    meta = load_checkpoint_file(ours)['meta']
    assert meta['source_sha256'] in said
    assert meta['layout'] == 'videomae'
    tool('convert_checkpoint.py', ours, '--layout', 'videomae', '--to-released', '--out', back)
    expected, again = videomae()['model'], load_checkpoint_file(back)['model']
    del expected['mask_token']
    assert list(again) == list(expected)
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_the_way_back_to_cavp_has_the_wrapper_and_prefix_of_the_release(tool, tmp_path):
    """With what a run's own checkpoint has beside the weights."""
    ours = {name: torch.zeros(entry.part_shape) for entry in LAYOUTS['cavp'].table({}) for name in entry.ours}
    extra = {'data_preprocessor.log_mel.mel.spectrogram.window': torch.zeros(4), 'diffusion.scale': torch.zeros(1)}
    # Of many of them one element is enough to know which they are: only what is asked for is written.
    small = {name: value for name, value in ours.items() if 'norm' in name or 'log_scale' in name}
    torch.save({'state_dict': small | extra, 'meta': {}}, tmp_path / 'run.pth')
    arguments = ['convert_checkpoint.py', tmp_path / 'run.pth', '--layout', 'cavp', '--to-released', '--out']
    assert 'diffusion.scale' in tool(*arguments, tmp_path / 'x.ckpt', '--allow-missing', '*', code=2)
    tool(*arguments, tmp_path / 'x.ckpt', '--allow-missing', '*', '--leave-out', 'diffusion.*')
    released = load_checkpoint_file(tmp_path / 'x.ckpt')['state_dict']
    assert len(released) == len(small)
    assert released['module.logit_scale'].shape == ()
    assert 'module.video_encoder.conv1.bn.weight' in released
    assert 'endings .safetensors, .pth' in tool(*arguments, tmp_path / 'x.onnx', '--allow-missing', '*', '--leave-out',
                                                 'diffusion.*', code=2)  # fmt: skip


def test_partial_weights_only_by_name(tool, tmp_path):
    checkpoint = videomae()
    bias = checkpoint['model'].pop('encoder.norm.bias')
    checkpoint['model']['extra.weight'] = bias
    torch.save(checkpoint, tmp_path / 'part.pth')
    out = tmp_path / 'ours.safetensors'
    arguments = ['convert_checkpoint.py', tmp_path / 'part.pth', '--layout', 'videomae', '--out', out]
    said = tool(*arguments, code=2)
    assert '1 missing (for example encoder.norm.bias); 1 unexpected (for example extra.weight)' in said
    assert '--allow-missing PATTERN, --leave-out PATTERN' in said
    assert not out.exists()
    tool(*arguments, '--allow-missing', 'encoder.norm.*', '--leave-out', 'extra.*', '*.mlp.fc2.bias')
    loaded = load_checkpoint_file(out)
    assert '"video_backbone.adapter.encoder.layernorm.bias"' in loaded['meta'][ABSENT]
    assert '"video_backbone.adapter.encoder.encoder.layer.0.output.dense.bias"' in loaded['meta'][ABSENT]
    assert 'video_backbone.adapter.encoder.layernorm.weight' in loaded['state_dict']


def test_another_licence_is_recorded_on_demand(tool, source, tmp_path):
    out = tmp_path / 'ours.safetensors'
    tool('convert_checkpoint.py', source, '--layout', 'videomae', '--out', out, '--licence', 'own work')
    assert load_checkpoint_file(out)['meta']['licence'] == 'own work'


def test_the_wrong_layout_is_named_with_the_likely_one(tool, source, tmp_path):
    said = tool('convert_checkpoint.py', source, '--layout', 'panns_cnn14', '--out', tmp_path / 'o.safetensors', code=2)
    assert "has no key of the layout 'panns_cnn14'; it looks like 'videomae'." in said


def test_code_in_a_source_is_not_run(tool, tmp_path):
    torch.save(videomae() | {'args': Payload(tmp_path / 'mark')}, tmp_path / 'evil.pth')
    arguments = ['--layout', 'videomae', '--out', tmp_path / 'o.safetensors']
    assert 'is refused: it holds more than tensors' in tool(
        'convert_checkpoint.py', tmp_path / 'evil.pth', *arguments, code=2
    )
    assert not (tmp_path / 'mark').exists()
    assert not (tmp_path / 'o.safetensors').exists()


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.99])
def test_a_truncated_source_is_called_damaged(tool, tmp_path, ending, share):
    whole = tmp_path / f'whole.{ending}'
    weights = videomae()['model']
    save_file(weights, whole) if ending == 'safetensors' else torch.save({'model': weights}, whole)
    cut = tmp_path / f'cut.{ending}'
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    said = tool('convert_checkpoint.py', cut, '--layout', 'videomae', '--out', tmp_path / 'o.safetensors', code=2)
    assert 'is damaged' in said


def test_files_that_cannot_be_are_refused_first(tool, source, tmp_path):
    arguments = ['convert_checkpoint.py', source, '--layout', 'videomae', '--out']
    assert 'give the file that ending' in tool(*arguments, tmp_path / 'ours.pth', code=2)
    missing = ['convert_checkpoint.py', tmp_path / 'none.pth', '--layout', 'videomae', '--out']
    assert 'does not exist' in tool(*missing, tmp_path / 'o.safetensors', code=2)
    tool(*arguments, tmp_path / 'ours.safetensors')
    same = ['convert_checkpoint.py', tmp_path / 'ours.safetensors', '--layout', 'videomae', '--out']
    assert 'is the source itself' in tool(*same, tmp_path / 'ours.safetensors', code=2)


def test_config_says_whether_the_weights_fit_its_model(tool, tmp_path):
    released, ours, config = tmp_path / 'slowonly.pth', tmp_path / 'ours.safetensors', tmp_path / 'mine.py'
    table = LAYOUTS['slowonly_openmmlab'].table({})
    torch.save({'state_dict': {entry.released: torch.zeros(entry.shape) for entry in table}}, released)
    load_config(ROOT / CONFIG).dump(str(config))
    arguments = ['convert_checkpoint.py', released, '--layout', 'slowonly_openmmlab', '--out', ours, '--config', config]
    said = tool(*arguments, code=2)
    assert f'do not fit video_backbone of {config}' in said
    assert 'unknown (for example video_backbone.stages.0.0.conv1.conv.weight)' in said
    assert not ours.exists()
    with config.open('a') as opened:
        opened.write("\nmodel['video_backbone'] = dict(type='gmscavp.models.SlowOnlyR50')\n")
    assert f'fits {config}: video_backbone' in tool(*arguments, '--leave-out', 'backbone.conv1.*')
    ours.unlink()
    released.unlink()


@pytest.fixture(scope='module')
def impacts(tmp_path_factory):
    return render_impacts(tmp_path_factory.mktemp('data') / 'impacts', train=4, test=4, workers=1, progress=False)


@pytest.fixture(scope='module')
def whole_model(tmp_path_factory):
    """Weights of a whole model as safetensors, without the filters of the mel, and the options of its config."""
    torch.manual_seed(3)
    state = MODELS.build(load_config(ROOT / CONFIG, FEW_CLIPS).model).state_dict()
    file = tmp_path_factory.mktemp('whole') / 'model.safetensors'
    save_file({name: value for name, value in state.items() if not name.startswith('data_preprocessor.')}, file)
    return file, state


def test_safetensors_of_a_whole_model_are_a_checkpoint_of_test_py(tool, impacts, whole_model, tmp_path):
    options = [f'{name}={value}' for name, value in FEW_CLIPS.items()]
    out = tmp_path / 'figures.json'
    arguments = [CONFIG, whole_model[0], '--out', out, '--work-dir', tmp_path]
    tool('test.py', *arguments, '--cfg-options', f'data_root={impacts}', *options)
    assert '"retrieval/N": 4' in out.read_text()


@pytest.fixture
def runner(tmp_path):
    forget_runs()
    config = load_config(ROOT / CONFIG, FEW_CLIPS)
    config.work_dir = str(tmp_path / 'run')
    built = build_runner(config)
    # Hooks that follow the model start here.
    built.call_hook('before_run')
    return built


def test_load_from_takes_safetensors(runner, whole_model):
    file, state = whole_model
    runner.load_checkpoint(str(file))
    assert all(torch.equal(value, state[name]) for name, value in runner.model.state_dict().items())


def test_init_starts_parts_from_a_file_but_not_in_a_resumed_run(runner, whole_model, monkeypatch):
    file, state = whole_model
    monkeypatch.setattr(Runner, 'train', lambda self: self.model)
    runner.cfg.init = {'audio_backbone': str(file)}
    monkeypatch.setattr(runner, '_resume', True)
    before = runner.train().audio_backbone.stem.weight.clone()
    assert torch.equal(runner.model.audio_backbone.stem.weight, before)
    monkeypatch.setattr(runner, '_resume', False)
    given = {name: value for name, value in runner.train().state_dict().items() if name.startswith('audio_backbone.')}
    assert all(torch.equal(value, state[name]) for name, value in given.items())
    assert not torch.equal(runner.model.video_backbone.stem.weight, state['video_backbone.stem.weight'])
    runner.cfg.init = {'audio_trunk': str(file)}
    with pytest.raises(UserError, match="init names 'audio_trunk', which the model has not; its parts are"):
        runner.train()


def test_init_can_be_given_on_the_command_line():
    assert load_config(ROOT / CONFIG, {'init.audio_backbone': 'a.safetensors'}).init.audio_backbone == 'a.safetensors'


def test_weights_alone_are_no_run_to_resume(runner, whole_model, monkeypatch):
    monkeypatch.setattr(runner, '_resume', True)
    with pytest.raises(UserError, match='holds weights alone and no run to resume'):
        runner.load_checkpoint(str(whole_model[0]))


def test_a_config_inside_a_checkpoint_is_not_run_on_resume(runner, whole_model, monkeypatch, tmp_path):
    """MMEngine would: it compares the number of GPUs by running the config that the checkpoint was written with."""
    monkeypatch.setattr(runner, '_resume', True)
    hostile = {'state_dict': whole_model[1], 'message_hub': {}, 'meta': {'config': 'raise SystemExit(3)', 'epoch': 1}}
    torch.save(hostile, tmp_path / 'c.pth')
    assert runner.load_checkpoint(str(tmp_path / 'c.pth'))['meta'] == {'epoch': 1}
