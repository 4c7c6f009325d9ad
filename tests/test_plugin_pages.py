"""docs/plugins.md: for every registry a worked plug-in of two files, each run here as it stands on the page.

The files are written into a folder that the package `projects` is extended by, beside a link to configs/. What is proved of
each: its config loads, the object that the runner would build is built and is of the class on the page, and it does what it
is for.
"""

import operator
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import projects
from gmscavp import registry
from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.engine.config import load_config
from gmscavp.models import Sampling
from gmscavp.registry import DATA_SAMPLERS, DATASETS, EMBEDDERS, HOOKS, METRICS, MODELS, TRANSFORMS, Registry
from gmscavp.structures import Clip
from tests.documents import ROOT, blocks, python_blocks
from tests.models.builders import tiny_batch

PAGE = ROOT / 'docs/plugins.md'
REGISTRIES = {name for name, value in vars(registry).items() if isinstance(value, Registry) and name.isupper()}


def files_of(page):
    """{path: text} of the Python blocks of a page that name their file in the first line."""
    named = {}
    for text in python_blocks(page):
        if first := re.match(r'# (projects/\S+\.py)\n', text):
            named[first[1]] = text
    return named


FILES = files_of(PAGE)


@pytest.fixture(scope='module')
def worked(tmp_path_factory):
    """A function from a plug-in's folder to its config, its class and its module."""
    root = tmp_path_factory.mktemp('plugins')
    (root / 'configs').symlink_to(ROOT / 'configs')
    for name, text in FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    projects.__path__.insert(0, str(root / 'projects'))

    def load(folder, **options):
        config = load_config(root / f'projects/{folder}/{folder}_impacts.py', options)
        module = sys.modules[f'projects.{folder}.{folder}']
        own = [value for value in vars(module).values() if getattr(value, '__module__', '') == module.__name__]
        return config, own[0]

    yield load
    projects.__path__.remove(str(root / 'projects'))
    for name in [name for name in sys.modules if name.startswith('projects.my_')]:
        del sys.modules[name]


def learn(model, batch=None):
    """One loss and its gradient: the model's total, and every parameter that got none."""
    batch = batch or tiny_batch(clips=3) | dict(
        video=torch.randint(256, (3, 16, 3, 64, 64), dtype=torch.uint8), audio=0.1 * torch.randn(3, 64000)
    )
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total = sum(value for name, value in losses.items() if 'loss' in name)
    total.backward()
    return total.item(), [name for name, weight in model.named_parameters() if weight.grad is None]


def test_every_registry_has_a_section_with_its_two_files():
    sections = dict(re.findall(r'^## ([A-Z_]+)\n(.*?)(?=^## |\Z)', PAGE.read_text(), re.MULTILINE | re.DOTALL))
    assert set(sections) == REGISTRIES
    for kind, text in sections.items():
        assert f'@{kind}.register_module()' in text
        assert len(re.findall(r'^# projects/', text, re.MULTILINE)) == 2, kind
    table = re.findall(r'\| \[([A-Z_]+)\]\(#([a-z_]+)\) \|', PAGE.read_text())
    assert {kind for kind, _ in table} == REGISTRIES
    assert all(anchor == kind.lower() for kind, anchor in table)


def test_every_python_block_of_the_page_is_one_of_these_files():
    assert len(FILES) == sum(block.language == 'python' for block in blocks(PAGE)) == 2 * len(REGISTRIES)


@pytest.mark.parametrize(
    ('folder', 'where'),
    [
        ('my_backbone', 'video_backbone'),
        ('my_pyramid', 'audio_pyramid'),
        ('my_head', 'head'),
        ('my_denoiser', 'diffusion.denoisers.v2a'),
        ('my_noise_scheduler', 'diffusion.scheduler'),
        ('my_model', ''),
    ],
)
def test_a_part_of_pretraining_learns(worked, folder, where):
    config, own = worked(folder)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    assert type(operator.attrgetter(where)(model) if where else model) is own
    loss, untouched = learn(model)
    assert np.isfinite(loss)
    assert loss > 0
    assert [name for name in untouched if 'backbone' in name or name.startswith(where or 'loudness')] == []


def test_the_circle_keeps_its_variance_and_its_inverse(worked):
    _, own = worked('my_noise_scheduler')
    scheduler, u = own(), torch.rand(100) * 0.98 + 0.01
    alpha, sigma = scheduler.alpha_sigma(u)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(100))
    torch.testing.assert_close(scheduler.time_at_level(sigma / alpha), u)
    assert scheduler.grid(10)[-1] == 0


@pytest.mark.parametrize('folder', ['my_sampler', 'my_codec', 'my_vocoder'])
def test_a_part_of_generation_makes_sound(worked, folder):
    small = {'model.denoiser.width': 48, 'model.denoiser.depth': 1, 'model.vocoder.iterations': 1}
    if folder == 'my_vocoder':
        del small['model.vocoder.iterations']
    config, own = worked(folder, **small)
    torch.manual_seed(0)
    model = MODELS.build(config.model).eval()
    assert type(getattr(model, folder.removeprefix('my_'))) is own
    mel = model.generate(torch.rand(1, 3, 64, 64, 64) * 2 - 1, Sampling(steps=2, guidance=1.0))
    assert mel.shape == (1, 1, 256, 64)
    sound = model.sound(mel)
    assert sound.shape == (1, 64000)
    assert sound.abs().max() <= 1
    if folder == 'my_codec':
        assert torch.equal(mel[:, :, ::2], mel[:, :, 1::2])


