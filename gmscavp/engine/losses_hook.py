"""Losses on their way to the log: read off the device when they are shown, not in every step."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from gmscavp.engine.optim import StepOptimWrapper, wrappers_of
from gmscavp.registry import HOOKS


@HOOKS.register_module()
class LossesHook(RuntimeInfoHook):
    """MMEngine's hook with the same log, but it reads losses and gradient norms only where the logger will show them.

    MMEngine reads every loss after every step, and each time the host waits until a GPU has done all its work, in which
    it could have prepared the next step. Values wait for as many steps as the logger's interval.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[str, list[Tensor]] = defaultdict(list)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Take the losses of a step."""
        shown = {name: value for name, value in (outputs or {}).items() if not isinstance(value, Tensor)}
        super().after_train_iter(runner, batch_idx, data_batch, shown)
        for name, value in (outputs or {}).items():
            if isinstance(value, Tensor):
                # Apart from the graph, whose activations would wait as well.
                self._waiting[name].append(value.detach())
        for norm in _norms(runner.optim_wrapper):
            self._waiting['grad_norm'].append(norm.detach())
        interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 1)
        if self.every_n_inner_iters(batch_idx, interval) or self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._read(runner)

    def before_val(self, runner: Runner) -> None:
        """Nothing waits through a validation."""
        self._read(runner)
        super().before_val(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """A checkpoint's history of losses is whole."""
        if self._waiting:
            self._read(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def _read(self, runner: Runner) -> None:
        for name, values in self._waiting.items():
            for value in torch.stack(values).tolist():
                runner.message_hub.update_scalar(f'train/{name}', value)
        self._waiting.clear()


def _norms(wrapper: Any) -> Iterator[Tensor]:
    """The gradient norms of the step, of every optimiser that clips."""
    norms = (one.take_norm() for one in wrappers_of(wrapper) if isinstance(one, StepOptimWrapper))
    yield from (norm for norm in norms if norm is not None)
