"""A term that fades has the weight that the step says, and nothing at the end."""

from types import SimpleNamespace

import pytest

from gmscavp.engine.hooks import FadeHook
from gmscavp.errors import UserError


def runner_at(step, model, steps=100):
    return SimpleNamespace(model=model, iter=step, max_iters=steps)


@pytest.mark.parametrize(('step', 'weight'), [(0, 4.0), (25, 2.0), (50, 0.0), (99, 0.0)])
def test_the_weight_follows_from_the_step_alone(step, weight):
    for earlier in ([], [0, 10], [30]):
        model = SimpleNamespace(diffusion=SimpleNamespace(loss_weight=4.0))
        hook = FadeHook(until=0.5)
        for each in (*earlier, step):
            hook.before_train_iter(runner_at(each, model), 0)
        assert model.diffusion.loss_weight == pytest.approx(weight)


def test_what_cannot_fade_is_named():
    with pytest.raises(UserError, match="no 'diffusion'"):
        FadeHook().before_train_iter(runner_at(0, SimpleNamespace(diffusion=None)), 0)
    with pytest.raises(UserError, match='above 0 and up to 1'):
        FadeHook(until=0)
