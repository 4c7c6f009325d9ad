"""The tools as a user runs them: train, resume, test, two processes, and wrong input."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.engine import runner
from gmscavp.engine.config import load_config
from gmscavp.errors import UserError
from tests.hostile import Payload
from tests.running import refusal_of, tool

ROOT = Path(__file__).parents[2]
# The whole path in seconds: few clips, coarse frames, the narrowest nets.
SMALL = [
    'batch_size=4',
    'num_workers=0',
    'clip.size=32',
    'train_dataloader.dataset.clip.size=32',
    'val_dataloader.dataset.clip.size=32',
    'val_dataloader.dataset.clips=8',
    'test_dataloader.dataset.clip.size=32',
    'test_dataloader.dataset.clips=8',
    'model.video_backbone.width=4',
    'model.audio_backbone.width=4',
    'model.video_pyramid.dim=8',
    'model.audio_pyramid.dim=8',
    'model.video_pyramid.grids=[1,2]',
    'model.diffusion.denoiser.width=16',
    'max_epochs=2',
    'val_interval=1',
]
CAVP = [option for option in SMALL if 'grids' not in option and 'diffusion' not in option]


@pytest.fixture(scope='module')
def impacts(tmp_path_factory):
    return render_impacts(tmp_path_factory.mktemp('data') / 'impacts', train=12, test=8, workers=1, progress=False)


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a tool in this process, which is faster than a new one, and return its one sentence of refusal."""

    def run(name, *arguments):
        code, _, said = refusal_of(monkeypatch, capsys, name, *arguments)
        assert code == 2
        assert 'Traceback' not in said
        assert said.startswith('gmscavp: ')
        assert len(said.strip().splitlines()) == 1
        return said

    return run


@pytest.fixture(scope='module')
def run(impacts, tmp_path_factory):
    """A finished run of two epochs."""
    work_dir = tmp_path_factory.mktemp('run')
    out = tool('train.py', 'configs/gmscavp_impacts.py', '--work-dir', work_dir, *options(impacts))
    return work_dir, out


def options(data_root, extra=(), base=SMALL):
    return ['--cfg-options', f'data_root={data_root}', *base, *extra]


def test_training_logs_every_term_and_writes_its_checkpoints(run):
    work_dir, out = run
    for term in (
        'loss_semantic',
        'loss_temporal',
        'loss_diffusion_v2a',
        'loss_diffusion_a2v',
        'logit_scale',
        'grad_norm',
    ):
        assert term in out
    names = {path.name for path in work_dir.iterdir()}
    assert {'epoch_1.pth', 'epoch_2.pth', 'last_checkpoint', 'bad_clips.json'} <= names
    assert any(name.startswith('best_retrieval_mean_R1') for name in names)
    scalars = next(work_dir.glob('*/vis_data/scalars.json')).read_text()
    assert 'retrieval/chance_R1' in scalars
    assert next(work_dir.glob('*/vis_data/events.out.tfevents*'), None)
    pictures = {path.name.split('_')[0] for path in work_dir.glob('*/vis_data/vis_image/**/*.png')}
    assert {'similarity', 'mel'} <= pictures


def test_resume_goes_on_where_it_was_and_a_finished_run_is_left_alone(run, impacts, tmp_path):
    work_dir = tmp_path / 'copy'
    shutil.copytree(run[0], work_dir)
    out = tool('train.py', 'configs/gmscavp_impacts.py', '--work-dir', work_dir, '--resume', *options(impacts))
    assert 'Saving checkpoint' not in out
    out = tool(
        'train.py',
        'configs/gmscavp_impacts.py',
        '--work-dir',
        work_dir,
        '--resume',
        *options(impacts, ['max_epochs=3']),
    )
    assert 'Saving checkpoint at 3 epochs' in out
    assert 'Saving checkpoint at 2 epochs' not in out
    out = tool(
        'train.py',
        'configs/gmscavp_impacts.py',
        '--work-dir',
        work_dir,
        '--resume',
        work_dir / 'epoch_1.pth',
        *options(impacts),
    )
    assert 'Saving checkpoint at 2 epochs' in out
    assert 'Saving checkpoint at 1 epochs' not in out


