"""The worked noise scheduler: its path, its inverses, samples of a known density, and a run with no change to the core."""

import math

import pytest
import torch

from gmscavp.errors import UserError
from gmscavp.models import DPMSolver2M, Euler
from projects.sigmoid_schedule.sigmoid_schedule import SigmoidSchedule
from tests.engine.test_generator_run import SMALL
from tests.engine.test_tools import impacts
from tests.models.gaussian import START, exact, ideal
from tests.running import tool

__all__ = ['impacts']
SCHEDULES = [SigmoidSchedule(), SigmoidSchedule(start=0.0, end=3.0, tau=0.5, spacing='karras')]


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_the_signal_fades_from_all_to_nothing(schedule):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    assert (alpha[0], sigma[0]) == (1, 0)
    assert (alpha[-1], sigma[-1]) == (0, 1)
    assert (alpha.diff() < 0).all()


def test_the_height_is_the_published_formula():
    _, sigma = SigmoidSchedule(start=0.0, end=3.0, tau=0.5).alpha_sigma(torch.tensor([0.5], dtype=torch.float64))
    low, at, high = (1 / (1 + math.exp(-x / 0.5)) for x in (0.0, 1.5, 3.0))
    assert sigma.item() == pytest.approx(math.sqrt((at - low) / (high - low)))


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_a_level_leads_back_to_its_time(schedule):
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    torch.testing.assert_close(schedule.time_at_level(sigma / alpha), t)
    assert schedule.time_at_level(torch.tensor([0.0, math.inf]))[0] == 0


@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize(('sampler', 'steps', 'within'), [(Euler(), 400, 0.03), (DPMSolver2M(), 100, 0.02)])
def test_samplers_reach_where_the_exact_flow_leads(schedule, sampler, steps, within):
    grid = schedule.grid(steps).double()
    found = sampler(ideal(schedule), START, grid, schedule)
    torch.testing.assert_close(found, exact(schedule, START, grid[0]), atol=within, rtol=0)


def test_a_start_after_the_end_is_refused():
    with pytest.raises(UserError, match='start must be below end'):
        SigmoidSchedule(start=3.0, end=0.0)


def test_it_trains_by_the_projects_command(impacts, tmp_path):
    options = [*SMALL, f'data_root={impacts}', f'truth={impacts}/events.jsonl']
    config = 'projects/sigmoid_schedule/sigmoid_impacts.py'
    out = tool('train.py', config, '--work-dir', tmp_path, '--cfg-options', *options)
    assert 'loss_diffusion' in out
    assert (tmp_path / 'epoch_1.pth').is_file()
