"""A model in parts over ranks learns what a whole one learns, and what it saves goes on with any number of ranks."""

import json
import os
import runpy
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from gmscavp.compat import load_checkpoint_file
from gmscavp.distributed import start_gloo, stop
from gmscavp.engine import sharded_checkpoints
from gmscavp.engine.checkpoints import is_whole, newest_checkpoint
from gmscavp.engine.optim import AutocastOptimWrapper
from gmscavp.engine.runner import build_runner
from gmscavp.engine.sharded_checkpoints import CONTENTS, read_sharded, write_sharded
from gmscavp.engine.sharding import ModelSharding, prepare_config, shard_model, sharding_of
from gmscavp.engine.stopping import Stopped
from gmscavp.engine.trained import find_checkpoint, load_model
from gmscavp.errors import UserError
from gmscavp.registry import DATASETS, HOOKS, MODELS
from tests.engine.test_resuming import demand_equal
from tests.hostile import Payload
from tests.models.builders import tiny_batch, tiny_model
from tests.models.test_generator import TINY
from tests.running import free_port

ROOT = Path(__file__).parents[2]
CLIPS = 16
BATCH = 8


@DATASETS.register_module()
class TinyClips(Dataset):
    """By name, because a list of tensors in a config is slow to write down."""

    def __init__(self):
        self.batch = tiny_batch(CLIPS)

    def __len__(self):
        return CLIPS

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.batch.items()}


@HOOKS.register_module()
class SigtermAfter(Hook):
    """Tells rank 1 alone to stop; all ranks know one step later."""

    def __init__(self, step):
        self.step = step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.step and runner.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def config_of(work_dir, ranks, resume=None, sigterm=None, **sharding):
    """Two epochs of two steps, the same clips in each step however many ranks share them; clipping takes hold."""
    return Config(
        dict(
            default_scope='gmscavp',
            work_dir=str(work_dir),
            model=tiny_model(diffusion=None),
            model_sharding=dict(enabled=True, unit_parameters=2000) | sharding,
            train_dataloader=dict(
                dataset=dict(type='TinyClips'),
                batch_size=BATCH // ranks,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(
                type='StepOptimWrapper', optimizer=dict(type='AdamW', lr=1e-2), clip_grad=dict(max_norm=0.5)
            ),
            param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)],
            default_hooks=dict(
                runtime_info=dict(type='LossesHook'),
                param_scheduler=dict(type='UpdateSchedulerHook'),
                checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=2),
            ),
            custom_hooks=[
                dict(type='UpdateEMAHook', ema_type='ExponentialMovingAverage', momentum=0.3),
                dict(type='SigtermAfter', step=sigterm),
            ],
            randomness=dict(seed=0),
            resume=resume is not None,
            load_from=None if resume is None else str(resume),
        )
    )


