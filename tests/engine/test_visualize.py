"""The pictures of tools/visualize.py as a user asks for them."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from gmscavp.datasets import probe, read_clip
from gmscavp.datasets.encoding import write_clip
from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.engine.config import load_config
from gmscavp.models import DenseHead
from gmscavp.registry import MODELS

ROOT = Path(__file__).parents[2]
CONFIGS = ('dense_impacts', 'gmscavp_impacts')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A few clips, and a checkpoint of each config without training."""
    root = tmp_path_factory.mktemp('visualize')
    render_impacts(root / 'impacts', train=1, test=3, workers=1, progress=False)
    torch.manual_seed(0)
    for name in CONFIGS:
        model = MODELS.build(load_config(ROOT / f'configs/{name}.py').model)
        torch.save({'state_dict': model.state_dict()}, root / f'{name}.pth')
    return root


@pytest.fixture
def visualize(folder, monkeypatch, capsys):
    """Run the tool in this process; return its exit code and what it printed."""

    def run(picture, *arguments):
        monkeypatch.setattr(sys, 'argv', ['visualize.py', picture, *map(str, arguments)])
        capsys.readouterr()
        try:
            runpy.run_path(str(ROOT / 'tools/visualize.py'), run_name='__main__')
        except SystemExit as ended:
            code = ended.code
        else:
            code = 0
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def model_of(folder, name):
    return ROOT / f'configs/{name}.py', folder / f'{name}.pth'


def video_of(folder, number=0):
    return sorted((folder / 'impacts/video').glob('*.mp4'))[number]


def picture(file):
    return cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)


def planted(row, column, window):
    """Stand in for DenseHead.heat_map: heat in one cell while one window lasts."""

    def heat_map(self, video, audio):
        heat = torch.zeros(len(video), 16, 8, 8)
        heat[:, window, row, column] = 1.0
        return heat

    return heat_map


def test_heat_lies_over_its_cell_and_moment_and_the_sound_is_kept(folder, visualize, tmp_path, monkeypatch):
    monkeypatch.setattr(DenseHead, 'heat_map', planted(1, 6, 8))
    video, out = video_of(folder), tmp_path / 'heat.mp4'
    arguments = ['--video', video, '--out', out, '--size', 128]
    code, said = visualize('heatmap', *model_of(folder, 'dense_impacts'), *arguments)
    assert (code, '0.00 to 4.00 s of 4.00 s' in said) == (0, True)
    assert probe(out).duration_s == pytest.approx(4.0, abs=0.1)
    assert probe(out).fps == pytest.approx(16)
    before, after = (read_clip(file, 0.0, 4.0, 16, 128, 16000, 'pyav') for file in (video, out))
    change = (after.video.float() - before.video.float()).abs().mean(1)
    cells = torch.nn.functional.avg_pool3d(change[None, None], (4, 16, 16))[0, 0]
    assert np.unravel_index(cells.argmax(), cells.shape) == (8, 1, 6)
    assert cells[:6].max() < 0.3 * cells.max()
    both = torch.corrcoef(torch.stack([before.audio, after.audio]))
    assert both[0, 1] > 0.97


def test_a_longer_file_is_drawn_window_by_window_and_cut_as_the_model_sees_it(folder, visualize, tmp_path):
    """9 s of 96 x 64: two windows of 4 s, and the middle square for a model that takes squares."""
    rng = np.random.default_rng(0)
    long = tmp_path / 'long.mp4'
    frames = rng.integers(0, 255, (9 * 8, 64, 96, 3), dtype=np.uint8)
    write_clip(long, frames, 8, (0.1 * rng.standard_normal(9 * 16000)).astype(np.float32), 16000)
    config = load_config(ROOT / 'configs/dense_impacts.py')
    config.test_dataloader.dataset.transforms = [dict(type='CentreCrop', size=64)]
    config.dump(str(tmp_path / 'cropped.py'))
    model = tmp_path / 'cropped.py', folder / 'dense_impacts.pth'
    out = tmp_path / 'long_heat.mp4'
    arguments = [*model, '--video', long, '--out', out, '--size', 64]
    code, said = visualize('heatmap', *arguments)
    assert (code, '0.00 to 8.00 s of 9.00 s' in said) == (0, True)
    info = probe(out)
    assert (info.width, info.height) == (64, 64)
    assert info.duration_s == pytest.approx(8.0, abs=0.1)
    sheet = tmp_path / 'sheet.png'
    arguments = [*model, '--video', long, '--out', sheet, '--start', 4.5, '--size', 64]
    code, said = visualize('heatmap', *arguments)
    assert (code, '4.50 to 8.50 s' in said) == (0, True)
    assert picture(sheet).shape[1] == 800


