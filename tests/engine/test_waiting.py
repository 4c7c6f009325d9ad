"""No step of training waits for the device: nothing is read off it, and nothing but the batch is copied to it."""

import pytest
import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gmscavp.engine.losses_hook import LossesHook
from gmscavp.engine.optim import AutocastOptimWrapper, StepOptimWrapper
from gmscavp.engine.runner import PretrainRunner
from gmscavp.registry import HEADS, MODELS
from tests.engine.waiting import waits_of
from tests.models.builders import tiny_batch, tiny_model

LENGTHS = [4, 2, 1]


def pretraining(scheduler='RectifiedFlow', **changes):
    """A GMSCAVP; of its diffusion another noise scheduler."""
    cfg = tiny_model(**changes)
    cfg['data_preprocessor'] |= dict(mel_transforms=[dict(type='SpecMask')])
    if cfg['diffusion']:
        cfg['diffusion'] = cfg['diffusion'] | dict(scheduler=dict(type=scheduler), detail=True)
    return cfg


def generator(scheduler='RectifiedFlow', denoiser=None):
    return dict(
        type='CrossModalGenerator',
        data_preprocessor=dict(type='ClipPreprocessor', bands=32, keep_audio=True),
        direction='v2a',
        size=[32, 32],
        window=8,
        backbone=dict(type='TinyVideoNet', width=4),
        pyramid=dict(type='ConvPyramid', dim=16, lengths=LENGTHS, places='image', grids=[1, 2]),
        denoiser=denoiser or dict(type='LatentTransformer', patch=[4, 32], width=16, depth=1, heads=2),
        scheduler=dict(type=scheduler),
        codec=dict(type='MelAutoencoder', channels=2, strides=[(2, 2)], widths=[8])
        if denoiser
        else dict(type='MelCodec'),
    )


UNET = dict(type='UNetDenoiser', width=8, multipliers=[1, 2], attention_levels=[1], heads=2, context=16)
BATCH_NORM = dict(type='Cnn14', bands=32, width=4, gradient_checkpointing=True)
SHORT = dict(type='PoolingPyramid', dim=16, lengths=[2, 1], places='bands', grids=[1])
MODELS_THAT_STEP = {
    'rectified flow': pretraining(),
    'cosine DDPM, chunks': pretraining('CosineDDPM', chunk=2),
    'EDM, tiles': pretraining('EDM', head=dict(type='MultiScaleInfoNCE', tile=2, per_scale=True)),
    'sigmoid': pretraining(diffusion=None, head=dict(type='SigLIPHead', temporal_weight=0.1)),
    'sigmoid, tiles': pretraining(diffusion=None, head=dict(type='SigLIPHead', tile=2)),
    'BatchNorm, checkpointing': pretraining(
        diffusion=None, audio_backbone=BATCH_NORM, audio_pyramid=SHORT, video_pyramid=SHORT | dict(places='image')
    ),
    'generator': generator(),
    'generator, U-Net, DDPM': generator('LinearDDPM', UNET),
}


@pytest.mark.parametrize('name', MODELS_THAT_STEP)
def test_forward_and_backward_wait_for_nothing(name):
    model = MODELS.build(MODELS_THAT_STEP[name]).to('meta').train()
    batch = tiny_batch()

    def step():
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        model.parse_losses(losses)[0].backward()

    # Tables of a noise scheduler move to the device once.
    with torch.no_grad():
        model(**model.data_preprocessor(batch, True), mode='loss')
    found, free = waits_of(step)
    assert found == []
    assert len(free) == 4, 'video, audio, start_s and valid go to the device, without being waited for'
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_dense_head_waits_for_nothing():
    head = HEADS.build(dict(type='DenseHead', lengths=[4])).to('meta')
    video, audio = (torch.randn(3, 4, places, 8, device='meta') for places in (4, 1))
    assert waits_of(lambda: head([video], [audio]))[0] == []


def test_what_would_wait_is_found():
    x, index = torch.ones(3, device='meta'), torch.ones(3)
    for way in (lambda: x.new_tensor([1.0]), lambda: index.to('meta'), lambda: torch.tensor(1.0, device='meta')):
        assert len(waits_of(way)[0]) == 1
    with pytest.raises(RuntimeError, match='meta'):
        waits_of(lambda: x.sum().item())


