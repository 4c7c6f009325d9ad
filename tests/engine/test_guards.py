"""A step that is not finite changes nothing, is counted and named; jumps of the loss and collapsed embeddings are told."""

import copy
import json
import logging
import math
import os

import pytest
import torch
from mmengine.hooks import EMAHook, LoggerHook
from mmengine.model import BaseModel, ExponentialMovingAverage
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from gmscavp.distributed import start_gloo, stop
from gmscavp.engine.accumulation import UpdateEMAHook, UpdateSchedulerHook
from gmscavp.engine.checkpoints import SafeCheckpointHook
from gmscavp.engine.collapse import CollapseHook, effective_rank, relative_spread
from gmscavp.engine.guards import LossSpikeHook, NonFiniteHook, spike_height
from gmscavp.engine.losses_hook import LossesHook
from gmscavp.engine.optim import AutocastOptimWrapper, StepOptimWrapper
from gmscavp.engine.runner import PretrainRunner
from gmscavp.errors import UserError
from gmscavp.registry import MODELS
from tests.engine.waiting import waits_of
from tests.models.builders import tiny_batch, tiny_model
from tests.running import free_port

BAD, HUGE = math.nan, math.inf


class Line(BaseModel):
    """A line behind a BatchNorm, which sees the clips first. A clip's `spoil` is added to its loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.layer = nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, x, spoil, clip_id, mode='loss'):
        return {'loss': (self.layer(self.norm(x)).square().sum(1) + spoil).mean()}


def clips(bad):
    """Two a batch; bad: number of batch -> what is wrong with its second clip, in the clip and in the loss."""
    draws = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    made = [dict(x=x, spoil=torch.tensor(0.0), clip_id=f'clip{i}') for i, x in enumerate(draws)]
    for number, (where, value) in bad.items():
        made[2 * number + 1] |= dict(x=draws[number] * value) if where == 'clip' else dict(spoil=torch.tensor(value))
    return made


def run(folder, data, optimizer=None, hooks=(), wrapper=StepOptimWrapper, interval=3, epochs=1, **settings):
    model, settings = Line(), copy.deepcopy(settings)
    optimizer = optimizer or (lambda weights: torch.optim.AdamW(weights, lr=0.1))
    built = PretrainRunner(
        model,
        str(folder),
        train_dataloader=dict(
            dataset=data,
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=wrapper(optimizer(model.parameters()), **settings),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        default_hooks=dict(
            runtime_info=dict(type=LossesHook),
            param_scheduler=dict(type=UpdateSchedulerHook),
            logger=dict(type=LoggerHook, interval=interval),
            checkpoint=dict(type=SafeCheckpointHook, interval=1),
        ),
        custom_hooks=[dict(type=UpdateEMAHook, ema_type=ExponentialMovingAverage, momentum=0.3), *hooks],
        default_scope='gmscavp',
    )
    built.train()
    return built


def outcome(built):
    """Weights, statistics, their average, moments and their counts."""
    average = next(hook for hook in built.hooks if isinstance(hook, EMAHook)).ema_model
    state = built.optim_wrapper.optimizer.state
    moments = [x for p in built.model.parameters() for _, x in sorted(state[p].items()) if x is not None]
    return [*built.model.state_dict().values(), *average.state_dict().values(), *moments]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


WAYS = {
    'AdamW': dict(clip_grad=dict(max_norm=0.5)),
    'fused AdamW, bfloat16': dict(
        optimizer=lambda w: torch.optim.AdamW(w, lr=0.1, fused=True), wrapper=AutocastOptimWrapper
    ),
    'SGD, clipped by value': dict(
        optimizer=lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9), clip_grad=dict(type='value', clip_value=0.1)
    ),
    'fused SGD': dict(optimizer=lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9, fused=True)),
}


@pytest.mark.parametrize('way', WAYS)
def test_a_bad_batch_changes_nothing(tmp_path, way):
    """Bit by bit: the run is the one without those batches. The first of all is among them, and the clip comes first."""
    bad = {0: ('clip', BAD), 5: ('clip', HUGE), 9: ('loss', BAD), 12: ('loss', HUGE)}
    spoilt = clips(bad)
    left = [clip for i, clip in enumerate(spoilt) if i // 2 not in bad]
    guarded = run(tmp_path / 'guarded', spoilt, hooks=[dict(type=NonFiniteHook)], **WAYS[way])
    without = run(tmp_path / 'without', left, **WAYS[way])
    assert same(outcome(guarded), outcome(without))
    assert all(x.isfinite().all() for x in outcome(guarded))
    lines = [json.loads(line) for line in (tmp_path / 'guarded/non_finite.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [1, 6, 10, 13]
    assert [line['clip_ids'] for line in lines] == [[f'clip{2 * n}', f'clip{2 * n + 1}'] for n in bad]
    assert {lines[2]['losses']['loss'], lines[3]['losses']['loss']} == {'nan', 'inf'}
    assert guarded.message_hub.get_info('skipped_steps') == 4
    assert not (tmp_path / 'without/non_finite.jsonl').exists()


def test_the_guard_changes_nothing_where_all_is_finite(tmp_path):
    with_guard = run(tmp_path / 'a', clips({}), hooks=[dict(type=NonFiniteHook)], clip_grad=dict(max_norm=0.5))
    off = run(tmp_path / 'b', clips({}), clip_grad=dict(max_norm=0.5), skip_non_finite=False)
    assert same(outcome(with_guard), outcome(off))
    spoilt = run(tmp_path / 'c', clips({3: ('clip', BAD)}), skip_non_finite=False)
    assert any(not x.isfinite().all() for x in outcome(spoilt)), 'it is the guard that helps'


def test_of_accumulated_batches_the_whole_update_is_skipped(tmp_path):
    model = nn.Linear(3, 1)
    wrapper = StepOptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1), accumulative_counts=2)
    before = [p.detach().clone() for p in model.parameters()]
    for loss in (BAD, 1.0):
        with wrapper.optim_context(model):
            total = model(torch.ones(2, 3)).mean() * loss
        wrapper.update_params(total)
    assert wrapper.skipped.item() == 1
    assert same(list(model.parameters()), before)
    for _ in range(2):
        wrapper.update_params(model(torch.ones(2, 3)).mean())
    assert wrapper.skipped.item() == 0
    assert not same(list(model.parameters()), before), 'what was bad does not stay in the gradient'


def one_rank(rank, port, folder):
    """Two steps of a model whose second rank has an infinite loss, of a finite gradient, in the first."""
    torch.set_num_threads(1)
    place = dict(RANK=rank, WORLD_SIZE=2, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in place.items()})
    start_gloo(60)
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(3, 1))
    wrapper = StepOptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1))
    seen = []
    for step in range(2):
        wrapper.update_params(model(torch.ones(2, 3)).mean() + (math.inf if (rank, step) == (1, 0) else 0.0))
        seen += [wrapper.skipped, *(p.detach().clone() for p in model.parameters())]
    torch.save(seen, folder / f'{rank}.pt')
    stop()


def test_ranks_skip_together_where_the_loss_of_one_is_not_finite(tmp_path):
    port = free_port()
    multiprocessing.start_processes(one_rank, (port, tmp_path), 2, start_method='fork')
    seen = [torch.load(tmp_path / f'{rank}.pt') for rank in range(2)]
    assert same(*seen)
    torch.manual_seed(0)
    assert (seen[0][0], seen[0][3]) == (1, 0)
    assert same(seen[0][1:3], [p.detach() for p in nn.Linear(3, 1).parameters()]), 'the first step changed nothing'
    assert not torch.equal(seen[0][1], seen[0][4]), 'the second one did'


@pytest.mark.parametrize('ok', [False, True])
def test_too_many_in_a_row_stop(tmp_path, ok):
    bad = dict.fromkeys(range(4, 12), ('clip', BAD))
    if ok:
        del bad[8]
    with_limit = [dict(type=NonFiniteHook, max_in_a_row=5)]
    if ok:
        assert run(tmp_path, clips(bad), hooks=with_limit).message_hub.get_info('skipped_steps') == 7
        return
    with pytest.raises(UserError, match=r'(?s)in a row.*non_finite\.jsonl.*optimizer\.lr'):
        run(tmp_path, clips(bad), hooks=with_limit)


class Diverge(NonFiniteHook):
    """Spoils the weights for good in the second epoch, as steps too large may."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        super().before_train_iter(runner, batch_idx, data_batch)
        if runner.epoch == 1 and batch_idx in self.when:
            runner.model.layer.weight.data.fill_(math.inf)

    when = (4,)


