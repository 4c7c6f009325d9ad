"""Two ranks must give the loss and the gradient of one process on the joint batch."""

import os
import time
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parallel import DistributedDataParallel

from gmscavp.distributed import gather_batch, gather_objects, start_gloo, stop, world
from gmscavp.models.heads import DenseHead, MultiScaleInfoNCE, SigLIPHead
from gmscavp.registry import MODELS
from tests.largest import Largest
from tests.models.builders import tiny_batch, tiny_model
from tests.running import free_port

CLIPS = 8


class Towers(nn.Module):
    """Two linear encoders and the head: all that the exactness of the gather depends on."""

    segments = 1

    def __init__(self) -> None:
        super().__init__()
        self.video, self.audio = nn.Linear(12, 10), nn.Linear(9, 10)
        self.head = MultiScaleInfoNCE([4, 1], per_scale=True)

    def forward(self, video, audio):
        v, a = self.video(video), self.audio(audio)
        losses = self.head([v, v.mean(1, keepdim=True)], [a, a.mean(1, keepdim=True)], self.segments)
        return sum(value for name, value in losses.items() if 'loss' in name)


class SegmentTowers(Towers):
    """Rows two by two are windows of one video: a contrast of their own, and told apart from other videos only."""

    segments = 2

    def __init__(self) -> None:
        super().__init__()
        self.head = MultiScaleInfoNCE([4, 1], segment_weight=0.7, same_video='ignore')


class SigLIPTowers(Towers):
    def __init__(self) -> None:
        super().__init__()
        self.head = SigLIPHead([4, 1], temporal_weight=0.3, per_scale=True)


class DenseTowers(Towers):
    """The video's steps serve as places of one window."""

    def __init__(self) -> None:
        super().__init__()
        self.head = DenseHead([1])

    def forward(self, video, audio):
        v, a = self.video(video)[:, None], self.audio(audio).mean(1)[:, None, None]
        return self.head([v], [a])['loss_semantic']


class Whole(nn.Module):
    """The whole model without diffusion, whose noise would differ between ranks; these encode in chunks, uneven ones."""

    def __init__(self) -> None:
        super().__init__()
        self.model = MODELS.build(tiny_model(diffusion=None))

    def forward(self, video, audio):
        self.model.chunk = 3 if world()[1] > 1 else None
        batch = self.model.data_preprocessor(dict(video=video, audio=audio), False)
        return sum(value for name, value in self.model(**batch, mode='loss').items() if 'loss' in name)


def towers_data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(CLIPS, 4, 12, generator=generator), torch.randn(CLIPS, 4, 9, generator=generator)


def whole_data():
    batch = tiny_batch(CLIPS)
    return batch['video'], batch['audio']


CASES = {
    'towers': (Towers, towers_data),
    'segments': (SegmentTowers, towers_data),
    'siglip': (SigLIPTowers, towers_data),
    'dense': (DenseTowers, towers_data),
    'whole model': (Whole, whole_data),
}


def loss_and_gradients(model, data):
    loss = model(*data)
    loss.backward()
    return loss.detach(), {name.removeprefix('module.'): p.grad for name, p in model.named_parameters()}


