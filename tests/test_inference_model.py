"""Runs opened as data, windows of files and arrays, and what is compared of them."""

import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from gmscavp.datasets import ClipFormat, read_clip
from gmscavp.engine.config import load_config
from gmscavp.errors import UserError
from gmscavp.inference import Model, Pictures, Sound, load
from gmscavp.inference.alignment import confidence, localise, peak, shifted, synchronise
from gmscavp.inference.runs import demand_own_types, plain_config
from gmscavp.inference.windows import window_starts
from gmscavp.models.heads import DenseHead
from gmscavp.registry import MODELS
from tests.generating import write_run
from tests.media import click, flash, moving, sine, write_media

SMALL = {
    'model.video_backbone.width': 4,
    'model.audio_backbone.width': 4,
    'model.video_pyramid.dim': 8,
    'model.audio_pyramid.dim': 8,
    'model.diffusion': None,
}
RATE = 16_000


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A folder as training leaves it, of an untrained model."""
    folder = tmp_path_factory.mktemp('run')
    config = load_config('configs/gmscavp_impacts.py', SMALL)
    torch.manual_seed(0)
    weights = MODELS.build(config.model).state_dict()
    torch.save({'state_dict': weights, 'meta': {'cfg': config.pretty_text}}, folder / 'epoch_1.pth')
    config.dump(folder / 'gmscavp_impacts.py')
    save_file(weights, folder / 'weights.safetensors')
    return folder


@pytest.fixture(scope='module')
def model(run):
    return Model.from_run(run, 'cpu')


@pytest.fixture(scope='module')
def film(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp('film') / 'a.mp4', moving((64, 64)), sine(), duration_s=9.0)


def test_a_folder_a_checkpoint_bare_weights_and_an_explicit_config_are_one_model(run, model):
    others = [Model.from_run(run / name, 'cpu') for name in ('epoch_1.pth', 'weights.safetensors')]
    others.append(load(load_config('configs/gmscavp_impacts.py', SMALL), run / 'epoch_1.pth', 'cpu'))
    assert {other.identity for other in others} == {model.identity}


def test_a_run_trained_without_tests_says_by_its_validation_what_clips_look_like(run, model, tmp_path):
    config = load_config('configs/gmscavp_impacts.py', {**SMALL, 'test_dataloader': None})
    weights = torch.load(run / 'epoch_1.pth')['state_dict']
    torch.save({'state_dict': weights, 'meta': {'cfg': config.pretty_text}}, tmp_path / 'epoch_1.pth')
    assert Model.from_run(tmp_path, 'cpu').identity == model.identity
    config.val_dataloader = None
    torch.save({'state_dict': weights, 'meta': {'cfg': config.pretty_text}}, tmp_path / 'epoch_1.pth')
    with pytest.raises(UserError, match='clip is missing'):
        Model.from_run(tmp_path, 'cpu')


def test_identity_is_of_what_embeddings_depend_on(run):
    changed = Model.from_run(run, 'cpu')
    with torch.no_grad():
        next(changed.model.video_pyramid.parameters()).flatten()[0] += 1e-3
    slower = Model.from_run(run, 'cpu')
    slower.clip = ClipFormat(**{**vars(slower.clip), 'fps': 2})
    other_reader = Model.from_run(run, 'cpu')
    other_reader.clip = ClipFormat(**{**vars(slower.clip), 'fps': 4, 'backend': 'decord'})
    same = Model.from_run(run, 'cpu')
    assert same.identity == other_reader.identity
    assert len({same.identity, changed.identity, slower.identity}) == 3


@pytest.mark.parametrize(
    'text',
    [
        "import os\nos.system('x')",
        "model = __import__('os').system('x')",
        'model = [x for x in (1,)]',
        'model = dict(',
        'x.y = 1',
    ],
)
def test_a_config_that_is_code_is_refused(text):
    with pytest.raises(UserError):
        plain_config(text, 'a.py')


@pytest.mark.parametrize(
    'kind', ['subprocess.Popen', 'gmscavp.compat.torch.hub.load', 'gmscavp.inference.load', 'builtins.exec']
)
def test_types_of_others_are_refused(kind):
    with pytest.raises(UserError, match='no class of gmscavp'):
        demand_own_types({'model': [dict(type='GMSCAVP', head=dict(type=kind))]}, 'a.py')


def test_plain_values_are_read_as_python_reads_them():
    text = "a = -1.5\nb = dict(c=[1, (2, None)], d=dict({'e.f': True}, g='h'))\ni = {'j': {}}"
    expected: dict = {}
    exec(text, {}, expected)
    assert plain_config(text, 'a.py') == expected


def test_a_hostile_run_folder_runs_nothing(run, tmp_path):
    (tmp_path / 'a.safetensors').write_bytes((run / 'weights.safetensors').read_bytes())
    (tmp_path / 'a.py').write_text(f"open('{tmp_path}/ran', 'w')\n")
    with pytest.raises(UserError, match='a config is code'):
        Model.from_run(tmp_path / 'a.safetensors', 'cpu')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
    ('stretch', 'stride', 'expected'),
    [
        ((0, 10), 2, [0, 2, 4, 6]),
        ((0, 9), 2, [0, 2, 4, 5]),
        ((1, 3), 2, [1]),
        ((0, 10.05), 3, [0, 3, 6]),
        ((0, 20), 9, [0, 9, 16]),
    ],
)
def test_windows_cover_a_stretch_to_its_end(stretch, stride, expected):
    assert window_starts(*stretch, 4.0, stride).tolist() == expected


def test_windows_are_what_the_model_says_of_each_clip(model, film):
    for side in ('video', 'audio'):
        found = model.windows(film, side)
        assert found.start_s.tolist() == [0, 2, 4, 5]
        assert found.end_s.tolist() == [4, 6, 8, 9]
        for k, start_s in enumerate(found.start_s.tolist()):
            clip = read_clip(film, start_s, 4.0, 4, 64, RATE, 'pyav')
            batch = model.model.data_preprocessor({'video': clip.video[None], 'audio': clip.audio[None]}, False)
            with torch.no_grad():
                pair = dict(zip(('video', 'audio'), model.model.embed(batch['video'], batch['mel']), strict=True))
            assert torch.allclose(found.fused[k], pair[side][0], atol=1e-5)


def test_fused_similarity_is_the_weighted_mean_over_scales(model, film):
    v, a = model.windows(film, 'video'), model.windows(film, 'audio')
    weights = model.model.head.scale_weights
    by_scale = [(x * y).sum(-1).mean(1) for x, y in zip(v.scales, a.scales, strict=True)]
    assert torch.allclose(
        (v.fused * a.fused).sum(1), sum(w * s for w, s in zip(weights, by_scale, strict=True)), atol=1e-5
    )


def test_batches_and_stretches_do_not_change_windows(model, film):
    for side in ('video', 'audio'):
        whole = model.windows(film, side, stride_s=1.3)
        single = torch.cat([w.fused for w in model.iter_windows(film, side, 1.3, batch=1)])
        assert torch.allclose(whole.fused, single, atol=1e-5)
        part = model.windows(film, side, start_s=2.0, end_s=8.0)
        assert torch.allclose(part.fused, model.windows(film, side).fused[1:3], atol=1e-5)


def test_short_files_are_filled_up_and_stills_are_one_window(model, tmp_path):
    short = write_media(tmp_path / 'a.mp4', moving((64, 64)), sine(), duration_s=1.0)
    for side in ('video', 'audio'):
        found = model.windows(short, side)
        assert found.start_s.tolist() == [0]
        assert found.end_s.item() == pytest.approx(1.0, abs=0.1)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), picture[..., ::-1])
    still = model.windows(tmp_path / 'a.png', 'video')
    array = model.windows(Pictures(np.repeat(picture[None], 16, 0), 4.0), 'video')
    assert still.end_s.tolist() == [4]
    assert torch.equal(still.fused, array.fused)
    with pytest.raises(UserError, match='no audio track'):
        model.windows(tmp_path / 'a.png', 'audio')


def test_files_and_arrays_share_batches_and_bad_ones_are_counted(model, film, tmp_path):
    (tmp_path / 'bad.mp4').write_bytes(b'no film')
    wave = read_clip(film, 0.0, 9.0, 4, 64, RATE, 'pyav').audio
    told = []
    files = [
        film,
        tmp_path / 'bad.mp4',
        Sound(wave, RATE),
        Sound(wave[: 4 * RATE].double(), RATE),
        Sound(wave[:0], RATE),
    ]
    found = model.embed(files, 'audio', batch=3, progress=lambda done, total: told.append((done, total)))
    assert found.source.tolist() == [0, 0, 0, 2, 2, 2, 3]
    assert found.start_s.tolist() == [0, 4, 5] * 2 + [0]
    assert torch.allclose(found.fused[:3], found.fused[3:6], atol=1e-4)
    assert torch.allclose(found.fused[0], found.fused[6], atol=1e-4)
    assert [failure.source for failure in found.failures] == [1, 4]
    assert told == [(k + 1, 5) for k in range(5)]
    with pytest.raises(UserError, match=r'bad\.mp4'):
        model.embed(files, 'audio', on_error='raise')
    with pytest.raises(UserError, match='none of 1 files'):
        model.embed([tmp_path / 'bad.mp4'], 'video')


def test_similarity_is_the_mean_over_windows_that_both_have(model, film):
    wave = read_clip(film, 0.0, 9.0, 4, 64, RATE, 'pyav').audio
    found = model.similarity([film], [film, Sound(wave[: 4 * RATE], RATE)])
    v, a = model.windows(film, 'video', 4.0), model.windows(film, 'audio', 4.0)
    own = (v.fused * a.fused).sum(1)
    # The last one begins within another.
    assert v.start_s.tolist() == [0, 4, 5]
    assert torch.allclose(found.fused[0], torch.stack([own[:2].mean(), own[0]]), atol=1e-4)
    weights = model.model.head.scale_weights
    joined = sum(w * s for w, s in zip(weights, found.scales, strict=True))
    assert torch.allclose(joined, found.fused, atol=1e-5)


def test_localise_covers_the_file_step_by_step(model, film):
    found = model.localise(film)
    assert torch.equal(found.start_s, 0.25 * torch.arange(36, dtype=torch.float64))
    assert found.end_s[-1] == pytest.approx(9.0, abs=0.05)
    v, a = (model.windows(film, side, 4.0, end_s=8.0).scales[0].flatten(0, 1) for side in ('video', 'audio'))
    assert torch.allclose(found.similarity[:32], (v * a).sum(1), atol=1e-5)
    assert found.heat is None
    with pytest.raises(UserError, match='scales 0'):
        model.localise(film, scale=5)
    with pytest.raises(UserError, match='makes neither sound nor video'):
        model.generate(film)


class Seer:
    """Tokens that tell how bright or how loud a step is, and nothing else."""

    video_pyramid = SimpleNamespace(lengths=[16])
    head = SimpleNamespace(takes_places=False)
    data_preprocessor = SimpleNamespace(log_mel=lambda wave: wave)

    def encode_video(self, video):
        return [self.tokens(video.mean(dim=(1, 3, 4)) > 0)]

    def encode_audio(self, wave):
        return [self.tokens(wave.unflatten(1, (16, -1)).abs().amax(2) > 0.1)]

    def tokens(self, on):
        return torch.stack([on, ~on], dim=2).float()


class Onlooker(Seer):
    """Tokens of every cell that tell how bright it is, beside a DenseHead."""

    head = DenseHead([16])

    def encode_video(self, video):
        cells = functional.avg_pool2d(video.mean(dim=1), 4).flatten(2)
        return [self.tokens(cells > 0).transpose(2, 3)]

    def encode_audio(self, wave):
        return [tokens[:, :, None] for tokens in super().encode_audio(wave)]


def run_of(model):
    """What is read of a trained run, around a stand-in for its model."""
    clip = ClipFormat(4.0, 4, 32, RATE, 'pyav')
    return SimpleNamespace(model=model, clip=clip, transforms=[], device='cpu', checkpoint='x', config=None)


def test_a_heat_map_lies_on_the_picture_at_its_time():
    # Six seconds: in the second window, which lies beside the first, only two are left.
    frames = np.zeros((24, 32, 32, 3), np.uint8)
    frames[6, 4:8, 20:24] = frames[21, 28:, :4] = 255
    loud = Sound(np.ones(6 * RATE, np.float32), RATE)
    found = localise(run_of(Onlooker()), Pictures(frames, 4), loud, 0, 8)
    assert found.heat.shape == (24, 8, 8)
    assert found.heat.nonzero().tolist() == [[6, 1, 5], [21, 7, 0]]
    assert found.similarity.nonzero().flatten().tolist() == [6, 21]


@pytest.mark.parametrize('late_s', [-0.5, 0.0, 0.75])
def test_synchronise_tells_how_late_the_sound_is(tmp_path, late_s):
    times = [1.0, 1.75, 3.0, 5.5]
    file = write_media(
        tmp_path / 'a.mp4', flash(times, 0.25, (32, 32)), click([t + late_s for t in times], 0.25), duration_s=7.0
    )
    seer = run_of(Seer())
    found = synchronise(seer, file, file, 1.0, 4, 8)
    assert found.offset_ms == pytest.approx(1000 * late_s, abs=130)
    assert found.confidence > 0.5
    with pytest.raises(UserError, match='max_shift_s'):
        synchronise(seer, file, file, 0.1, 4, 8)
    with pytest.raises(UserError, match='give longer files'):
        synchronise(seer, Pictures(np.zeros((2, 8, 8, 3), np.uint8), 4.0), file, 1.0, 4, 8)


def test_the_maths_of_a_shift():
    assert peak(-((torch.arange(9.0) - 3.3) ** 2)) == pytest.approx(3.3)
    assert peak(torch.arange(5.0)) == 4
    v, a = torch.arange(6), torch.arange(10, 15)
    for steps in range(-6, 7):
        here, there = shifted(v, a, steps)
        assert (there - 10 - here == steps).all()
        assert len(here) == sum(0 <= i + steps < 5 for i in range(6))
    shifts = torch.linspace(-1, 1, 17, dtype=torch.float64)
    sharp, flat = torch.zeros(17), torch.full((17,), 0.1)
    sharp[8] = 0.9
    assert confidence(shifts, sharp.double(), 0.0, 0.25) > 0.99
    assert confidence(shifts, flat.double(), 0.0, 0.25) < 0.01


def test_the_page_runs_from_top_to_bottom(run, film, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / 'docs/inference.md').read_text()
    (tmp_path / 'data/impacts/video').mkdir(parents=True)
    for name in 'abc':
        (tmp_path / f'data/impacts/video/{name}.mp4').symlink_to(film)
    (tmp_path / 'work_dirs/quickstart/v2a').mkdir(parents=True)
    (tmp_path / 'work_dirs/quickstart/epoch_1.pth').symlink_to(run / 'epoch_1.pth')
    write_run(tmp_path / 'work_dirs/quickstart/v2a')
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r'```python\n(.*?)```', page, re.S):
        exec(block, names)
    said = capsys.readouterr().out
    assert 'not_there.mp4: missing file' in said
    assert 'ms late, confidence' in said
    assert names['made'].waveforms.shape[0] == 2
