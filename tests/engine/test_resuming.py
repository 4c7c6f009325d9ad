"""A run stopped anywhere and resumed is, to the last bit, the run that was never stopped."""

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import multiprocessing
from torch.utils.data import Dataset, RandomSampler

from gmscavp.compat import load_checkpoint_file
from gmscavp.distributed import stop
from gmscavp.engine import checkpoints
from gmscavp.engine.checkpoints import newest_checkpoint
from gmscavp.engine.loop import ExactTrainLoop
from gmscavp.engine.random_states import apart, random_states, set_random_states
from gmscavp.engine.runner import build_runner
from gmscavp.engine.stopping import Stopped
from gmscavp.errors import UserError
from gmscavp.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS
from tests.running import free_port

CLIPS = 20
EPOCHS = 3
# Of two ranks' or one process's two batches, five an epoch; updates of 2, 2 and 1 of them.
STEPS = 5


@DATASETS.register_module()
class DrawnClips(Dataset):
    """Every clip is another one in every epoch; read.txt names all that were read."""

    def __init__(self, work_dir, clips=CLIPS):
        self.work_dir, self.clips = work_dir, clips

    def __len__(self):
        return self.clips

    def __getitem__(self, index):
        with open(Path(self.work_dir, f'read{os.environ.get("RANK", "0")}.txt'), 'a') as stream:
            stream.write(f'{int(index)}\n')
        x = index.rng().standard_normal(4) if hasattr(index, 'rng') else np.random.standard_normal(4)
        return dict(x=torch.from_numpy(x) + index)


@MODELS.register_module()
class DrawingLine(BaseModel):
    """Draws from every generator there is, and remembers its batches in a buffer."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3).double()
        self.register_buffer('seen', torch.zeros(4, dtype=torch.float64))

    def forward(self, x, mode='loss'):
        if mode == 'predict':
            return [torch.rand(1)]
        self.seen = 0.9 * self.seen + x.mean(0)
        y = torch.nn.functional.dropout(self.layer(x), 0.3)
        return {'loss': (y * random.random() + np.random.rand() + torch.rand(())).square().mean()}


@METRICS.register_module()
class Count(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return {'count': sum(results) + torch.rand(()).item()}


class Killed(BaseException):
    """As little is done after it as after kill -9."""


@HOOKS.register_module()
class Interrupt(Hook):
    """Sends a signal to this process at a step, of training or of a validation, on one rank; 0 is kill -9."""

    priority = 'VERY_HIGH'

    def __init__(self, step=None, number=signal.SIGTERM, validating=False, rank=0):
        self.step, self.number, self.validating, self.rank = step, number, validating, rank

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if not self.validating:
            self.strike(runner, runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.validating and batch_idx == 1:
            self.strike(runner, runner.iter)

    def strike(self, runner, step):
        if step != self.step or runner.rank != self.rank:
            return
        if self.number is None:
            # To the whole group, data workers too, by somebody else: from their parent they take it otherwise.
            subprocess.run(['kill', '-TERM', '--', f'-{os.getpgid(0)}'], start_new_session=True, check=True)
            time.sleep(0.2)
            return
        if not self.number:
            raise Killed
        os.kill(os.getpid(), self.number)


def config_of(work_dir, ranks=1, workers=0, sampler='StreamShuffle', checkpoint=(), batch=4, counts=2, **interrupt):
    resume = newest_checkpoint(work_dir)
    return Config(
        dict(
            default_scope='gmscavp',
            work_dir=str(work_dir),
            model=dict(type='DrawingLine'),
            train_dataloader=dict(
                dataset=dict(type='DrawnClips', work_dir=str(work_dir)),
                batch_size=batch // ranks,
                num_workers=workers,
                persistent_workers=True,
                drop_last=True,
                sampler=dict(type=sampler),
                collate_fn=dict(type='default_collate'),
            ),
            val_dataloader=dict(
                dataset=dict(type='DrawnClips', work_dir=str(work_dir), clips=6),
                batch_size=2,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
            ),
            val_evaluator=dict(type='Count'),
            val_cfg=dict(),
            train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
            optim_wrapper=dict(
                type='StepOptimWrapper',
                optimizer=dict(type='AdamW', lr=1e-2),
                accumulative_counts=counts,
                clip_grad=dict(max_norm=0.5),
            ),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
                dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, eta_min_ratio=0.1),
            ],
            default_hooks=dict(
                runtime_info=dict(type='LossesHook'),
                logger=dict(type='LoggerHook', interval=2),
                param_scheduler=dict(type='UpdateSchedulerHook'),
                checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=2) | dict(checkpoint),
            ),
            custom_hooks=[
                dict(type='UpdateEMAHook', ema_type='ExponentialMovingAverage', momentum=0.3),
                dict(type='Interrupt', **interrupt),
            ],
            visualizer=dict(type='Visualizer', vis_backends=[]),
            randomness=dict(seed=3, diff_rank_seed=ranks > 1),
            resume=resume is not None,
            load_from=None if resume is None else str(resume),
        )
    )


def train(work_dir, **settings):
    work_dir.mkdir(exist_ok=True)
    # A process of its own begins with other random numbers.
    torch.manual_seed(time.monotonic_ns())
    runner = build_runner(config_of(work_dir, **settings))
    runner.train()
    return runner


def read(folder, rank=0):
    return [int(line) for line in (folder / f'read{rank}.txt').read_text().split()]


def demand_equal(found, expected, name=''):
    """To the last bit, whatever is nested in whatever."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, name
        assert torch.equal(found, expected), name
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected:
            demand_equal(found[key], expected[key], f'{name}.{key}')
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), name
        for number, pair in enumerate(zip(found, expected, strict=True)):
            demand_equal(*pair, f'{name}.{number}')
    else:
        assert found == expected, name


