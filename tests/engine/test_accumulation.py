"""Accumulated batches must give what one batch of all their clips gives, or be refused."""

import pytest
import torch
from mmengine.hooks import EMAHook, ParamSchedulerHook
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, OptimWrapperDict
from torch import nn

from gmscavp.engine.accumulation import UpdateEMAHook, UpdateSchedulerHook
from gmscavp.engine.losses_hook import LossesHook
from gmscavp.engine.optim import AutocastOptimWrapper, StepOptimWrapper
from gmscavp.engine.runner import PretrainRunner
from gmscavp.errors import UserError
from gmscavp.models.heads import MultiScaleInfoNCE
from gmscavp.registry import MODELS
from tests.models.builders import tiny_batch, tiny_model


class Line(BaseModel):
    """A loss that is a mean over clips."""

    def __init__(self, *others):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2).double()
        self.others = nn.ModuleList(others)

    def forward(self, x, mode='loss'):
        return {'loss': self.layer(x).square().sum(1).mean()}


def clips(count=10):
    draws = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return [dict(x=x) for x in draws]


def run(folder, batch, counts, epochs=3, wrapper=StepOptimWrapper, model=None, drop_last=False, **hooks):
    """A run over ten clips in order, with all that counts steps: clipping, two schedules, a moving average."""
    hooks = dict(param_scheduler=dict(type=UpdateSchedulerHook), runtime_info=dict(type=LossesHook)) | hooks
    ema = hooks.pop('ema', UpdateEMAHook)
    model = model or Line()
    built = PretrainRunner(
        model,
        str(folder),
        train_dataloader=dict(
            dataset=clips(),
            batch_size=batch,
            drop_last=drop_last,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=wrapper(
            torch.optim.AdamW(model.parameters(), lr=0.1), accumulative_counts=counts, clip_grad=dict(max_norm=0.5)
        ),
        param_scheduler=[
            dict(type=LinearLR, start_factor=0.1, by_epoch=False, begin=0, end=4),
            dict(type=CosineAnnealingLR, by_epoch=True, convert_to_iter_based=True, eta_min_ratio=0.1),
        ],
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        default_hooks=hooks,
        custom_hooks=[dict(type=ema, ema_type=ExponentialMovingAverage, momentum=0.3)],
        default_scope='gmscavp',
    )
    built.train()
    return built


def outcome(built):
    """Weights, their moving average and the moments of the optimiser, as one vector."""
    average = next(hook for hook in built.hooks if isinstance(hook, EMAHook)).ema_model.module
    state = built.optim_wrapper.optimizer.state
    moments = [state[p][name] for p in built.model.parameters() for name in ('exp_avg', 'exp_avg_sq')]
    parts = [*built.model.parameters(), *average.parameters(), *moments]
    return torch.cat([p.detach().flatten() for p in parts])


def test_a_run_with_accumulation_is_the_run_with_larger_batches(tmp_path):
    """Batches of 4, 4, 2 clips an epoch; of 2, and as much as is left at the end of an epoch, they are the same."""
    whole, halves = run(tmp_path / 'whole', 4, 1), run(tmp_path / 'halves', 2, 2)
    torch.testing.assert_close(outcome(halves), outcome(whole), rtol=1e-10, atol=1e-12)
    assert halves.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()
    norms = [built.message_hub.get_scalar('train/grad_norm').data[0] for built in (whole, halves)]
    assert len(norms[0]) == 9, 'one update for each batch of up to 4'
    assert norms[1] == pytest.approx(norms[0], rel=1e-10)


@pytest.mark.parametrize('wrapper', [StepOptimWrapper, AutocastOptimWrapper])
def test_windows_of_updates(wrapper):
    model = nn.Linear(1, 1)
    optim = wrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=3)
    optim.epoch_steps = 7
    optim.initialize_count_status(model, 0, 21)
    seen = []
    for _ in range(14):
        scaled, synced = optim.scale_loss(torch.ones(())), optim.should_sync()
        optim.backward(model.weight.sum() * 0)
        assert optim.should_update() == synced, 'ranks exchange gradients where weights move, and nowhere else'
        seen.append((round(1 / scaled.item()), synced))
    assert seen == 2 * [*2 * [(3, False), (3, False), (3, True)], (1, True)]