def test_the_profiler_sees_no_value_read_in_a_whole_step():
    """Clipping and update included. On the CPU reading a value is the operator that on a GPU would wait."""
    model, batch = MODELS.build(tiny_model()), tiny_batch(2)
    # Its kernel leaves a step out by itself, where that is not finite.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    optim = AutocastOptimWrapper(optimizer, clip_grad=dict(max_norm=1.0))
    model.train_step(batch, optim)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        model.train_step(batch, optim)
    # For the CPU that kernel reads its own count of steps, which on a GPU stays there.
    seen = {event.name for event in profiled.events() if not _within(event.cpu_parent, 'aten::_fused_adamw_')}
    assert not seen & {'aten::item', 'aten::_local_scalar_dense', 'aten::nonzero', 'aten::is_nonzero'}
    assert {'aten::convolution', 'aten::linalg_vector_norm', 'aten::_fused_adamw_'} <= seen, 'it was the step'
    assert optim.skipped is not None, 'it was guarded'


def _within(event, name):
    return event is not None and (event.name == name or _within(event.cpu_parent, name))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here: what waits for one is found on the device meta')
def test_a_step_on_a_gpu_never_waits():
    model = MODELS.build(tiny_model()).to('cuda')
    optim = AutocastOptimWrapper(torch.optim.AdamW(model.parameters(), fused=True), clip_grad=dict(max_norm=1.0))
    batch = {k: x.pin_memory() if isinstance(x, torch.Tensor) else x for k, x in tiny_batch().items()}
    model.train_step(batch, optim)
    torch.cuda.set_sync_debug_mode('error')
    try:
        model.train_step(batch, optim)
    finally:
        torch.cuda.set_sync_debug_mode('default')


class Counting(nn.Linear):
    """Losses that tell their step."""

    def train_step(self, data, optim_wrapper):
        loss = self(data['x']).square().mean()
        optim_wrapper.update_params(loss)
        return {'loss': loss, 'logit_scale': loss.detach() * 2, 'plain': 1.5}


@pytest.mark.parametrize('kind', [RuntimeInfoHook, LossesHook])
def test_the_log_is_mmengines(tmp_path, kind, monkeypatch):
    """Every loss of every step, though read at every third and the last alone."""
    torch.manual_seed(0)
    model = Counting(3, 1)
    reads, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(
        torch.Tensor, 'tolist', lambda x: (x.is_floating_point() and reads.append(len(x)), tolist(x))[1]
    )
    built = PretrainRunner(
        model,
        str(tmp_path),
        train_dataloader=dict(
            dataset=[dict(x=torch.full((3,), i / 8)) for i in range(8)],
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=StepOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), clip_grad=dict(max_norm=0.1)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        default_hooks=dict(runtime_info=dict(type=kind), logger=dict(type=LoggerHook, interval=3)),
        default_scope='gmscavp',
    )
    built.train()
    scalars = built.message_hub.log_scalars
    history = {name: scalars[f'train/{name}'].data[0] for name in ('loss', 'logit_scale', 'plain')}
    assert [len(x) for x in history.values()] == [16] * 3
    assert history['logit_scale'] == pytest.approx(2 * history['loss'])
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)['message_hub']['log_scalars']
    assert saved['train/loss'].data[0] == pytest.approx(history['loss'])
    if kind is LossesHook:
        assert len(scalars['train/grad_norm'].data[0]) == 16
        assert reads == 2 * [3, 3, 3, 3, 3, 3, 2, 2, 2]


@pytest.mark.parametrize(('gpu', 'asked', 'pinned'), [(True, None, True), (True, False, False), (False, True, False)])
def test_batches_are_pinned_where_there_is_a_gpu_to_copy_to(monkeypatch, gpu, asked, pinned):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    cfg = dict(dataset=[1, 2], batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False), num_workers=0)
    cfg |= {} if asked is None else dict(pin_memory=asked)
    assert PretrainRunner.build_dataloader(cfg).pin_memory is pinned