def test_too_many_in_a_row_go_back_to_the_last_checkpoint(tmp_path):
    settings = dict(type=Diverge, max_in_a_row=3, on_too_many='reload')
    rates = dict(optimizer=lambda w: torch.optim.AdamW(w, lr=0.01))
    built = run(tmp_path, clips({}), hooks=[settings], epochs=2, interval=1, **rates)
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert all(x.isfinite().all() for x in outcome(built))
    assert built.message_hub.get_info('skipped_steps') == 3
    # 20 steps of the first epoch, and of the second all but the first 4, whose outcome was given up, and 3 skipped.
    steps = {int(state['step']) for state in built.optim_wrapper.optimizer.state.values()}
    assert steps == {20 + 13}
    assert built.iter == 40
    assert {int(x['step']) for x in saved['optimizer']['state'].values()} == {20}


def test_going_back_too_often_or_to_nothing_stops(tmp_path):
    settings = dict(type=Diverge, max_in_a_row=2, on_too_many='reload')
    Diverge.when, whole = (4, 10), Diverge.when
    try:
        with pytest.raises(UserError, match='1 times did not help'):
            run(tmp_path / 'often', clips({}), hooks=[settings], epochs=2, interval=1)
    finally:
        Diverge.when = whole
    with pytest.raises(UserError, match='no checkpoint yet'):
        run(tmp_path / 'none', clips(dict.fromkeys(range(9), ('clip', BAD))), hooks=[settings])


