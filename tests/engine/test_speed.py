"""Every switch of `speed` leaves losses, gradients and names of weights as they are."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from torch import nn

from gmscavp.engine.accumulation import UpdateEMAHook
from gmscavp.engine.optim import StepOptimWrapper
from gmscavp.engine.runner import PretrainRunner
from gmscavp.engine.speed import (
    Compiled,
    Speed,
    channels_last,
    check_fused,
    checkpoint_activations,
    compile_parts,
    match_layouts,
    parts_of,
    speed_of,
    speed_of_run,
)
from gmscavp.errors import UserError
from gmscavp.registry import BACKBONES, DENOISERS, HEADS, MODELS, PYRAMIDS
from tests.models.builders import LENGTHS, tiny_batch, tiny_model
from tests.models.test_gradient_caching import assert_same, gradients

# Traces as every backend does, and compiles nothing.
TRACED = Compiled(backend='eager')


def with_vit(dropout=0.2, **changes):
    """A model whose encoders draw random numbers: stochastic depth and dropout."""
    vit = dict(type='FrameViT', width=16, depth=2, heads=2, image_size=32, temporal_layers=2, drop_path=0.5)
    cnn = dict(type='Cnn14', bands=32, width=4, frozen_norm=True, dropout=dropout)
    cfg = tiny_model(video_backbone=vit, audio_backbone=cnn, **changes)
    for side in ('video', 'audio'):
        cfg[f'{side}_pyramid'] |= dict(lengths=[2, 1])
    return cfg


def assert_switched(cfg, switch, rel, dtype=torch.float32):
    """Losses and gradients of a training pass are the same with a switch as without, and so are the weights' names."""
    torch.manual_seed(0)
    model, batch = MODELS.build(cfg).train().to(dtype), tiny_batch(3)
    batch['audio'] = batch['audio'].to(dtype)
    keys, weights = list(model.state_dict()), copy.deepcopy(model.state_dict())
    losses, expected = gradients(model, batch)
    switch(model)
    assert list(model.state_dict()) == keys
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    found_losses, found = gradients(model, batch)
    assert found_losses == pytest.approx(losses, rel=max(rel, 1e-12))
    if rel:
        assert_same(found, expected, rel)
    else:
        assert all(torch.equal(found[name], grad) for name, grad in expected.items())
    return model


# Dropout draws in the order of memory, other masks.
@pytest.mark.parametrize('cfg', [tiny_model(), with_vit(dropout=0.0)], ids=['tiny', 'vit and Cnn14'])
def test_channels_last(cfg, monkeypatch):
    """Convolutions sum in another order: float64, also where the parts ask for float32, shows that no more differs."""
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)
    model = assert_switched(cfg, channels_last, 1e-9, torch.float64)
    inner = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d) and min(m.weight.shape[:2]) > 1]
    assert all(weight.stride(1) == 1 for weight in inner)
    assert len(inner) > 2


@pytest.mark.parametrize('chunk', [None, 2])
@pytest.mark.parametrize('cfg', [tiny_model(), with_vit()], ids=['tiny', 'vit and Cnn14'])
def test_checkpointing_is_exact_with_random_numbers_and_with_chunks(cfg, chunk):
    model = assert_switched(cfg | dict(chunk=chunk), checkpoint_activations, rel=0)
    # Both backbones and both denoisers.
    assert sum(getattr(module, 'gradient_checkpointing', False) for module in model.modules()) == 4


@pytest.mark.parametrize(
    'cfg',
    [
        dict(type='LatentTransformer', channels=1, size=[8, 8], patch=[2, 4], width=16, depth=2, heads=2),
        dict(
            type='UNetDenoiser', channels=1, size=[8, 8], width=16, multipliers=[1, 2], attention_levels=[1], context=16
        ),
    ],
    ids=lambda cfg: cfg['type'],
)
def test_checkpointing_of_denoisers_keeps_less_and_gives_the_same(cfg):
    torch.manual_seed(0)
    part = DENOISERS.build(cfg | dict(condition_lengths=LENGTHS, condition_dim=16))
    with torch.no_grad():
        for weight in part.parameters():
            weight.normal_(std=0.05)
    tokens = [torch.randn(2, length, 16) for length in LENGTHS]

    def run():
        kept = []
        part.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
            out = part(torch.ones(2, 1, 8, 8), torch.tensor([0.2, 0.7]), tokens)
        out.square().sum().backward()
        return [p.grad.clone() for p in part.parameters() if p.grad is not None], sum(kept)

    expected, before = run()
    checkpoint_activations(part)
    found, after = run()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert after < before / 2


def test_a_backbone_that_keeps_its_activations_says_so():
    class Keeping(nn.Module):
        pass

    BACKBONES.register_module(module=Keeping, force=True)
    try:
        with pytest.raises(UserError, match=r'Keeping \(video_backbone\) cannot do without its activations'):
            checkpoint_activations(nn.ModuleDict(dict(video_backbone=Keeping())))
    finally:
        del BACKBONES.module_dict['Keeping']


