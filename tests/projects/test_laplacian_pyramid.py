"""The worked pyramid: what its scales hold, and a run with no change to the core."""

import pytest
import torch

from gmscavp.errors import UserError
from projects.laplacian_pyramid.laplacian_pyramid import LaplacianPyramid, laplacian
from tests.engine.test_tools import impacts, options
from tests.running import tool

__all__ = ['impacts']


def test_all_scales_together_are_the_finest_means_again():
    torch.manual_seed(0)
    x = torch.randn(3, 24, 5)
    parts = laplacian(x, [12, 6, 2, 1])
    assert [part.shape[1] for part in parts] == [12, 6, 2, 1]
    again = sum(part.repeat_interleave(12 // part.shape[1], 1) for part in parts)
    torch.testing.assert_close(again, x.unflatten(1, (12, 2)).mean(2))


def test_a_scale_says_nothing_that_the_coarser_ones_say():
    """Within a window of the next scale it averages to nothing, and what lasts is in the coarsest alone."""
    torch.manual_seed(0)
    parts = laplacian(torch.randn(3, 16, 5), [16, 4, 1])
    for part, coarser in ((parts[0], 4), (parts[1], 1)):
        assert part.unflatten(1, (coarser, -1)).mean(2).abs().max() < 1e-6
    fine, coarse = laplacian(torch.ones(1, 8, 2), [8, 1])
    assert fine.abs().max() == 0
    assert (coarse == 1).all()


def test_lengths_that_do_not_nest_are_refused():
    with pytest.raises(UserError, match=r'multiple of the next.*\[16, 6\]'):
        LaplacianPyramid([8], 4, [16, 6], 'bands')


def test_it_trains_by_the_projects_command(impacts, tmp_path):
    few = options(impacts, ['max_epochs=1'])
    out = tool('train.py', 'projects/laplacian_pyramid/laplacian_impacts.py', '--work-dir', tmp_path, *few)
    assert 'loss_temporal' in out
    assert (tmp_path / 'epoch_1.pth').is_file()
