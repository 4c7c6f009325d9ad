"""The cost model: counts against closed forms and against real tensors, and formulas against what must hold."""

import importlib.util
import json
import sys
from dataclasses import replace

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from gmscavp.engine.config import load_config
from gmscavp.engine.planning.clips import blank_batch, clip_shape
from gmscavp.engine.planning.costs import (
    Network,
    Shares,
    of_joint_batch,
    optimiser_seconds,
    ring_all_reduce,
    ring_gather,
    token_seconds,
    work_seconds,
)
from gmscavp.engine.planning.counting import Op, Work, count_pass, count_step, shapes_only, total
from gmscavp.engine.planning.plan import Cluster, Reading, largest_batch, make_plan, memory_of
from gmscavp.engine.planning.switches import ways
from gmscavp.engine.planning.tables import ACCELERATORS, DATA_SETS, SOURCES, find_accelerator
from gmscavp.errors import UserError
from gmscavp.models.heads.multi_scale_nce import MultiScaleInfoNCE, semantic_nce
from gmscavp.registry import MODELS
from tests.test_configs import IMPACTS, ROOT

spec = importlib.util.spec_from_file_location('plan_run', ROOT / 'tools/plan_run.py')
plan_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plan_run)

A100 = ACCELERATORS['a100']
READING = Reading(SOURCES['files'], 3.9, 1e6)


def counted_pass(module, *given):
    """Forward and backward of a module on tensors whose gradient is wanted."""
    given = [x.requires_grad_() for x in given]
    return count_pass(lambda: module(*given).sum(), list(module.parameters()))


@pytest.fixture(scope='module')
def tiny():
    """A step of the quickstart's model, four clips."""
    return count_step(load_config(IMPACTS), 4)


def cluster(gpus=8, nodes=1, **changed):
    network = Network(gpus // nodes, nodes, A100.link, 10e9)
    return replace(Cluster(A100, network, 2e9, 12, Shares()), **changed)


def test_layers_are_counted_as_their_formulas_say():
    rows, wide, narrow = 6, 8, 5
    # Backward has two products where the gradient of the input is wanted, each as large as that of forward.
    assert counted_pass(nn.Linear(wide, narrow), torch.zeros(rows, wide)).flops == (480, 960)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    product = 2 * 2 * 4 * 7 * 7 * 3 * 9
    assert counted_pass(conv, torch.zeros(2, 3, 7, 7)).flops == (product, 2 * product)


def test_attention_is_counted_though_its_kernel_is_fused():
    batch, heads, tokens, width = 2, 3, 11, 4
    q, k, v = (torch.randn(batch, heads, tokens, width, requires_grad=True) for _ in range(3))
    seen = count_pass(lambda: F.scaled_dot_product_attention(q, k, v).sum(), [])
    product = 2 * batch * heads * tokens * tokens * width
    # Weights are not kept: the backward pass has the first product once more, and two for each of forward's.
    assert seen.flops == (2 * product, 5 * product)


def test_the_peak_is_what_is_alive_and_views_are_free():
    x = torch.zeros(1000, requires_grad=True)
    # exp keeps its result (4 kB); the sum, its gradient and the gradient of exp come on top, an expanded view does not.
    seen = count_pass(lambda: x.exp().view(10, 100).sum(), [])
    assert seen.peak == 4000 + 4 + 4 + 4000
    kept = count_pass(lambda: x.exp().exp().exp().sum(), [])
    assert kept.peak >= seen.peak + 8000


def test_shapes_alone_count_as_real_tensors_do(tiny):
    """All operations of a whole training step, their bytes and the highest memory."""
    config = load_config(IMPACTS)
    torch.manual_seed(0)
    model = MODELS.build(config.model).train()
    raw = blank_batch(clip_shape(config), 4)

    def forward():
        return total(model(**model.data_preprocessor(raw, True), mode='loss'))

    real = count_pass(forward, list(model.parameters()))
    assert real.flops == tiny.step.flops
    assert real.flops[1] > real.flops[0] > 0
    assert real.peak == pytest.approx(tiny.step.peak, rel=0.02)
    moved = [sum(op.bytes * n for op, n in (step.forward + step.backward).items()) for step in (real, tiny.step)]
    assert moved[0] == pytest.approx(moved[1], rel=0.02)
    assert tiny.parameters == sum(p.numel() for p in model.parameters())


def test_parameters_have_no_memory():
    """Forty gigabytes of weights, and as many of their gradients."""
    side = 30_000
    with FakeTensorMode() as fake:
        net = shapes_only(fake, lambda: nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(11))))
        seen = counted_pass(net, torch.zeros(2, side))
    assert seen.flops == (11 * 4 * side**2, 11 * 8 * side**2)
    assert 4 * 11 * side**2 < seen.peak < 4 * 12 * side**2


