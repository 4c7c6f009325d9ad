"""Every config resolves, builds its model, dumps and reloads; mistakes in configs are found and named."""

import argparse
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from gmscavp.engine.config import add_config_options, load_config
from gmscavp.errors import UserError
from gmscavp.registry import DATASETS, HOOKS, METRICS, MODELS, OPTIM_WRAPPERS, TRANSFORMS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted([*ROOT.glob('configs/*.py'), *ROOT.glob('projects/*/*_impacts.py')])
IMPACTS = ROOT / 'configs/gmscavp_impacts.py'


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize('path', CONFIGS, ids=names(CONFIGS))
def test_config_resolves_builds_dumps_and_reloads(path, tmp_path):
    config = load_config(path)
    dumped = tmp_path / 'dumped.py'
    config.dump(str(dumped))
    reloaded = load_config(dumped)
    assert reloaded.pretty_text == Config.fromfile(str(dumped)).pretty_text
    # What a run writes down must be what it can be built from again; built once, for the paper-scale models are large.
    assert sum(p.numel() for p in MODELS.build(reloaded.model).parameters()) > 0


def test_there_are_the_configs_that_the_readme_names():
    assert {path.stem for path in CONFIGS} >= {
        'gmscavp_impacts', 'cavp_impacts', 'gmscavp_folder', 'gmscavp_vggsound', 'debiased_impacts'
    }  # fmt: skip


@pytest.mark.parametrize('path', CONFIGS, ids=names(CONFIGS))
def test_the_baseline_and_ours_train_on_the_same_data_steps_and_seed(path):
    if not path.stem.endswith('_impacts'):
        pytest.skip('only the Impacts configs are compared with each other')
    config, ours = load_config(path), load_config(IMPACTS)
    if config.model.type != ours.model.type:
        pytest.skip('another task')
    if 'segments' in path.stem:
        # The same files, cut otherwise.
        for each in (config, ours):
            for part in ('train', 'val'):
                del each[f'{part}_dataloader'].dataset['window'], each[f'{part}_dataloader'].dataset['clip']
    for key in ('train_dataloader', 'val_dataloader', 'train_cfg', 'param_scheduler', 'randomness'):
        assert config[key] == ours[key], key


def test_a_list_that_the_command_line_cannot_hold_is_refused_in_words():
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    with pytest.raises(UserError, match='not of plain values'):
        parser.parse_args(['--cfg-options', 'custom_hooks=[dict(type=a,b=[1,2])]'])


def test_a_decay_by_depth_that_nothing_would_read_is_refused():
    with pytest.raises(UserError, match=r'needs optim_wrapper\.constructor'):
        load_config(IMPACTS, {'optim_wrapper.paramwise_cfg.layer_decay': 0.7})


PAPER_SCALE = [
    # config, segments of a video, the terms of its loss
    ('gmscavp_vggsound', 1, {'semantic', 'temporal', 'diffusion_v2a', 'diffusion_a2v'}),
    ('cavp_vggsound', 3, {'semantic', 'segment'}),
    ('diffgap_vggsound', 3, {'semantic', 'segment', 'diffusion_v2a', 'diffusion_a2v'}),
]


@pytest.mark.parametrize(('name', 'segments', 'terms'), PAPER_SCALE, ids=[case[0] for case in PAPER_SCALE])
def test_paper_scale_configs_take_a_step(name, segments, terms):
    """At 32 x 32 pixels and an eighth of the backbones' width; 720 windows a step over 8 GPUs."""
    torch.manual_seed(0)
    narrow = {'model.video_backbone.width': 8, 'model.audio_backbone.width': 8}
    config = load_config(ROOT / f'configs/{name}.py', narrow)
    assert 8 * config.train_dataloader.batch_size * segments == 720
    assert config.train_dataloader.dataset.window.get('segments', 1) == segments
    form = config.train_dataloader.dataset.clip
    frames, samples = round(form.duration_s * form.fps), round(form.duration_s * form.sample_rate)
    video = torch.randint(256, (2, segments, frames, 3, 32, 32), dtype=torch.uint8)
    audio = 0.1 * torch.randn(2, segments, samples)
    model = MODELS.build(config.model)
    losses = model(**model.data_preprocessor(dict(video=video, audio=audio), True), mode='loss')
    assert {key.removeprefix('loss_') for key in losses if 'loss' in key} == terms
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not without, 'DistributedDataParallel would wait for these for ever'