def test_test_repeats_the_figures_of_validation_and_writes_the_report(run, impacts, tmp_path):
    work_dir, _ = run
    out, report = tmp_path / 'metrics.json', tmp_path / 'sub' / 'report.html'
    said = tool('test.py', 'configs/gmscavp_impacts.py', work_dir, '--out', out, '--report', report, *options(impacts))
    assert 'chance' in said
    figures = json.loads(out.read_text())
    lines = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    validation = [json.loads(line) for line in lines if 'retrieval/' in line][-1]
    for name, value in figures['metrics'].items():
        assert value == pytest.approx(validation[name]), name
    assert figures['facts']['seed'] == '0'
    page = report.read_text()
    assert 'loss_semantic' in page
    assert not re.search(r'(src|href)="https?:', page)


def test_a_protocol_tests_other_clips_and_says_which(run, impacts, tmp_path):
    out, picture = tmp_path / 'metrics.json', tmp_path / 'sub' / 'similarity.png'
    own = [option for option in options(impacts) if not option.startswith('test_dataloader')]
    own += [f'test_dataloader.dataset.dataset.{option}' for option in ('clips=8', 'clip.size=32')]
    asked = ['--protocol', 'configs/retrieval/impacts_temporal.py', '--out', out, '--picture', picture]
    said = tool('test.py', 'configs/gmscavp_impacts.py', run[0], *asked, *own)
    assert 'Impacts, temporal: found 8 of 8 listed clips, compared 8; sha256:' in said
    told = json.loads(out.read_text())
    assert told['gallery']['compared'] == told['metrics']['retrieval/labelled'] == 8
    # Scales come from the model, which a hook lends to the metric.
    assert [scale['steps'] for scale in told['scales']] == [16, 8, 4, 2, 1]
    low, high = told['intervals']['mean_R1']
    assert low <= told['metrics']['retrieval/mean_R1'] <= high
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_amp_trains_too(impacts, tmp_path):
    out = tool(
        'train.py', 'configs/gmscavp_impacts.py', '--work-dir', tmp_path, '--amp', *options(impacts, ['max_epochs=1'])
    )
    assert 'nan' not in out.lower().split('epoch(train)', 1)[1]


def test_two_processes_train_and_test(impacts, tmp_path):
    env = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable}
    env.pop('PORT', None)

    def script(*arguments):
        command = ['bash', *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    few = options(impacts, ['max_epochs=1', 'batch_size=3'])
    out = script('tools/dist_train.sh', 'configs/gmscavp_impacts.py', 2, '--work-dir', tmp_path / 'two', *few)
    assert re.search(r'Distributed training: True', out)
    assert len(re.findall(r'Saving checkpoint at 1 epochs', out)) == 1
    metrics = tmp_path / 'm.json'
    script('tools/dist_test.sh', 'configs/gmscavp_impacts.py', tmp_path / 'two', 2, '--out', metrics, *few)
    together = json.loads(metrics.read_text())['metrics']
    tool('test.py', 'configs/gmscavp_impacts.py', tmp_path / 'two', '--out', metrics, *few)
    alone = json.loads(metrics.read_text())['metrics']
    assert together == pytest.approx(alone)


def test_a_mistake_under_two_processes_ends_without_a_traceback(tmp_path):
    env = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable}
    command = ['bash', 'tools/dist_train.sh', 'configs/gmscavp_impacts.py', '2', '--work-dir', str(tmp_path)]
    command += ['--cfg-options', 'data_root=nowhere']
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert 'gmscavp: nowhere holds no Impacts' in done.stderr
    assert 'Traceback' not in done.stderr


def test_two_ranks_start_only_under_their_launcher(impacts, refused):
    said = refused('train.py', 'configs/gmscavp_impacts.py', '--launcher', 'pytorch', *options(impacts))
    assert 'tools/dist_train.sh' in said
    said = refused('train.py', 'configs/gmscavp_impacts.py', '--launcher', 'slurm', *options(impacts))
    assert 'tools/slurm_train.sh' in said


def test_too_few_clips_for_a_batch_is_said(impacts, tmp_path, refused):
    said = refused(
        'train.py', 'configs/gmscavp_impacts.py', '--work-dir', tmp_path, *options(impacts, ['batch_size=13'])
    )
    assert '12 training clips do not fill one batch of 13' in said


def test_too_many_bad_clips_stop_the_run(impacts, tmp_path):
    root = tmp_path / 'broken'
    shutil.copytree(impacts, root)
    files = sorted((root / 'video').glob('*.mp4'))
    for file in files[::2]:
        file.write_bytes(file.read_bytes()[:300])
    said = tool(
        'train.py',
        'configs/gmscavp_impacts.py',
        '--work-dir',
        tmp_path / 'w',
        *options(root, ['custom_hooks.1.min_clips=4', 'max_epochs=20']),
        code=2,
    ).splitlines()[-1]
    assert 'clips could not be read (most often: ' in said
    assert 'max_share' in said
    causes = json.loads((tmp_path / 'w' / 'bad_clips.json').read_text())
    assert sum(len(named) for named in causes.values()) >= 1