@pytest.fixture
def fresh():
    """Nothing is compiled before, and nothing stays."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_compiled_parts_give_the_same(fresh):
    cfg = tiny_model()
    # Of two directions the graphs are alike, and tracing takes its time.
    cfg['diffusion'] |= dict(directions=['v2a'])
    model = assert_switched(cfg, lambda model: compile_parts(model, TRACED), rel=1e-6)
    compiled = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
    assert compiled == {
        *(f'{side}_{part}' for side in ('video', 'audio') for part in ('backbone', 'pyramid')),
        *('head', 'diffusion.denoisers.v2a'),
    }
    assert copy.deepcopy(model).head._compiled_call_impl is None, 'a moving average is a plain model'


def test_compiled_with_checkpointing_and_chunks(fresh):
    """Layers by themselves, within what is run again; BatchNorm's statistics move once."""
    cnn = dict(type='Cnn14', bands=32, width=2, dropout=0.0, summary_dropout=0.0, summary=False)
    model = nn.ModuleDict(dict(audio_backbone=BACKBONES.build(cnn))).train()
    plain, mel = copy.deepcopy(model), torch.rand(3, 1, 64, 32)
    checkpoint_activations(model)
    compile_parts(model, TRACED, in_pieces=True)
    for each in (plain, model):
        sum(x.square().mean() for x in each['audio_backbone'](mel)).backward()
    for (name, one), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)
    for (name, one), other in zip(plain.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(other, one, msg=name)


# The same classes with other settings need no graph of another kind; those that the default model has are above.
PYRAMID_KINDS = [
    dict(type='PoolingPyramid', lengths=[2]),
    dict(type='FeaturePyramid', lengths=[2]),
    dict(type='QueryPyramid', lengths=[2], grids=[1]),
    dict(type='SingleScale'),
    dict(type='DensePyramid', lengths=[4], grid=2),
]
HEAD_KINDS = [
    dict(type='MultiScaleInfoNCE', segment_weight=1.0, same_video='ignore', per_scale=True),
    dict(type='MultiScaleInfoNCE', tile=2),
    dict(type='SigLIPHead', temporal_weight=0.1),
    dict(type='DenseHead'),
]


@pytest.mark.parametrize('cfg', PYRAMID_KINDS, ids=lambda cfg: cfg['type'])
def test_a_pyramid_is_one_graph(cfg, fresh):
    part = PYRAMIDS.build(cfg | dict(in_channels=[8, 16], dim=16, places='image'))
    features = [torch.randn(2, 8, 16, 8), torch.randn(2, 8, 4, 16)]
    expected = part(features)
    compile_parts(part, TRACED)
    assert all(torch.equal(one, other) for one, other in zip(part(features), expected, strict=True))


@pytest.mark.parametrize('cfg', HEAD_KINDS, ids=str)
def test_a_head_is_one_graph(cfg, fresh):
    dense = cfg['type'] == 'DenseHead'
    part = HEADS.build(cfg | dict(lengths=[4] if dense else LENGTHS))
    video, audio = (
        [torch.randn(4, 4, places, 8)] if dense else [torch.randn(4, length, 8) for length in LENGTHS]
        for places in (3, 1)
    )
    expected = part(video, audio, 2)
    compile_parts(part, TRACED)
    with torch.autocast('cpu', torch.bfloat16):
        found = part(video, audio, 2)
    assert {name: x.item() for name, x in found.items()} == pytest.approx({n: x.item() for n, x in expected.items()})


class Broken(nn.Module):
    """Looks at a value, for which a graph has to end."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        if x.shape[1] != 2:
            raise UserError('two columns are wanted.')
        return self.layer(x) if x.sum() > 0 else x


@pytest.fixture
def broken():
    PYRAMIDS.register_module(module=Broken, force=True)
    yield nn.ModuleDict(dict(video_pyramid=Broken(), audio_pyramid=Broken()))
    del PYRAMIDS.module_dict['Broken']


def test_a_graph_that_breaks_is_named_and_can_be_left_out(broken, fresh):
    assert compile_parts(broken, TRACED) == ['video_pyramid', 'audio_pyramid']
    with pytest.raises(UserError, match=r"video_pyramid \(Broken\) is not one graph: .*regions=\['audio_pyramid'\]"):
        broken['video_pyramid'](torch.ones(1, 2))
    with torch.no_grad():
        assert broken['video_pyramid'](torch.ones(1, 2)).shape == (1, 2), 'evaluation is not compiled'
    with pytest.raises(UserError, match='two columns are wanted'):
        broken['video_pyramid'](torch.ones(1, 3))
    with pytest.raises(UserError, match=r"'vidoe_pyramid' is no part.*Did you mean video_pyramid"):
        compile_parts(broken, Compiled(regions=['vidoe_pyramid']))


def test_without_a_compiler_one_sentence_says_what_to_install(monkeypatch):
    errors = torch._inductor.exc

    def none_found():
        raise errors.InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor.cpp_builder, 'get_cpp_compiler', none_found)
    with pytest.raises(UserError, match=r'apt-get install -y g\+\+'):
        compile_parts(nn.ModuleDict(), Compiled())


def test_machine_code_gives_the_same(fresh):
    try:
        torch._inductor.cpp_builder.get_cpp_compiler()
    except torch._inductor.exc.InvalidCxxCompiler:
        pytest.skip('no C++ compiler on this machine')
    part = PYRAMIDS.build(dict(type='SingleScale', in_channels=[8], dim=4))
    features = [torch.randn(2, 8, 4, 8)]
    expected = torch.autograd.grad(part(features)[0].sum(), part.project.weight)
    compile_parts(part, Compiled())
    torch.testing.assert_close(torch.autograd.grad(part(features)[0].sum(), part.project.weight), expected)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(chanels_last=True), r"speed has no setting 'chanels_last'\. Did you mean channels_last"),
        (dict(compile=dict(bakend='eager')), r"speed\.compile has no setting 'bakend'\. Did you mean backend"),
        (dict(checkpointing='yes'), r"speed\.checkpointing is True or False, not 'yes'"),
        (dict(compile='yes'), r"speed\.compile is True, False or a dictionary of settings, not 'yes'"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        speed_of(settings)


@pytest.mark.parametrize('name', ['compile', 'activation_checkpointing'])
def test_the_keys_of_mmengine_are_refused(name):
    with pytest.raises(UserError, match=rf"'{name}' is not followed; set speed\.(compile|checkpointing)"):
        speed_of_run({name: True})


def test_settings_are_read():
    assert speed_of(None) == speed_of(dict(compile=False)) == Speed()
    assert speed_of(dict(compile=True, channels_last=True)) == Speed(channels_last=True, compile=Compiled())
    assert speed_of(dict(compile=dict(mode='max-autotune'))).compile == Compiled(mode='max-autotune')


def stepped(model, optimizer, steps, start=0):
    """Steps on gradients that follow from the weights and the number of the step."""
    for step in range(start, start + steps):
        for weight in model.parameters():
            weight.grad = (weight.detach() * (step + 2)).sin()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_run_goes_on_with_another_memory_layout():
    """Fused kernels go by position in memory, so that moments in another layout would belong to other weights."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(4, 5, 2))
    other = copy.deepcopy(one)
    plain = torch.optim.AdamW(one.parameters(), lr=0.1)
    expected = [stepped(one, plain, 2), stepped(one, plain, 2, start=2)]
    channels_last(other)
    fused = torch.optim.AdamW(other.parameters(), lr=0.1, fused=True)
    torch.testing.assert_close(stepped(other, fused, 2), expected[0])
    resumed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(4, 5, 2))
    resumed.load_state_dict(other.state_dict())
    going_on = torch.optim.AdamW(resumed.parameters(), lr=0.1, fused=True)
    going_on.load_state_dict(fused.state_dict())
    match_layouts(going_on)
    torch.testing.assert_close(stepped(resumed, going_on, 2, start=2), expected[1])