def contents(folder):
    """All of the last checkpoint that does not tell time or place."""
    saved = load_checkpoint_file(folder / f'epoch_{EPOCHS}.pth')
    meta = {name: saved['meta'][name] for name in ('epoch', 'iter', 'seed', 'progress')}
    scalars = saved['message_hub']['log_scalars']
    logs = {
        name: [list(values) for values in history._statistics_methods and history.data]
        for name, history in scalars.items()
        if name.startswith('train/') and 'time' not in name
    }
    state = {key: value for key, value in saved.items() if key not in ('meta', 'message_hub')}
    return state | {'meta': meta, 'logs': logs}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The run that is never stopped."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    train(folder)
    return folder


STOPS = {
    'in an accumulation': dict(step=1),
    'after an update': dict(step=2, number=signal.SIGINT),
    'at the last batch of an epoch': dict(step=STEPS),
    'within the second epoch': dict(step=STEPS + 3),
    'in a validation': dict(step=STEPS, validating=True),
    'in the last validation': dict(step=STEPS * EPOCHS, validating=True),
    'killed between checkpoints': dict(step=STEPS + 3, number=0),
    'killed, with checkpoints within epochs': dict(
        step=7, number=0, checkpoint=dict(by_epoch=False, interval=4, filename_tmpl='epoch_{}.pth')
    ),
    'data workers': dict(step=STEPS + 3, workers=2),
}


@pytest.mark.parametrize('case', STOPS)
def test_a_run_stopped_and_resumed_is_the_run_never_stopped(whole, tmp_path, case):
    settings, folder = dict(STOPS[case]), tmp_path / 'run'
    number = settings.get('number', signal.SIGTERM)
    with pytest.raises(Stopped if number else Killed) as stopped:
        train(folder, **settings)
    if number:
        assert stopped.value.code == 128 + number
        assert str(newest_checkpoint(folder)) in str(stopped.value)
    train(folder, workers=settings.get('workers', 0))
    demand_equal(contents(folder), contents(whole))
    if number and not settings.get('validating') and 'workers' not in settings:
        assert sorted(read(folder)) == sorted(read(whole)), 'nothing is read twice'
    assert len(list(folder.glob('*.pth'))) == 2, 'what was saved on the way counts among those that are kept'


def test_stopped_again_and_again_it_is_the_same_run_still(whole, tmp_path):
    for step in (1, 3, 5, 6, 9, 11, 14):
        done = newest_checkpoint(tmp_path)
        if done is None or load_checkpoint_file(done)['meta']['iter'] < step:
            with pytest.raises(Stopped):
                train(tmp_path, step=step)
    train(tmp_path)
    demand_equal(contents(tmp_path), contents(whole))


def test_a_crash_between_write_and_rename_costs_only_what_was_not_saved(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Path, 'replace', lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(tmp_path, step=3)
    assert newest_checkpoint(tmp_path) is None
    with monkeypatch.context() as patch:
        renames = checkpoints.Path.replace

        def replace(part, file):
            if file.name == 'epoch_2.pth':
                raise Killed
            renames(part, file)

        patch.setattr(checkpoints.Path, 'replace', replace)
        with pytest.raises(Killed):
            train(tmp_path)
    assert newest_checkpoint(tmp_path).name == 'epoch_1.pth'
    train(tmp_path)
    demand_equal(contents(tmp_path), contents(whole))


@DATA_SAMPLERS.register_module()
class UnseededSampler(RandomSampler):
    def __init__(self, dataset, seed):
        super().__init__(dataset)


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'UnseededSampler'])
def test_samplers_that_cannot_skip_or_have_no_seed_go_on_too(tmp_path, sampler):
    for name in ('whole', 'run'):
        if name == 'run':
            with pytest.raises(Stopped):
                train(tmp_path / name, sampler=sampler, step=STEPS + 2)
        train(tmp_path / name, sampler=sampler)
    demand_equal(contents(tmp_path / 'run'), contents(tmp_path / 'whole'))
    assert sorted(read(tmp_path / 'run')) == sorted(read(tmp_path / 'whole'))


