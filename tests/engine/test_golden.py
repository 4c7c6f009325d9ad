"""Checkpoints of every format that was ever released load, go on, and give the figures they gave.

tests/golden/format_<number>/ holds a run's checkpoint, the file exported from it, and the figures. When
gmscavp.compat.FORMAT grows, this makes those of the new one; those that are there stay as they are:

    python -m tests.engine.test_golden
"""

import json
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch.utils.data import Dataset

from gmscavp import __version__, compat
from gmscavp.compat import FORMAT, load_checkpoint_file
from gmscavp.engine.checkpoints import newest_checkpoint
from gmscavp.engine.runner import build_runner
from gmscavp.engine.trained import load_model
from gmscavp.errors import UserError
from gmscavp.registry import DATASETS

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / 'tests/golden'
FORMATS = sorted(GOLDEN.glob('format_*'))
CLIPS = 4


def clips():
    """Of a quarter of a second, the same for ever: arithmetic, no generator of random numbers."""
    pixels = torch.arange(CLIPS * 4 * 3 * 16 * 16).reshape(CLIPS, 4, 3, 16, 16)
    times, pitches = torch.arange(4000) / 16000, 300 * torch.arange(1, CLIPS + 1)[:, None]
    return dict(
        video=(pixels * pixels % 251).to(torch.uint8),
        audio=0.3 * torch.sin(2 * torch.pi * pitches * times),
        valid=torch.ones(CLIPS, dtype=torch.bool),
    )


@DATASETS.register_module()
class GoldenClips(Dataset):
    def __len__(self):
        return CLIPS

    def __getitem__(self, index):
        names = dict(clip_id=f'clip{index}', start_s=0.0, failures='')
        return {name: values[index] for name, values in clips().items()} | names


def config_of(work_dir, epochs, resume=None):
    """Two steps an epoch, of real parts, with all that a run keeps: moments, moving average, schedule, random numbers."""
    pyramid = dict(type='ConvPyramid', dim=8, lengths=[2, 1], kernels=[1, 3], grids=[1])
    return Config(
        dict(
            default_scope='gmscavp',
            work_dir=str(work_dir),
            model=dict(
                type='GMSCAVP',
                data_preprocessor=dict(type='ClipPreprocessor', n_fft=128, hop=125, bands=8),
                video_backbone=dict(type='TinyVideoNet', width=2, stages=1),
                audio_backbone=dict(type='TinyAudioNet', width=2, strides=[(2, 2)]),
                video_pyramid=dict(places='image', **pyramid),
                audio_pyramid=dict(places='bands', **pyramid),
                head=dict(type='MultiScaleInfoNCE'),
            ),
            train_dataloader=dict(
                dataset=dict(type='GoldenClips'),
                batch_size=2,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(type='StepOptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
            param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)],
            default_hooks=dict(
                runtime_info=dict(type='LossesHook'),
                param_scheduler=dict(type='UpdateSchedulerHook'),
                checkpoint=dict(type='SafeCheckpointHook', interval=1),
            ),
            custom_hooks=[dict(type='UpdateEMAHook', ema_type='ExponentialMovingAverage', momentum=0.3)],
            visualizer=dict(type='Visualizer', vis_backends=[]),
            randomness=dict(seed=0),
            resume=resume is not None,
            load_from=None if resume is None else str(resume),
        )
    )


def train(work_dir, epochs, resume=None):
    with pytest.MonkeyPatch.context() as patch:
        # Asking compilers for their versions takes longer than these runs.
        patch.setattr(Runner, '_log_env', lambda *_: None)
        build_runner(config_of(work_dir, epochs, resume)).train()
    return newest_checkpoint(work_dir)


def figures(file):
    """What a checkpoint's model makes of the clips."""
    model = load_model(config_of(Path('unused'), 1), file)
    with torch.no_grad():
        given = model.data_preprocessor(clips(), False)
        video, audio = given['video'], given['mel']
        losses = {name: float(value) for name, value in model.loss(video, audio).items() if value.ndim == 0}
        rows = dict(zip(('video', 'audio'), model.embed(video, audio), strict=True))
    return losses | {f'{side}_embedding': row[0].tolist() for side, row in rows.items()}


def export(source, out):
    sys.argv = ['export_checkpoint.py', str(source), '--out', str(out)]
    runpy.run_path(str(ROOT / 'tools/export_checkpoint.py'), run_name='__main__')


def demand_close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Other machines round otherwise.
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_there_is_one_of_this_format_and_all_are_small():
    assert [folder.name for folder in FORMATS] == [f'format_{number}' for number in range(1, FORMAT + 1)]
    for file in GOLDEN.glob('*/*'):
        assert file.stat().st_size < 150_000, 'kept in every copy of the repository'