def test_a_run_that_stopped_within_an_accumulation_is_not_resumed():
    model = nn.Linear(1, 1)
    optim = StepOptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=3)
    optim.epoch_steps = 7
    optim.initialize_count_status(model, 14, 21)
    with pytest.raises(
        UserError, match=r'stopped 2 batches into an accumulation of 3.*multiples of accumulative_counts'
    ):
        optim.initialize_count_status(model, 12, 21)


def gradient(model, batches, counts):
    """The gradient that an update of so many batches takes, as one vector."""
    optim = StepOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0), accumulative_counts=counts)
    model.zero_grad()
    taken = []
    optim.optimizer.register_step_pre_hook(
        lambda *_: taken.append(torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None]))
    )
    for batch in batches:
        model.train_step(batch, optim)
    (gradient_,) = taken
    return gradient_


def halved(batch):
    size = len(batch['clip_id']) // 2
    return [{key: value[part] for key, value in batch.items()} for part in (slice(None, size), slice(size, None))]


def test_batches_of_a_generator_add_up(monkeypatch):
    model = MODELS.build(
        dict(
            type='CrossModalGenerator',
            data_preprocessor=dict(type='ClipPreprocessor', bands=32),
            direction='v2a',
            size=[32, 32],
            window=8,
            backbone=dict(type='TinyVideoNet', width=4),
            pyramid=dict(type='ConvPyramid', dim=16, lengths=[4, 2, 1], places='image', grids=[1, 2]),
            denoiser=dict(type='LatentTransformer', patch=[4, 32], width=16, depth=1, heads=2),
            scheduler=dict(type='RectifiedFlow'),
            codec=dict(type='MelCodec'),
            draws=2,
        )
    )
    # Gates begin at zero, and the condition would get no gradient.
    with torch.no_grad():
        for weight in model.denoiser.parameters():
            weight.add_(0.05 * torch.arange(weight.numel()).sin().view_as(weight))
    batch = tiny_batch(4)
    # Noise that follows from what it is added to, and one level: alike however the batch is cut.
    monkeypatch.setattr(torch, 'randn_like', lambda x: (37 * x).sin())
    for draw in ('rand', 'randn'):
        monkeypatch.setattr(torch, draw, lambda *size, **_: torch.full((size[0],), 0.6))
    expected = gradient(model, [batch], 1)
    assert (gradient(model, halved(batch), 2) - expected).norm() <= 2e-5 * expected.norm()


def test_batches_of_a_contrastive_loss_do_not_add_up_and_chunks_do():
    torch.manual_seed(0)
    model, batch = MODELS.build(tiny_model(diffusion=None)), tiny_batch(4)
    expected = gradient(model, [batch], 1)
    assert (gradient(model, halved(batch), 2) - expected).norm() > 0.05 * expected.norm(), 'another loss'
    model.chunk = 2
    assert (gradient(model, [batch], 1) - expected).norm() <= 2e-5 * expected.norm()


REFUSED = [
    (dict(model=Line(MultiScaleInfoNCE([1]))), r'batch_size=4 and model\.chunk=2 .*exact'),
    (dict(model=Line(nn.BatchNorm1d(3))), r'others\.0 is BatchNorm in training.*frozen_norm=True'),
    (dict(batch=3), r'last batch of an epoch has 1 clips.*drop_last=True'),
    (dict(wrapper=OptimWrapper), r'OptimWrapper loses what is left.*StepOptimWrapper'),
    (dict(ema=EMAHook), r'EMAHook counts batches.*use UpdateEMAHook'),
    (dict(param_scheduler=dict(type=ParamSchedulerHook)), r'ParamSchedulerHook counts.*use UpdateSchedulerHook'),
]


@pytest.mark.parametrize(('changes', 'message'), REFUSED, ids=[message.split()[0] for _, message in REFUSED])
def test_what_cannot_be_exact_is_refused_with_what_can(tmp_path, changes, message):
    settings = dict(batch=2, counts=2) | changes
    with pytest.raises(UserError, match=message):
        run(tmp_path, **settings)


def test_frozen_norms_and_dropped_rests_are_no_reason_to_refuse(tmp_path):
    class Resting(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(False)

    run(tmp_path, 3, 2, epochs=1, model=Line(Resting(3)), drop_last=True)


def test_optimisers_that_take_turns_cannot_accumulate(tmp_path):
    def turns(optimizer, accumulative_counts, clip_grad):
        return OptimWrapperDict(one=StepOptimWrapper(optimizer, accumulative_counts))

    with pytest.raises(UserError, match='several optimisers'):
        run(tmp_path, 2, 2, wrapper=turns)