def test_the_judge_tells_low_from_high(worked):
    config, own = worked('my_embedder')
    judge = EMBEDDERS.build(config.test_evaluator.embedders.octaves)
    assert type(judge) is own
    low, high = (torch.sin(2 * torch.pi * hz * torch.arange(16000) / 16000) + 0.01 * torch.randn(8, 16000)
                 for hz in (300, 5000))  # fmt: skip
    (a, scores), (b, _) = judge(low, 16000), judge(high, 16000)
    assert scores is None
    assert a.argmax(dim=1).tolist() == [4] * 8
    assert b.argmax(dim=1).tolist() == [0] * 8


def test_the_data_set_reads_what_its_list_names(worked, tmp_path):
    root = render_impacts(tmp_path / 'impacts', train=3, test=2, workers=1, progress=False)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob('*.mp4'))
    (tmp_path / 'list.txt').write_text('\n'.join(names[:2]))
    config, own = worked('my_dataset')
    settings = dict(config.train_dataloader.dataset) | dict(list_file=str(tmp_path / 'list.txt'), data_root=str(root))
    dataset = DATASETS.build(settings)
    assert type(dataset) is own
    assert [dataset[i]['clip_id'] for i in range(len(dataset))] == names[:2]


def test_the_transform_takes_the_colour_off_and_draws_by_the_generator(worked):
    config, own = worked('my_transform')
    grey = TRANSFORMS.build(config.train_dataloader.dataset.transforms[1])
    assert type(grey) is own
    clip = Clip(torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8), torch.zeros(100))
    made = [grey(clip, np.random.default_rng(seed)).video for seed in range(200)]
    changed = [video for video in made if not torch.equal(video, clip.video)]
    assert all(torch.equal(video[:, 0], video[:, 2]) for video in changed)
    assert 40 <= len(changed) <= 80
    assert torch.equal(made[3], grey(clip, np.random.default_rng(3)).video)


def test_the_data_sampler_shares_out_all_clips_in_order(worked, monkeypatch):
    config, own = worked('my_data_sampler')
    orders = []
    for rank in range(3):
        monkeypatch.setattr(sys.modules[own.__module__], 'world', lambda rank=rank: (rank, 3))
        sampler = DATA_SAMPLERS.build(
            dict(config.train_dataloader.sampler), default_args=dict(dataset=range(11), seed=0)
        )
        orders.append(list(sampler))
        assert len(sampler) == len(orders[-1])
    assert [clip for turn in zip(*orders, strict=True) for clip in turn] == list(range(9))


def test_the_metric_knows_right_pairs(worked):
    config, own = worked('my_metric')
    metric = METRICS.build(config.val_evaluator[1])
    assert type(metric) is own
    unit = torch.eye(4)
    metric.process(None, [dict(valid=True, video_embedding=v, audio_embedding=v) for v in unit])
    metric.process(None, [dict(valid=False, video_embedding=unit[0], audio_embedding=-unit[0])])
    assert metric.evaluate(5) == pytest.approx({'pairs/similarity': 1.0, 'pairs/ahead': 0.75})


def test_the_hook_raises_the_weight_step_by_step(worked):
    config, own = worked('my_hook')
    hook = HOOKS.build(dict(config.custom_hooks[-1]))
    assert type(hook) is own
    head = SimpleNamespace(temporal_weight=1.0)
    seen = []
    for step in range(60):
        hook.before_train_iter(SimpleNamespace(model=SimpleNamespace(head=head), iter=step), step)
        seen.append(head.temporal_weight)
    assert seen[0] == pytest.approx(0.004)
    assert seen[49:] == pytest.approx([0.2] * 11)


def test_the_optimiser_wrapper_centres_gradients_and_keeps_the_guard(worked):
    config, own = worked('my_optim_wrapper')
    layer = torch.nn.Linear(5, 3)
    wrapper = own(torch.optim.SGD(layer.parameters(), lr=1.0))
    assert config.optim_wrapper.type is own
    before = layer.weight.detach().clone()
    with wrapper.optim_context(layer):
        loss = layer(torch.rand(7, 5)).square().sum()
    wrapper.update_params(loss)
    moved = layer.weight.detach() - before
    assert moved.abs().max() > 0
    torch.testing.assert_close(moved.mean(dim=1), torch.zeros(3), atol=1e-6, rtol=0)
    before = layer.weight.detach().clone()
    with wrapper.optim_context(layer):
        loss = layer(torch.rand(7, 5)).sum() * float('nan')
    wrapper.update_params(loss)
    assert torch.equal(layer.weight, before)


def test_the_constructor_gives_backbones_their_share_of_the_rate(worked):
    config, own = worked('my_constructor')
    model = MODELS.build(config.model)
    settings = dict(config.optim_wrapper)
    constructor, paramwise = settings.pop('constructor'), settings.pop('paramwise_cfg')
    assert constructor is own
    wrapper = constructor(settings, paramwise)(model)
    rate_of = {id(weight): group['lr'] for group in wrapper.optimizer.param_groups for weight in group['params']}
    for name, weight in model.named_parameters():
        assert rate_of[id(weight)] == pytest.approx(4e-4 if 'backbone' in name else 2e-3), name


def test_the_head_of_the_projects_page_is_the_one_of_this_page():
    """projects/README.md shows one plug-in whole; it must be the one that is run here."""
    shown = python_blocks(Path(ROOT / 'projects/README.md'))
    for text in shown:
        assert any(text.strip() in whole for whole in FILES.values())
    assert len(shown) == 2