@pytest.mark.parametrize('folder', FORMATS, ids=lambda folder: folder.name)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_it_gives_the_figures_that_it_gave(folder, suffix):
    file = folder / f'checkpoint{suffix}'
    expected = json.loads((folder / 'figures.json').read_text())
    assert load_checkpoint_file(file)['meta']['gmscavp_version'] == expected['gmscavp']
    demand_close(figures(file), expected['loaded'])


@pytest.mark.parametrize('folder', FORMATS, ids=lambda folder: folder.name)
def test_a_run_goes_on_from_it_as_it_went_on_then(folder, tmp_path):
    shutil.copy(folder / 'checkpoint.pth', tmp_path / 'epoch_1.pth')
    file = train(tmp_path, 2, resume=tmp_path / 'epoch_1.pth')
    assert load_checkpoint_file(file)['meta']['iter'] == 4
    demand_close(figures(file), json.loads((folder / 'figures.json').read_text())['gone_on'])


def newest_golden():
    return load_checkpoint_file(FORMATS[-1] / 'checkpoint.pth')


def written(checkpoint, file):
    if file.suffix == '.pth':
        torch.save(checkpoint, file)
    else:
        save_file(checkpoint['state_dict'], file, {k: str(v) for k, v in checkpoint['meta'].items() if 'gmscavp' in k})
    return file


@pytest.mark.parametrize('name', ['c.pth', 'c.safetensors'])
def test_one_of_a_newer_version_says_which(tmp_path, name):
    checkpoint = newest_golden()
    checkpoint['meta'].update(gmscavp_format=str(FORMAT + 1), gmscavp_version='7.8.9')
    with pytest.raises(UserError, match=f'made by gmscavp 7.8.9, this is {__version__}, .* update gmscavp'):
        figures(written(checkpoint, tmp_path / name))


@pytest.mark.parametrize('name', ['c.pth', 'c.safetensors'])
def test_one_of_before_there_were_formats_loads(tmp_path, name):
    checkpoint, expected = newest_golden(), figures(FORMATS[-1] / 'checkpoint.pth')
    for entry in compat.format_entries():
        del checkpoint['meta'][entry]
    assert figures(written(checkpoint, tmp_path / name)) == expected


def test_layouts_that_changed_are_converted_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(compat, 'FORMAT', 3)
    # Nothing changed from 1 to 2.
    monkeypatch.setattr(compat, '_CONVERSIONS', {0: lambda x: x | {'a': [0]}, 2: lambda x: x | {'a': [*x['a'], 2]}})
    torch.save({'state_dict': {}, 'meta': {}}, tmp_path / 'old.pth')
    assert load_checkpoint_file(tmp_path / 'old.pth')['a'] == [0, 2]
    torch.save({'a': [1], 'meta': {'gmscavp_format': '2'}}, tmp_path / 'newer.pth')
    assert load_checkpoint_file(tmp_path / 'newer.pth')['a'] == [1, 2]
    torch.save({'a': [1], 'meta': {'gmscavp_format': '3'}}, tmp_path / 'this.pth')
    assert load_checkpoint_file(tmp_path / 'this.pth')['a'] == [1]


@pytest.mark.parametrize('number', ['-1', 'new', '', 2.5, None, [1]])
def test_a_format_that_is_no_number_is_damage(tmp_path, number):
    torch.save({'state_dict': {}, 'meta': {'gmscavp_format': number}}, tmp_path / 'c.pth')
    with pytest.raises(UserError, match=r'c\.pth is damaged: its gmscavp_format is no number'):
        load_checkpoint_file(tmp_path / 'c.pth')


def test_metadata_of_others_is_left_alone(tmp_path):
    for meta in ('text', None, 3):
        torch.save({'state_dict': {}, 'meta': meta}, tmp_path / 'c.pth')
        assert load_checkpoint_file(tmp_path / 'c.pth')['meta'] == meta


def make():
    """Make the files of this format."""
    folder = GOLDEN / f'format_{FORMAT}'
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as place:
        first = train(Path(place, 'run'), 1)
        shutil.copy(first, folder / 'checkpoint.pth')
        export(first, folder / 'checkpoint.safetensors')
        loaded, gone_on = figures(first), figures(train(Path(place, 'run'), 2, resume=first))
    told = {'gmscavp': __version__, 'torch': torch.__version__, 'loaded': loaded, 'gone_on': gone_on}
    (folder / 'figures.json').write_text(json.dumps(told, indent=1) + '\n')


if __name__ == '__main__':
    make()