@pytest.mark.parametrize('changes', [dict(max_in_a_row=0), dict(on_too_many='pray')])
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        NonFiniteHook(**changes)


def test_a_skipped_average_is_the_same_by_a_tensor_as_by_leaving_it_out():
    """What is done on a GPU, where the host does not know whether the step was skipped."""
    model = nn.Linear(3, 2)
    averages = [ExponentialMovingAverage(nn.Linear(3, 2), momentum=0.02) for _ in range(2)]
    averages[1].load_state_dict(averages[0].state_dict())
    for one, momentum in zip(averages, (0.02, 0.02 * (1 - torch.tensor(0.0))), strict=True):
        one.steps += 1
        one.momentum = momentum
        one.update_parameters(model)
    torch.testing.assert_close(averages[0].state_dict(), averages[1].state_dict(), rtol=1e-6, atol=1e-8)
    before = {name: x.clone() for name, x in averages[1].module.state_dict().items()}
    averages[1].momentum = 0.02 * (1 - torch.tensor(1.0))
    averages[1].update_parameters(model)
    assert same(list(averages[1].module.state_dict().values()), list(before.values()))


def test_the_flag_and_what_is_put_back_wait_for_nothing():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to('meta')
    wrapper = StepOptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1), clip_grad=dict(max_norm=1.0))
    # The device meta has no fused kernels: what is left is all the guard does.
    stepped = []
    wrapper.optimizer.step = lambda: stepped.append(wrapper.optimizer.found_inf)
    wrapper.optimizer.param_groups[0]['fused'] = True

    def step():
        with wrapper.optim_context(model):
            loss = model(torch.ones(2, 3, device='meta')).square().mean()
        wrapper.update_params(loss)

    assert waits_of(step)[0] == []
    assert stepped == [wrapper.skipped]


def test_a_run_keeps_its_own_kernels_when_it_is_resumed():
    weights = [nn.Parameter(torch.ones(2))]
    old, new = (StepOptimWrapper(torch.optim.AdamW(weights, lr=0.1, fused=fused)) for fused in (None, True))
    weights[0].grad = torch.ones(2)
    old.step()
    new.load_state_dict(old.state_dict())
    assert new.optimizer.param_groups[0]['fused'] is True
    assert new.optimizer.param_groups[0]['lr'] == 0.1
    new.step()
    assert int(new.optimizer.state[weights[0]]['step']) == 2


def test_spikes_are_told_and_noise_is_not(tmp_path, caplog):
    data = clips({15: ('loss', 500.0)})
    quiet = dict(optimizer=lambda w: torch.optim.SGD(w, lr=1e-6))
    hook = dict(type=LossSpikeHook, least=8, window=12)
    with caplog.at_level(logging.WARNING):
        run(tmp_path / 'spike', data, hooks=[hook], **quiet)
        run(tmp_path / 'quiet', clips({}), hooks=[hook | dict(deviations=50.0)], **quiet)
    (line,) = (tmp_path / 'spike/spikes.jsonl').read_text().splitlines()
    told = json.loads(line)
    assert (told['step'], told['clip_ids']) == (16, ['clip30', 'clip31'])
    assert told['loss'] > 200 > told['median']
    assert not (tmp_path / 'quiet/spikes.jsonl').exists()