def test_a_few_bad_clips_are_counted_and_reported(impacts, tmp_path):
    root = tmp_path / 'some'
    shutil.copytree(impacts, root)
    rows = (root / 'manifest.csv').read_text().splitlines()
    bad = next(row.split(',')[1] for row in rows if ',test,' in row)
    (root / bad).write_bytes(b'')
    out, report = tmp_path / 'm.json', tmp_path / 'r.html'
    few = options(root, ['max_epochs=1', 'custom_hooks.1.max_share=1.0'])
    tool('train.py', 'configs/gmscavp_impacts.py', '--work-dir', tmp_path / 'w', *few)
    tool('test.py', 'configs/gmscavp_impacts.py', tmp_path / 'w', '--out', out, '--report', report, *few)
    figures = json.loads(out.read_text())['metrics']
    assert (figures['retrieval/skipped'], figures['retrieval/N']) == (1, 7)
    assert 'empty file' in report.read_text()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['train.py', 'configs/none.py'], 'configs/none.py does not exist'),
        (['train.py', 'configs/gmscavp_impacts.py', '--cfg-options', 'data_root=nowhere'], 'nowhere holds no Impacts'),
        (['train.py', 'configs/gmscavp_folder.py', '--cfg-options', 'data_root=nowhere'], 'nowhere does not exist'),
        (['train.py', 'configs/gmscavp_vggsound.py', '--cfg-options', 'data_root=docs'], 'vggsound.csv does not exist'),
        (['train.py', 'configs/gmscavp_impacts.py', '--cfg-options', 'model.haed=1'], "model has no 'haed'"),
        (['train.py', 'configs/gmscavp_impacts.py', '--cfg-options', 'nonsense'], 'KEY=VALUE'),
        (['test.py', 'configs/gmscavp_impacts.py', 'none.pth'], 'there is no checkpoint at none.pth'),
        (['test.py', 'configs/gmscavp_impacts.py', 'docs'], 'there is no checkpoint at docs'),
        (['print_config.py', 'configs/_base_/nothing.py'], 'does not exist'),
    ],
)
def test_mistakes_end_with_one_sentence(arguments, message, tmp_path, refused):
    name, *rest = arguments
    if name == 'train.py':
        rest += ['--work-dir', tmp_path]
    assert message in refused(name, *rest)


def test_a_checkpoint_of_another_model_is_refused_by_name(run, impacts, refused):
    said = refused('test.py', 'configs/cavp_impacts.py', run[0], *options(impacts, base=CAVP))
    assert 'is of another model than the config' in said
    wider = options(impacts, ['model.video_backbone.width=8'])
    said = refused('test.py', 'configs/gmscavp_impacts.py', run[0], *wider)
    assert 'of another shape (for example' in said


def test_a_hostile_checkpoint_runs_nothing(impacts, tmp_path, refused):
    torch.save({'state_dict': {}, 'x': Payload(tmp_path / 'mark')}, tmp_path / 'evil.pth')
    for name, flag in (('test.py', []), ('train.py', ['--resume'])):
        said = refused(name, 'configs/gmscavp_impacts.py', *flag, tmp_path / 'evil.pth', *options(impacts))
        assert 'is refused' in said
    assert not (tmp_path / 'mark').exists()


def test_the_flag_shows_the_traceback():
    command = [sys.executable, 'tools/train.py', 'configs/none.py', '--traceback']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert 'Traceback' in done.stderr


def test_no_disk_space_is_said_before_training(impacts, tmp_path, monkeypatch):
    pairs = dict(option.split('=', 1) for option in SMALL if '[' not in option)
    settings = {key: int(value) if value.isdigit() else value == 'True' for key, value in pairs.items()}
    config = load_config(ROOT / 'configs/gmscavp_impacts.py', {'data_root': str(impacts)} | settings)
    config.work_dir = str(tmp_path)
    built = runner.build_runner(config)
    monkeypatch.setattr(runner.shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(UserError, match='free disk space'):
        built.train()


def test_a_busy_port_is_said_before_anything_starts():
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        env = os.environ | {'PORT': str(taken.getsockname()[1]), 'PYTHON': sys.executable}
        command = ['bash', 'tools/dist_train.sh', 'configs/gmscavp_impacts.py', '2']
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert 'port' in done.stderr.lower()
    assert 'Traceback' not in done.stderr