def test_work_and_memory_of_the_step_follow_the_batch():
    config = ROOT / 'configs/cavp_impacts.py'
    whole, double = (count_step(load_config(config), clips) for clips in (4, 8))
    assert sum(double.step.flops) == pytest.approx(2 * sum(whole.step.flops), rel=0.01)
    assert whole.step.peak < double.step.peak < 2.1 * whole.step.peak
    chunks = count_step(load_config(config, {'model.chunk': 4}), 8)
    assert chunks.step.peak < double.step.peak
    assert chunks.step.flops[0] == double.step.flops[0]
    assert chunks.step.flops[1] > double.step.flops[1], 'chunks are encoded again'


def test_segments_are_rows():
    config = load_config(ROOT / 'configs/cavp_segments_impacts.py')
    assert clip_shape(config).segments == 3
    assert count_step(config, 2).rows == 6


def test_bfloat16_halves_what_convolutions_keep():
    config = load_config(ROOT / 'configs/cavp_impacts.py')
    single, half = count_step(config, 4), count_step(config, 4, half=True)
    assert half.step.flops == single.step.flops
    assert half.step.peak < 0.8 * single.step.peak
    in_half = sum(op.flops * n for op, n in half.step.forward.items() if op.kind == 'half')
    assert 0.9 * half.step.flops[0] < in_half < half.step.flops[0], 'all but the filters of the mel and the loss'


@pytest.mark.parametrize('tile', [None, 4])
def test_a_joint_batch_is_foreseen_from_the_batch_and_its_double(tile):
    """b rows against B = 4 b columns: exactly what one rank of four computes, by the head's own pure function."""
    lengths, width, rows, ranks = [4, 2, 1], 16, 8, 4
    head = MultiScaleInfoNCE(lengths, temporal_weight=0.0, tile=tile)

    def products(count):
        sides = [[torch.randn(count, n, width, requires_grad=True) for n in lengths] for _ in range(2)]
        return sum(count_pass(lambda: total(head(*sides)), list(head.parameters())).flops)

    values = sum(lengths) * width
    # Dense: both directions, one product forward and two backward. Tiles: each pair once, and once more for the way back.
    per_pair = 12 if tile is None else 8
    foreseen = of_joint_batch(products(rows), products(2 * rows), ranks)
    assert foreseen == per_pair * rows * ranks * rows * values
    if tile is None:
        mine = [torch.randn(rows, n, width, requires_grad=True) for n in lengths]
        every = [torch.randn(ranks * rows, n, width, requires_grad=True) for n in lengths]
        scale = torch.tensor(1.0)
        seen = count_pass(lambda: sum(semantic_nce(x, x, y, y, scale, 0) for x, y in zip(mine, every, strict=True)), [])
        assert sum(seen.flops) == foreseen


def sent_in_a_ring(size, ranks):
    """Bytes that one rank sends, counted hop by hop: a block goes on in each of 2 (n - 1) turns."""
    return sum(size / ranks for _ in range(2 * (ranks - 1)))