def one_rank(rank: int, ranks: int, port: int, cases: tuple[str, ...], folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    start_gloo()
    share = slice(rank * CLIPS // ranks, (rank + 1) * CLIPS // ranks)
    found = {}
    for case in cases:
        kind, make_data = CASES[case]
        torch.manual_seed(0)
        loss, grads = loss_and_gradients(DistributedDataParallel(kind()), [part[share] for part in make_data()])
        losses = gather_objects(loss.item())
        found[case] = (sum(losses) / ranks, grads, world())
    torch.save(found, Path(folder, f'{rank}.pt'))
    stop()


@pytest.mark.parametrize(('ranks', 'cases'), [(2, tuple(CASES)), (4, ('towers', 'segments'))])
def test_ranks_give_the_loss_and_gradient_of_one_process(ranks, cases, tmp_path):
    # Forked, since the ranks of a launch otherwise spend all their time in imports.
    multiprocessing.start_processes(
        one_rank, (ranks, free_port(), cases, str(tmp_path)), nprocs=ranks, start_method='fork'
    )
    found = [torch.load(tmp_path / f'{rank}.pt') for rank in range(ranks)]
    for case in cases:
        kind, make_data = CASES[case]
        torch.manual_seed(0)
        expected_loss, expected = loss_and_gradients(kind(), make_data())
        for rank in range(ranks):
            loss, grads, place = found[rank][case]
            assert place == (rank, ranks)
            assert loss == pytest.approx(expected_loss.item(), rel=1e-5), case
            assert grads.keys() == expected.keys()
            for name, grad in grads.items():
                assert (grad - expected[name]).norm() <= 1e-5 * expected[name].norm(), (case, name)


# Rows of every rank. Segments come two by two.
SPLITS = {2: ([6, 6], [4, 8]), 4: ([3, 3, 3, 3], [1, 4, 2, 5])}
SEGMENT_SPLITS = {2: [4, 8], 4: [2, 4, 2, 4]}
NCE = dict(scale_weights=[0.3, 0.7], per_scale=True)
HEADS = {
    'nce': (MultiScaleInfoNCE, NCE, 1),
    'segments': (MultiScaleInfoNCE, NCE | dict(segment_weight=0.7, same_video='ignore'), 2),
    'siglip': (SigLIPHead, dict(scale_weights=[0.3, 0.7], temporal_weight=0.3, per_scale=True), 1),
}
WAYS = [dict(tile=tile, gather=gather) for gather in ('all', 'ring') for tile in (None, 2)]


def tokens(clips=12):
    """[(B, L_s, D)] of both sides, alike enough that the loss is neither solved nor at chance."""
    generator = torch.Generator().manual_seed(2)
    video = [torch.randn(clips, steps, 20, generator=generator) for steps in (4, 1)]
    return video, [x + 2 * torch.randn(x.shape, generator=generator) for x in video]


def of_head(name, way, rows):
    """Loss, gradients of parameters and of tokens, and the most numbers in one tensor: a head on rows of `tokens`."""
    kind, settings, segments = HEADS[name]
    head = kind([4, 1], **settings, **way)
    with torch.no_grad():
        head.log_scale.copy_(torch.tensor([1.5, 2.0]))
    video, audio = ([x[rows].clone().requires_grad_() for x in side] for side in tokens())
    with Largest() as largest:
        losses = head(video, audio, segments)
        loss = sum(value for key, value in losses.items() if 'loss' in key)
        loss.backward()
    return loss.detach(), [p.grad for p in head.parameters()], [x.grad for x in video + audio], largest.numbers


def heads_on_a_rank(rank: int, ranks: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    start_gloo()
    found = {}
    for name in HEADS:
        for sizes in [SEGMENT_SPLITS[ranks]] if name == 'segments' else SPLITS[ranks]:
            rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
            for index, way in enumerate(WAYS):
                found[name, tuple(sizes), index] = of_head(name, way, rows)
    torch.save(found, Path(folder, f'{rank}.pt'))
    stop()


@pytest.mark.parametrize('ranks', [2, 4])
def test_tiles_rings_and_uneven_batches_give_what_one_process_gives(ranks, tmp_path):
    multiprocessing.start_processes(
        heads_on_a_rank, (ranks, free_port(), str(tmp_path)), nprocs=ranks, start_method='fork'
    )
    found = [torch.load(tmp_path / f'{rank}.pt', weights_only=False) for rank in range(ranks)]
    joint = {name: of_head(name, {}, slice(None)) for name in HEADS}
    assert len(found[0]) == 5 * len(WAYS)
    for key in found[0]:
        loss, parameters, features, _ = joint[key[0]]
        of_ranks = [of_rank[key] for of_rank in found]
        assert torch.stack([x[0] for x in of_ranks]).mean().item() == pytest.approx(loss.item(), rel=1e-6), key
        for index, expected in enumerate(parameters):
            mean = torch.stack([x[1][index] for x in of_ranks]).mean(0)
            assert (mean - expected).norm() <= 1e-6 * expected.norm(), key
        for index, expected in enumerate(features):
            # The mean over ranks that DDP takes.
            mean = torch.cat([x[2][index] for x in of_ranks]) / ranks
            assert (mean - expected).norm() <= 1e-6 * expected.norm(), key
        # (4 + 1) tokens of 20 numbers a clip: no rank of a ring holds the tokens of all clips, even of one side.
        held, clips = max(x[3] for x in of_ranks), max(key[1])
        assert held <= 100 * clips if WAYS[key[2]]['gather'] == 'ring' else held >= 100 * 12, key


def leave_before_the_others(rank: int, port: int) -> None:
    """Let go of group and model while gloo waits for the other rank; what it waits with is Python's to free."""
    os.environ.update(RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    start_gloo()
    model = DistributedDataParallel(nn.Linear(2, 2))
    time.sleep(rank)
    with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        distributed.all_reduce(torch.ones(2), async_op=True)
    stop()
    del model


def test_a_rank_that_lets_go_of_its_model_last_ends():
    ranks = multiprocessing.start_processes(leave_before_the_others, (free_port(),), 2, start_method='fork', join=False)
    until = time.monotonic() + 60
    while not (ended := ranks.join(timeout=1)) and time.monotonic() < until:
        pass
    for process in ranks.processes:
        process.kill()
    assert ended


def test_without_processes_everything_stays_as_it_is():
    rows = torch.randn(3, 2)
    gathered, offset = gather_batch(rows)
    assert gathered is rows
    assert offset == 0
    assert gather_objects('x') == ['x']
    assert world() == (0, 1)