def test_the_height_of_a_spike():
    noise = torch.randn(20001, generator=torch.Generator().manual_seed(0)).tolist()
    assert spike_height(10.0, noise) == pytest.approx(10, rel=0.05), 'standard deviations, for normal noise'
    assert spike_height(10.0, [*noise, *[1e6] * 100]) == pytest.approx(10, rel=0.1), 'spikes before do not hide it'
    assert spike_height(-3.0, noise) == 0
    assert spike_height(2.0, [1.0, 1.0]) == math.inf


def rows(rank, spread, count=64, width=32):
    """Unit rows about a common direction that differ in `rank` directions."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    differ = torch.randn(count, rank, generator=generator) @ basis[:rank]
    return basis[-1] + spread * differ / rank**0.5


def test_rank_and_spread_of_known_embeddings():
    even = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    assert relative_spread(even) == pytest.approx(1, abs=0.01)
    assert effective_rank(even) == pytest.approx(32, rel=0.01)
    square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert effective_rank(square + 7) == pytest.approx(2)
    assert effective_rank(torch.ones(9, 4)) == relative_spread(torch.ones(9, 4)) == 0
    assert effective_rank(rows(1, 1.0)) == pytest.approx(1, abs=1e-3)
    assert 4 < effective_rank(rows(5, 1.0)) <= 5
    assert relative_spread(rows(20, 0.01)) < 0.02


class Watched:
    """As much of a runner as CollapseHook asks for."""

    iter = 1

    def __init__(self, model):
        self.model, self.said, self.scalars = model, [], {}
        self.logger = self.message_hub = self

    def warning(self, text):
        self.said.append(text)

    def update_scalar(self, name, value):
        self.scalars[name] = value


class Fixed(nn.Module):
    """A model whose embeddings are given."""

    def __init__(self, video, audio, top=100.0):
        super().__init__()
        self.embeddings, self.head = (video, audio), nn.Identity()
        self.head.max_scale = top
        self.embed, self.data_preprocessor = None, lambda batch, training: batch

    def forward(self, clip_id, mode):
        return self.embeddings


@pytest.mark.parametrize(
    ('audio', 'scale', 'told'),
    [
        (rows(20, 1.0), 20.0, []),
        (rows(20, 0.01), 20.0, ['audio embeddings have collapsed']),
        (rows(2, 1.0), 20.0, ['audio embeddings differ in only']),
        (rows(20, 1.0), 100.0, ['logit scale is at its clamp of 100']),
        (rows(20, 1.0) * math.nan, 20.0, []),
    ],
)
def test_a_collapse_is_warned_of_once_and_health_is_not(audio, scale, told):
    watched, hook = Watched(Fixed(rows(20, 1.0), audio)), CollapseHook(interval=2, begin=4)
    batch = dict(clip_id=[str(i) for i in range(64)])
    for step in range(8):
        watched.iter = step
        hook.after_train_iter(watched, step, batch, dict(logit_scale=torch.tensor(scale)))
        if step < 3:
            assert watched.said == [], 'what begins is not yet told apart'
    assert len(watched.said) == len(told)
    assert all(part in text for part, text in zip(told, watched.said, strict=True))
    assert {'train/video_rank', 'train/video_spread'} <= watched.scalars.keys()


def test_the_collapse_watch_leaves_a_model_as_it_is():
    model, batch = MODELS.build(tiny_model()).train(), tiny_batch()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    state = torch.get_rng_state()
    watched = Watched(model)
    CollapseHook(interval=1, clips=3).after_train_iter(watched, 0, batch, {})
    assert watched.scalars['train/audio_rank'] > 0
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert same(list(before.values()), list(model.state_dict().values()))


def test_the_collapse_watch_passes_over_models_without_embeddings():
    watched = Watched(Line())
    CollapseHook(interval=1).after_train_iter(watched, 0, dict(clip_id=['a', 'b']), {})
    assert (watched.scalars, watched.said) == ({}, [])