def one_rank(rank, ranks, runs, compared):
    """runs: (port, config) one after the other. compared: (port, file), for compare_with_ddp."""
    torch.set_num_threads(1)
    for port, config in runs:
        place = dict(RANK=rank, WORLD_SIZE=ranks, LOCAL_RANK=rank, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        os.environ.update({name: str(value) for name, value in place.items()})
        with suppress(Stopped):
            build_runner(config, 'pytorch').train()
        stop()
    if compared:
        compare_with_ddp(rank, ranks, *compared)


def steps_of(model):
    """Two steps under autocast, and what is generated then."""
    bare = getattr(model, 'module', model)
    # The optimiser's wrapper asks the model only for what DistributedDataParallel has.
    wrapper = AutocastOptimWrapper(torch.optim.AdamW(bare.parameters(), lr=1e-2), clip_grad=dict(max_norm=0.5))
    given = bare.data_preprocessor(tiny_batch(4), True)
    losses = []
    for step in range(2):
        torch.manual_seed(step)
        with wrapper.optim_context(model):
            loss = model(**given, mode='loss')['loss_diffusion']
        wrapper.update_params(loss)
        losses.append(loss.item())
    bare.eval()
    with torch.no_grad():
        return losses, model(**given, mode='predict')[0]['mel']


def compare_with_ddp(rank, ranks, port, out):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    start_gloo()
    found = []
    for wrap in (
        DistributedDataParallel,
        lambda model: shard_model(model, ModelSharding(True, None, 200), True, 'cpu'),
    ):
        torch.manual_seed(0)
        found.append(steps_of(wrap(MODELS.build(TINY | dict(vocoder=dict(type='GriffinLim'))))))
    if rank == 0:
        torch.save(found, out)
    stop()


def over_ranks(ranks, *configs, compared=None):
    runs = [(free_port(), config) for config in configs]
    given = (ranks, runs, compared and (free_port(), compared))
    multiprocessing.start_processes(one_rank, given, nprocs=ranks, start_method='fork')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('sharding')


@pytest.fixture(scope='module')
def alone(folder):
    """One process: what all others must come to."""
    build_runner(config_of(folder / 'alone', 1)).train()
    return folder / 'alone'


@pytest.fixture(scope='module')
def two(folder, alone):
    """Two ranks: from the beginning, on from the whole checkpoint of one process after an epoch, and stopped within one."""
    from_one, stopped = folder / 'two_from_one', folder / 'stopped'
    configs = (
        config_of(folder / 'two', 2),
        config_of(from_one, 2, resume=alone / 'epoch_1.pth'),
        config_of(stopped, 2, sigterm=2),
        config_of(stopped, 2, resume=stopped / 'epoch_1_iter_3.sharded'),
    )
    over_ranks(2, *configs, compared=folder / 'compared.pt')
    return folder / 'two', from_one


def tensors(tree, name=''):
    if isinstance(tree, torch.Tensor):
        yield name, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from tensors(value, f'{name}.{key}')


def assert_same_run(found, expected):
    """Weights, their average and moments to rounding (AdamW divides small gradients by small ones); counters exactly."""
    pairs = [
        dict(tensors({name: x[name] for name in ('state_dict', 'ema_state_dict', 'optimizer')}))
        for x in (found, expected)
    ]
    assert pairs[0].keys() == pairs[1].keys()
    for name, value in pairs[1].items():
        assert (pairs[0][name].double() - value.double()).norm() <= 1e-4 * value.double().norm() + 1e-7, name
    assert [found['meta'][name] for name in ('epoch', 'iter')] == [2, 4]
    assert found['param_schedulers'] == expected['param_schedulers']
    groups = [x['optimizer']['param_groups'] for x in (found, expected)]
    assert groups[0] == groups[1]


def whole(path):
    return read_sharded(path, lambda _: None)


def test_two_ranks_in_parts_learn_what_one_process_learns(alone, two):
    expected = load_checkpoint_file(alone / 'epoch_2.pth')
    for work_dir in two:
        assert_same_run(whole(work_dir / 'epoch_2.sharded'), expected)
    assert sorted(path.name for path in two[0].glob('epoch*')) == ['epoch_1.sharded', 'epoch_2.sharded']
    assert (two[0] / 'last_checkpoint').read_text().endswith('epoch_2.sharded')
    shards = list((two[0] / 'epoch_2.sharded').glob('data-*/*.safetensors'))
    sizes = [file.stat().st_size for file in shards]
    assert len(sizes) == 2
    assert max(sizes) < 1.1 * min(sizes), 'each rank holds its half'


def test_stopped_within_an_epoch_it_goes_on_as_if_it_had_not_been(folder, two):
    part, found, expected = (
        whole(path)
        for path in (
            folder / 'stopped/epoch_1_iter_3.sharded',
            folder / 'stopped/epoch_2.sharded',
            two[0] / 'epoch_2.sharded',
        )
    )
    assert (part['meta']['iter'], part['meta']['progress']['batch']) == (3, 1)
    for value in (found, expected):
        # Of time and place.
        del value['message_hub']
        value['meta'] = {name: value['meta'][name] for name in ('epoch', 'iter', 'progress')}
    demand_equal(found, expected)


@pytest.mark.usefixtures('two')
def test_a_generator_under_autocast_learns_what_it_learns_undivided(folder):
    # Its denoiser keeps keys and values of the condition, for which parts of blocks are called from outside.
    (expected, made), (losses, made_in_parts) = torch.load(folder / 'compared.pt')
    assert losses == pytest.approx(expected, rel=1e-4)
    # Evaluated in bfloat16 and in float32.
    torch.testing.assert_close(made_in_parts, made, atol=0.05, rtol=0.05)


def test_what_two_ranks_saved_goes_on_with_four_and_with_one(folder, alone, two):
    expected = load_checkpoint_file(alone / 'epoch_2.pth')
    saved = newest_checkpoint(two[0]).with_name('epoch_1.sharded')
    # Four ranks, two copies in two parts each.
    over_ranks(4, config_of(folder / 'four', 4, resume=saved, group=2))
    assert_same_run(whole(folder / 'four' / 'epoch_2.sharded'), expected)
    build_runner(config_of(folder / 'one', 1, resume=saved)).train()
    assert_same_run(load_checkpoint_file(folder / 'one' / 'epoch_2.pth'), expected)


def test_export_gives_one_file_with_the_weights_that_evaluation_uses(two, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'sub' / 'model.safetensors'
    monkeypatch.setattr(sys, 'argv', ['export_checkpoint.py', str(two[0]), '--out', str(out)])
    runpy.run_path(str(ROOT / 'tools/export_checkpoint.py'), run_name='__main__')
    assert f'written: {out}' in capsys.readouterr().out
    config = Config(dict(model=tiny_model(diffusion=None)))
    averaged = whole(two[0] / 'epoch_2.sharded')['state_dict']
    for source in (out, two[0], two[0] / 'epoch_2.sharded'):
        for name, value in load_model(config, source).state_dict().items():
            torch.testing.assert_close(value, averaged[name], rtol=0, atol=0)
    with pytest.raises(UserError, match=r'is a folder; make one file of it with tools/export_checkpoint'):
        load_checkpoint_file(two[0] / 'epoch_2.sharded')


def test_damage_is_found_and_the_one_before_is_taken(two, tmp_path):
    run = Path(shutil.copytree(two[0], tmp_path / 'run'))
    newest = run / 'epoch_2.sharded'
    assert newest_checkpoint(run) == newest
    file = sorted(newest.glob('data-*/*'))[-1]
    content = file.read_bytes()
    for damaged in (content[:-1], content[:300] + bytes([content[300] ^ 1]) + content[301:]):
        file.write_bytes(damaged)
        assert not is_whole(newest)
        said = []
        assert newest_checkpoint(run, said.append) == run / 'epoch_1.sharded'
        assert said == [f'{newest} is damaged and passed over']
    with pytest.raises(UserError, match='is damaged'):
        whole(newest)
    file.unlink()
    with pytest.raises(UserError, match='is damaged'):
        whole(newest)
    (newest / CONTENTS).unlink()
    assert newest_checkpoint(run) == run / 'epoch_1.sharded'
    with pytest.raises(UserError, match='there is no checkpoint at'):
        find_checkpoint(newest)


def test_a_save_cut_off_at_any_step_leaves_what_was_there(two, tmp_path, monkeypatch):
    place = Path(shutil.copytree(two[0] / 'epoch_1.sharded', tmp_path / 'epoch_1.sharded'))
    other = {'meta': {'epoch': 7}, 'state_dict': {'a': torch.ones(3)}}
    for step in ('_save_parts', 'checksum', '_point_to'):
        with monkeypatch.context() as patch:
            patch.setattr(sharded_checkpoints, '_save_parts', lambda *_: None)

            def full(*_):
                raise OSError(28, 'No space left on device')

            patch.setattr(sharded_checkpoints, step, full)
            with pytest.raises(OSError, match='No space'):
                write_sharded(place, other)
        assert is_whole(place)
        assert whole(place)['meta']['epoch'] == 1
    with monkeypatch.context() as patch:
        patch.setattr(sharded_checkpoints, '_save_parts', lambda *_: None)
        write_sharded(place, other)
    assert len(list(place.glob('data-*'))) == 1, 'what the cut ones left is cleared'
    assert load_checkpoint_file(next(place.glob('data-*/run.pth')))['meta']['epoch'] == 7


def test_nothing_read_can_run_code_or_lead_elsewhere(two, tmp_path):
    payload = Payload(tmp_path / 'mark')
    place = Path(shutil.copytree(two[0] / 'epoch_1.sharded', tmp_path / 'epoch_1.sharded'))
    torch.save({'meta': payload}, next(place.glob('data-*/run.pth')))
    listing = json.loads((place / CONTENTS).read_text())
    listing['files']['run.pth'][0] = next(place.glob('data-*/run.pth')).stat().st_size
    (place / CONTENTS).write_text(json.dumps(listing))
    with pytest.raises(UserError, match='is refused'):
        whole(place)
    # The index of torch's own kind of folder is a pickle; nothing unknown is opened at all.
    torch.save(payload, next(place.glob('data-*')) / 'more.metadata')
    with pytest.raises(UserError, match=r'damaged \(more\.metadata\)'):
        whole(place)
    assert not (tmp_path / 'mark').exists()
    for name in ('..', '../other', '/tmp', 7):
        (place / CONTENTS).write_text(json.dumps(listing | {'data': name}))
        with pytest.raises(UserError, match='damaged'):
            whole(place)


class TwoSteps(nn.Module):
    """Not MMEngine's way of training."""

    def train_step(self, data, optim_wrapper): ...

    def val_step(self, data): ...


def part_with(**attributes):
    """A model that would do but for these."""
    model = load_tiny()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def load_tiny():
    return MODELS.build(tiny_model(diffusion=None))


@pytest.mark.parametrize(
    ('model', 'settings', 'said'),
    [
        (load_tiny, dict(group=3), 'group=3 does not divide the 1 ranks'),
        (lambda: part_with(gain=nn.Parameter(torch.tensor(1.0))), {}, 'gain is a single number'),
        (lambda: part_with(rerank=SimpleNamespace(top=5)), {}, 'rerank asks the model on one rank alone'),
        (lambda: part_with(chunk=4), {}, 'chunk, ranks of uneven batches'),
        (TwoSteps, {}, 'TwoSteps trains its parts in turn'),
    ],
)
def test_what_does_not_go_with_parts_is_one_sentence(model, settings, said):
    with pytest.raises(UserError, match=said):
        shard_model(model(), ModelSharding(True, **settings), False, 'cpu')


def test_settings_are_checked_and_the_switch_alone_changes_nothing(tmp_path):
    config = config_of(tmp_path, 2)
    assert sharding_of(config) is None, 'one process has nothing to share out'
    prepare_config(config)
    assert 'filename_tmpl' not in config.default_hooks.checkpoint
    config.launcher = 'pytorch'
    assert sharding_of(config).unit_parameters == 2000
    prepare_config(config)
    assert config.default_hooks.checkpoint.filename_tmpl == 'epoch_{}.sharded'
    config.speed = dict(compile=True)
    with pytest.raises(UserError, match=r'does not go with speed\.compile'):
        prepare_config(config)
    config.model_sharding.grup = 2
    with pytest.raises(UserError, match=r"no setting 'grup'\. Did you mean group"):
        sharding_of(config)