def one_rank(rank, runs):
    """Runs one after the other; one that is stopped leaves its sentence."""
    torch.set_num_threads(1)
    place = dict(RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank, MASTER_ADDR='127.0.0.1')
    for port, folder, settings in runs:
        os.environ.update({name: str(value) for name, value in (place | dict(MASTER_PORT=port)).items()})
        try:
            config = config_of(folder, ranks=2, **settings)
            torch.manual_seed(time.monotonic_ns())
            build_runner(config, 'pytorch').train()
        except Stopped as stopped:
            (folder / f'stopped{rank}').write_text(f'{stopped.code} {stopped}')
        stop()


def test_two_ranks_stop_after_the_same_step_and_go_on_as_if_they_had_not(tmp_path):
    """Rank 1 alone is told, in the midst of an accumulation."""
    whole, folder = tmp_path / 'whole', tmp_path / 'run'
    for each in (whole, folder):
        each.mkdir()
    settings = [(whole, {}), (folder, dict(step=STEPS + 1, rank=1)), (folder, {})]
    runs = [(free_port(), *each) for each in settings]
    multiprocessing.start_processes(one_rank, (runs,), 2, start_method='fork')
    said = [(folder / f'stopped{rank}').read_text() for rank in (0, 1)]
    assert said[0].startswith(f'143 SIGTERM ended training after step {STEPS + 2}, which is saved in ')
    assert said[1] == '143 ', 'one sentence, by rank 0'
    demand_equal(contents(folder), contents(whole))
    for rank in (0, 1):
        assert sorted(read(folder, rank)) == sorted(read(whole, rank)), 'nothing is read twice'
    states = contents(whole)['meta']['progress']['random']
    assert not torch.equal(states[0]['torch'], states[1]['torch']), 'ranks draw for themselves'


def test_with_other_batches_it_goes_on_after_as_many_clips(tmp_path, capsys):
    with pytest.raises(Stopped):
        train(tmp_path, step=3, counts=1)
    assert len(read(tmp_path)) == 3 * 4
    train(tmp_path, batch=2, counts=1)
    assert sorted(read(tmp_path)[:CLIPS]) == list(range(CLIPS)), 'all clips once in the epoch'
    assert 'the epoch goes on after 12 clips, but not bit by bit' in capsys.readouterr().out


def test_only_torchs_own_batches_can_be_left_out(whole, tmp_path):
    loop = object.__new__(ExactTrainLoop)
    loop._draws, loop.dataloader = None, torch.utils.data.DataLoader([1, 2, 3])
    with pytest.raises(UserError, match=r'cannot leave out the batches that are done; resume from .* end of an epoch'):
        loop.take_up(dict(batch=2, batch_size=1, seed=0, sampler_seed=None, owes_validation=False, random=[{}]))


def test_a_second_ctrl_c_ends_at_once_and_one_passed_on_twice_does_not(tmp_path, monkeypatch):
    def strike(self, runner, step):
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.setattr('gmscavp.engine.stopping._ONE_S', 0)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            raise Killed

    monkeypatch.setattr(Interrupt, 'strike', strike)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Killed):
        train(tmp_path, step=1)
    assert signal.getsignal(signal.SIGINT) is before
    assert newest_checkpoint(tmp_path) is None


def test_random_states_are_those_of_all_generators():
    def draws():
        return random.gauss(0, 1), np.random.standard_normal(), torch.rand(()).item()

    draws()
    states = random_states()
    expected = draws()
    with apart(1, 2):
        seeded = draws()
    assert draws() != expected
    set_random_states(states)
    assert draws() == expected
    with apart(1, 2):
        assert draws() == seeded != expected


def train_tool(folder, arguments):
    os.setsid()
    torch.set_num_threads(1)
    sys.argv = ['tools/train.py', *map(str, arguments)]
    with open(folder / 'stderr', 'a') as stream:
        os.dup2(stream.fileno(), 2)
    sys.stderr = os.fdopen(2, 'w', closefd=False)
    runpy.run_path(str(Path(__file__).parents[2] / 'tools/train.py'), run_name='__main__')


def test_sigterm_to_the_tool_saves_and_says_how_to_go_on(tmp_path):
    """With data workers, all of them told, as Slurm and timeout do."""
    run = tmp_path / 'run'
    run.mkdir()
    config = config_of(run, workers=2, step=STEPS + 2)
    config.custom_hooks[1].number = None
    (tmp_path / 'line.py').write_text(''.join(f'{name} = {value!r}\n' for name, value in config.to_dict().items()))
    process = multiprocessing.get_context('fork').Process(
        target=train_tool, args=(tmp_path, [tmp_path / 'line.py', '--work-dir', run, '--resume'])
    )
    process.start()
    process.join(60)
    assert process.exitcode == 143
    said = (tmp_path / 'stderr').read_text()
    assert 'SIGTERM: finishes this step and saves' in said
    assert f'saved in {run}/epoch_1_iter_{STEPS + 2}.pth; go on with: python ' in said
    assert said.rstrip().endswith(f'--work-dir {run} --resume')
    assert 'Traceback' not in said