def test_a_fused_optimiser_that_does_not_run_is_said():
    here, nowhere = (nn.Parameter(torch.ones(2, device=device)) for device in ('cpu', 'meta'))
    with pytest.raises(
        UserError, match=r'fused=True has no kernel for weights of torch\.float32 on meta.*leave fused out'
    ):
        check_fused(torch.optim.AdamW([here, nowhere], fused=True))
    check_fused(torch.optim.AdamW([here], fused=True))
    check_fused(torch.optim.AdamW([nowhere]))


def run(folder, speed, epochs, resume=None):
    """A run of a small model with a moving average; a step an epoch."""
    torch.manual_seed(0)
    model = MODELS.build(tiny_model(diffusion=None))
    batch = tiny_batch(4)
    rows = [{key: value[i] for key, value in batch.items()} for i in range(4)]
    built = PretrainRunner(
        model,
        str(folder),
        train_dataloader=dict(
            dataset=rows,
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=dict(type=StepOptimWrapper, optimizer=dict(type='AdamW', lr=1e-3, fused=True)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        custom_hooks=[dict(type=UpdateEMAHook, ema_type=ExponentialMovingAverage, momentum=0.3)],
        default_scope='gmscavp',
        load_from=resume,
        resume=resume is not None,
        cfg=Config(dict(speed=speed)),
    )
    built.train()
    return torch.load(folder / f'epoch_{epochs}.pth', weights_only=False)


def test_a_run_with_all_switches_is_resumed_without_them_and_ends_as_one_without(tmp_path, fresh):
    all_on = dict(channels_last=True, checkpointing=True, compile=dict(backend='eager'))
    expected = run(tmp_path / 'plain', {}, 2)
    run(tmp_path / 'quick', all_on, 1)
    found = run(tmp_path / 'quick', {}, 2, str(tmp_path / 'quick/epoch_1.pth'))
    for part in ('state_dict', 'ema_state_dict'):
        assert found[part].keys() == expected[part].keys()
        for name, value in expected[part].items():
            torch.testing.assert_close(found[part][name], value, rtol=1e-3, atol=1e-5, msg=f'{part} {name}')


def test_parts_are_found_wherever_they_are():
    model = MODELS.build(tiny_model())
    names = [name for name, _ in parts_of(nn.ModuleDict(dict(inner=model)))]
    assert names[0] == 'inner.video_backbone'
    assert len(names) == 7