@pytest.mark.parametrize('name', CONFIGS)
def test_similarity_says_the_mean_cosine_of_every_scale(folder, visualize, tmp_path, name):
    out = tmp_path / 'similarity.png'
    arguments = ['--video', video_of(folder), '--audio', video_of(folder, 1), '--out', out]
    code, said = visualize('similarity', *model_of(folder, name), *arguments)
    assert code == 0
    assert picture(out).shape == (560, 960, 3)
    config = load_config(ROOT / f'configs/{name}.py')
    model = MODELS.build(config.model)
    model.load_state_dict(torch.load(folder / f'{name}.pth')['state_dict'])
    clips = [read_clip(video_of(folder, k), 0.0, 4.0, 4, 64, 16000, 'pyav') for k in (0, 1)]
    batch = model.data_preprocessor(dict(video=clips[0].video[None], audio=clips[1].audio[None]), False)
    v, a = model.encode_video(batch['video']), model.encode_audio(batch['mel'])
    if name == 'dense_impacts':
        expected = [model.head.heat_map(v[0], a[0]).flatten(2).amax(2).mean()]
    else:
        expected = [torch.nn.functional.cosine_similarity(x, y, dim=-1).mean() for x, y in zip(v, a, strict=True)]
    assert ', '.join(f'scale {s} {x.item():.3f}' for s, x in enumerate(expected)) in said


@pytest.mark.parametrize('name', CONFIGS)
def test_embeddings_of_the_test_set_lie_on_a_plane(folder, visualize, tmp_path, name):
    out = tmp_path / 'plane.png'
    options = ['--cfg-options', f'data_root={folder / "impacts"}', 'num_workers=0', 'test_dataloader.dataset.clips=6']
    code, said = visualize('embeddings', *model_of(folder, name), '--clips', 4, '--out', out, *options)
    assert (code, '4 of the 6 clips of the test set' in said) == (0, True)
    assert picture(out).std() > 5


def test_curves_of_several_runs_in_one_picture(folder, visualize, tmp_path):
    for run, start in (('a', 3.0), ('b', 2.0)):
        data = tmp_path / run / '20260101_000000' / 'vis_data'
        data.mkdir(parents=True)
        lines = [{'loss_semantic': start / (k + 1), 'retrieval/N': 8.0, 'iter': k, 'step': k} for k in range(9)]
        (data / 'scalars.json').write_text('\n'.join(json.dumps(line) for line in lines))
    out = tmp_path / 'curves.png'
    code, said = visualize('curves', tmp_path / 'a', tmp_path / 'b', '--out', out)
    assert (code, '1 curves of 2 runs' in said) == (0, True)
    assert picture(out).std() > 5
    code, said = visualize('curves', tmp_path, '--out', out)
    assert (code, 'holds no logged curves' in said) == (2, True)


def test_mistakes_end_with_one_sentence(folder, visualize, tmp_path):
    video, out = video_of(folder), tmp_path / 'x.mp4'
    dense, ours = (model_of(folder, name) for name in CONFIGS)
    rows = [
        ((*ours, '--video', video), 'train a model with DenseHead, for example configs/dense_impacts.py'),
        ((dense[0], ours[1], '--video', video), 'is of another model than the config'),
        ((dense[0], tmp_path / 'none.pth', '--video', video), 'there is no checkpoint at'),
        ((*dense, '--video', tmp_path / 'none.mp4'), 'none.mp4: missing file'),
        ((*dense, '--video', video, '--start', 2), 'the model takes windows of 4 s'),
        ((*dense, '--video', video, '--duration', 'nan'), 'is not a number of seconds'),
        ((*dense, '--video', folder / 'impacts/manifest.csv'), 'not a media file'),
    ]
    for arguments, message in rows:
        code, said = visualize('heatmap', *arguments, '--out', out)
        assert code == 2, (arguments, said)
        assert message in said.splitlines()[-1]
        assert 'Traceback' not in said
    code, said = visualize('heatmap', *dense, '--video', video, '--out', tmp_path / 'x.gif')
    assert (code, 'must end in .mp4 or .png' in said) == (2, True)
    assert not out.exists()
