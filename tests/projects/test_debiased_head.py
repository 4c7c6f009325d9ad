"""The worked plug-in: its loss against InfoNCE, and a run with no change to the core."""

import math

import pytest
import torch

from gmscavp.models.heads import clip_similarity, semantic_nce, unit_tokens
from projects.debiased_head.debiased_head import DebiasedHead, debiased_nce
from tests.engine.test_tools import impacts, options
from tests.running import tool

__all__ = ['impacts']


def pyramids():
    torch.manual_seed(0)
    return ([torch.randn(6, n, 16) for n in (4, 1)] for _ in range(2))


def test_without_false_negatives_it_is_infonce():
    v, a = (unit_tokens(p)[0] for p in pyramids())
    scale, own = torch.tensor(10.0), torch.arange(6)
    both = [debiased_nce(clip_similarity(x, y), own, scale, prior=0.0) for x, y in ((v, a), (a, v))]
    assert (sum(both) / 2).item() == pytest.approx(semantic_nce(v, a, v, a, scale, 0).item(), rel=1e-5)


def test_false_negatives_of_the_assumed_share_are_taken_off_exactly():
    """Of 10 negatives 2 are as near as the match: with prior 0.2 the others alone remain, each at similarity 0."""
    similarity = torch.zeros(1, 11)
    similarity[0, :3] = 1.0
    k = 3.0
    loss = debiased_nce(similarity, torch.tensor([0]), torch.tensor(k), prior=0.2)
    assert loss.item() == pytest.approx(math.log(1 + 10 * math.exp(-k)), rel=1e-5)


def test_embedding_is_a_unit_vector_whose_product_is_the_mean_similarity():
    v, a = pyramids()
    head = DebiasedHead([4, 1])
    expected = sum(clip_similarity(x, y) for x, y in zip(unit_tokens(v), unit_tokens(a), strict=True)) / 2
    torch.testing.assert_close(head.embed(v) @ head.embed(a).T, expected)


def test_it_trains_by_the_projects_command(impacts, tmp_path):
    few = options(impacts, ['max_epochs=1'])
    out = tool('train.py', 'projects/debiased_head/debiased_impacts.py', '--work-dir', tmp_path, *few)
    assert 'loss_debiased' in out
    assert (tmp_path / 'epoch_1.pth').is_file()