def test_every_registered_name_is_a_class_of_the_project():
    for registry in (DATASETS, HOOKS, METRICS, MODELS, OPTIM_WRAPPERS, TRANSFORMS):
        registry.import_from_location()
        assert registry.module_dict, registry.name
        for kind in registry.module_dict.values():
            # Other tests register stand-ins; their modules are top-level names where their folder is no package.
            assert kind.__module__.startswith(('gmscavp.', 'tests.', 'test_'))


def test_a_top_name_changes_wherever_it_is_used():
    config = load_config(IMPACTS, {'data_root': 'elsewhere', 'batch_size': 7, 'max_epochs': 2})
    assert [config[f'{part}_dataloader'].dataset.data_root for part in ('train', 'val', 'test')] == ['elsewhere'] * 3
    assert config.train_dataloader.batch_size == 7
    assert config.val_dataloader.batch_size == 32
    assert config.train_cfg.max_epochs == 2


def test_a_dotted_name_changes_only_its_place():
    config = load_config(IMPACTS, {'train_dataloader.dataset.data_root': 'x', 'custom_hooks.1.max_share': 0.5})
    assert config.train_dataloader.dataset.data_root == 'x'
    assert config.val_dataloader.dataset.data_root == 'data/impacts'
    assert config.custom_hooks[1].max_share == 0.5


def test_a_setting_that_the_class_knows_may_be_added():
    config = load_config(IMPACTS, {'model.head.per_scale': True, 'load_from': 'x.pth'})
    assert config.model.head.per_scale is True


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'data_rot': 'x'}, "--cfg-options data_rot: the config has no 'data_rot'. Did you mean data_root"),
        ({'model.haed.temporal_weight': 1}, "model has no 'haed'. Did you mean head"),
        ({'model.head.temporal_wieght': 1}, "model.head has no 'temporal_wieght'. Did you mean temporal_weight"),
        ({'train_dataloader.bach_size': 1}, "train_dataloader has no 'bach_size'. Did you mean batch_size"),
        ({'custom_hooks.9.max_share': 1}, "custom_hooks has no '9'"),
    ],
)
def test_misspelt_options_are_named(options, message):
    with pytest.raises(UserError, match=message.replace('.', r'\.')):
        load_config(IMPACTS, options)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        (
            "model['head'].update(temporal_wieght=1.0)",
            r'model\.head\.temporal_wieght: MultiScaleInfoNCE has no setting',
        ),
        ('train_dataloder = dict()', "'train_dataloder' is read by nothing. Did you mean train_dataloader"),
        ('val_dataloader.update(shuffel=True)', r'val_dataloader\.shuffel'),
        ("default_hooks['logger'].update(intervall=2)", r'default_hooks\.logger\.intervall: LoggerHook has no setting'),
        ('model = undefined_name', 'cannot be read: NameError'),
        ('model = (', 'cannot be read: SyntaxError'),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, line, message):
    path = tmp_path / 'mine.py'
    dumped = tmp_path / 'base.py'
    load_config(IMPACTS).dump(str(dumped))
    path.write_text(dumped.read_text() + '\n' + line + '\n')
    with pytest.raises(UserError, match=message):
        load_config(path)


def test_a_class_that_does_not_exist_is_named(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('from gmscavp.models import NoSuchHead\n\nmodel = dict(type=NoSuchHead)\n')
    with pytest.raises(UserError, match='NoSuchHead'):
        load_config(path)
    with pytest.raises(UserError, match='does not exist; the configs'):
        load_config(tmp_path / 'none.py')