@pytest.mark.parametrize('ranks', [1, 2, 3, 8, 64])
def test_rings(ranks):
    assert ring_all_reduce(1200, ranks) == pytest.approx(sent_in_a_ring(1200, ranks))
    assert 2 * ring_gather(1200, ranks) == pytest.approx(ring_all_reduce(1200, ranks))
    one = Network(ranks, 1, 1e9, 1.0, 0.0, 0.0)
    assert one.all_reduce_s(1e9) == pytest.approx(2 * (ranks - 1) / ranks), 'between nodes nothing travels'
    assert token_seconds(one, 100, 64, False, False) == pytest.approx(1e-9 * 4 * 100 * 64 * 3 * (ranks - 1))
    assert token_seconds(one, 100, 64, False, True) == pytest.approx(1e-9 * 25600 * (3 * ranks - 2) * (ranks > 1))


def test_nodes_exchange_over_their_slower_network():
    inside, across = Network(8, 1, 1e11, 1e9), Network(8, 4, 1e11, 1e9)
    assert across.all_reduce_s(1e9) - inside.all_reduce_s(1e9) == pytest.approx(2 * 3 / 4, rel=1e-3)


def test_an_operation_takes_the_longer_of_arithmetic_and_memory():
    unhindered = replace(A100, launch_s=0.0)
    shares = Shares(0.5, 0.5)
    product, copy = Op(10**12, 10**6, 'half'), Op(0, 10**10, 'single')
    assert work_seconds(Work([product]), unhindered, shares) == pytest.approx(1e12 / (0.5 * 312e12))
    assert work_seconds(Work([copy] * 3), unhindered, shares) == pytest.approx(3 * 1e10 / (0.5 * 2039e9))
    assert work_seconds(Work([Op(0, 4, 'single')]), A100, shares) == A100.launch_s
    assert optimiser_seconds(10**9, 100, A100, shares) > 4 * 13 * 10**9 / 2039e9


def test_more_gpus_are_never_slower_in_what_they_compute(tiny):
    plans = [
        make_plan(tiny, cluster(gpus, nodes), READING) for gpus, nodes in ((1, 1), (2, 1), (8, 1), (16, 2), (64, 8))
    ]
    assert len({plan.compute for plan in plans}) == 1
    rates = [plan.clips / plan.compute for plan in plans]
    assert rates == sorted(rates)
    columns = [plan.loss for plan in plans]
    assert columns == sorted(set(columns)), 'each row meets more of them'
    assert [plan.memory.total for plan in plans] == sorted(plan.memory.total for plan in plans)
    assert plans[0].network == plans[0].tokens == 0


def test_the_step_waits_for_the_slowest_and_names_it(tiny):
    plan = make_plan(tiny, cluster(cores=1e9, storage=1e15), READING)
    assert plan.bottleneck == 'compute'
    assert plan.step == pytest.approx(plan.compute + plan.loss + plan.network)
    starved = make_plan(tiny, cluster(cores=0.01, storage=1e15), READING)
    assert (starved.bottleneck, starved.step) == ('decode', starved.decode)
    enough = make_plan(tiny, cluster(cores=starved.cores_needed, storage=1e15), READING)
    assert enough.decode <= enough.compute + enough.loss + enough.network
    far = make_plan(tiny, cluster(cores=1e9, storage=1e3), READING)
    assert (far.bottleneck, far.step) == ('storage', 4 * 8 * 1e6 / 1e3)
    slow = cluster(16, 2, cores=1e9, storage=1e15, network=Network(8, 2, 1e9, 1e6))
    assert make_plan(tiny, slow, READING).bottleneck == 'network'
    assert plan.hours(plan.clips * 10) == pytest.approx((10 * plan.step + plan.checkpoint) / 3600)


def test_sharding_divides_what_a_weight_has(tiny):
    whole, shared = (memory_of(tiny, 8, sharded, True, 2) for sharded in (False, True))
    assert shared.moments == whole.moments / 8 == tiny.trainable
    assert shared.average == whole.average / 8
    assert shared.weights == whole.weights / 8 + 4 * tiny.largest
    assert shared.buckets == 0 < whole.buckets == 4 * tiny.trainable
    assert memory_of(tiny, 1, False, True, 2).buckets == 0


def test_largest_batch_is_where_the_line_meets_the_room():
    assert largest_batch([(10, 100.0), (20, 180.0)], 140.0) == 15
    assert largest_batch([(10, 100.0), (20, 180.0)], 19.0) == 0


