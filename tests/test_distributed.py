"""Two ranks must give the loss and the gradient of one process on the joint batch."""

import os
import socket
from pathlib import Path

import pytest
import torch
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from gmscavp.distributed import gather_batch, gather_objects, start_gloo, stop, world
from gmscavp.models.heads import DenseHead, MultiScaleInfoNCE, SigLIPHead
from gmscavp.registry import MODELS
from tests.models.builders import tiny_batch, tiny_model

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
    """The whole model without diffusion, whose noise would differ between ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.model = MODELS.build(tiny_model(diffusion=None))

    def forward(self, video, audio):
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


def one_rank(rank: int, ranks: int, port: int, case: str, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    start_gloo()
    kind, make_data = CASES[case]
    torch.manual_seed(0)
    share = slice(rank * CLIPS // ranks, (rank + 1) * CLIPS // ranks)
    loss, grads = loss_and_gradients(DistributedDataParallel(kind()), [part[share] for part in make_data()])
    losses = gather_objects(loss.item())
    torch.save((sum(losses) / ranks, grads, world()), Path(folder, f'{rank}.pt'))
    stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ('case', 'ranks'),
    [('towers', 2), ('towers', 4), ('segments', 2), ('segments', 4), ('siglip', 2), ('dense', 2), ('whole model', 2)],
)
def test_ranks_give_the_loss_and_gradient_of_one_process(case, ranks, tmp_path):
    kind, make_data = CASES[case]
    torch.manual_seed(0)
    expected_loss, expected = loss_and_gradients(kind(), make_data())
    multiprocessing.spawn(one_rank, (ranks, free_port(), case, str(tmp_path)), nprocs=ranks)
    for rank in range(ranks):
        loss, grads, place = torch.load(tmp_path / f'{rank}.pt')
        assert place == (rank, ranks)
        assert loss == pytest.approx(expected_loss.item(), rel=1e-5)
        assert grads.keys() == expected.keys()
        for name, grad in grads.items():
            assert (grad - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


def test_without_processes_everything_stays_as_it_is():
    rows = torch.randn(3, 2)
    gathered, offset = gather_batch(rows)
    assert gathered is rows
    assert offset == 0
    assert gather_objects('x') == ['x']
    assert world() == (0, 1)