def test_reading_a_file_begins_at_a_key_frame_and_ends_with_the_film():
    files = SOURCES['files']
    assert files.bytes_of(4, 100) == files.rate * 9
    assert files.bytes_of(4, 8.5) == files.rate * 8.5
    assert files.clips_per_core_of(8) == files.clips_per_core / 2
    assert {data.clips for data in DATA_SETS.values()} == {200_000, 2_000_000, 70_000_000}


def test_this_machine_is_measured():
    cpu = find_accelerator('cpu')
    assert 1e8 < cpu.single < 1e14
    assert 1e8 < cpu.bandwidth < 1e13
    assert 0 < cpu.launch_s < 1e-3


class Looks(nn.Module):
    """Trains by what it sees."""

    def __init__(self, data_preprocessor):
        super().__init__()
        self.data_preprocessor = MODELS.build(dict(data_preprocessor))
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, video, mel, mode):
        return {'loss_x': self.weight * mel.mean().item()}


def test_a_model_that_looks_at_values_is_named():
    config = load_config(IMPACTS)
    config.model = Config(dict(type=Looks, data_preprocessor=config.model.data_preprocessor))._cfg_dict
    with pytest.raises(UserError, match='Looks looks at values while it trains'):
        count_step(config, 2)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the tool in this process; what it printed, and what it wrote."""

    def call(*arguments):
        file = tmp_path / 'plan.json'
        monkeypatch.setattr(sys, 'argv', ['plan_run.py', *map(str, arguments), '--json', str(file)])
        plan_run.run_tool(plan_run.main)
        return capsys.readouterr().out, json.loads(file.read_text())

    return call


def test_a_plan_is_printed_and_written(run):
    out, report = run(
        ROOT / 'configs/cavp_impacts.py', '--data', 'panda70m', '--gpu', 'h100', '--gpus', 16, '--nodes', 2
    )
    assert '16 x h100 on 2 node(s); Panda-70M, 70,000,000 clips' in out
    assert 'It fits.' in out
    assert f'Bottleneck: {report["bottleneck"]}.' in out
    assert report['clips'] == 16 * 48
    assert report['hours_per_epoch'] == pytest.approx(70e6 / report['clips_per_s'] / 3600, rel=1e-3)
    assert report['gpu_hours'] == pytest.approx(16 * 20 * report['hours_per_epoch'])


def test_a_batch_that_does_not_fit_says_what_does(run, monkeypatch):
    small = replace(A100, memory=2.2e9)
    monkeypatch.setattr(plan_run, 'find_accelerator', lambda name: small)
    # One of them, since each is counted.
    monkeypatch.setattr(plan_run, 'ways', lambda *settings: ways(*settings)[:1])
    arguments = [ROOT / 'configs/cavp_impacts.py', '--gpus', 1, '--precision', 'fp32']
    out, report = run(*arguments, '--batch', 512)
    assert not report['fits']
    fits = next(int(line.split()[1]) for line in report['said'] if line.strip().startswith('--batch'))
    assert 0 < fits < 512
    assert '--amp (here --precision bf16): ' in out
    _, less = run(*arguments, '--batch', fits)
    assert less['fits']
    assert less['memory_needed'] > 0.95 * small.memory, 'and not much less than fits'


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--gpu', 'a1000'], "no accelerator 'a1000' is known. Did you mean a100"),
        (['--data', 'vgsound'], "'vgsound' is not known. Did you mean vggsound"),
        (['--gpus', 9, '--nodes', 2], '--gpus 9 do not share out over --nodes 2'),
        (['--mfu', 1.5], '--mfu must be above 0 and at most 1'),
        (['--storage', 0], '--storage must be above 0'),
        (['--clips', 100], '100 clips do not fill one batch of 48 on each of 8 GPUs'),
        (['--cfg-options', 'model.haed=1'], "model has no 'haed'"),
    ],
)
def test_mistakes_end_with_one_sentence(run, capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        run(IMPACTS, *arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count('\n') == 1


def test_help_names_what_can_be_set(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run('--help')
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ('--data', '--gpu ', '--cores-per-gpu', '--mfu', '--sharded', '--measure'))
