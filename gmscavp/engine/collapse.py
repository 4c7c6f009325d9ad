"""Watching embeddings: whether clips are still told apart, in how many directions, and whether the logit scale has room."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.nn import functional as F

from gmscavp.distributed import world
from gmscavp.errors import UserError
from gmscavp.registry import HOOKS

# So near to the clamp no gradient is left that would lower the scale for long.
_AT_CLAMP = 0.999
_FEW_CLIPS = 8


def effective_rank(embedding: Tensor) -> float:
    """In how many directions rows differ: (N, E) -> from 1 to min(N - 1, E), 0 where they do not differ.

    exp of the entropy of the singular values, as shares of their sum, after the mean has been taken off. Roy and
    Vetterli 2007.
    """
    centred = embedding.double() - embedding.double().mean(0)
    # The smaller of the two matrices of products has the same values.
    products = centred @ centred.T if len(centred) <= centred.shape[1] else centred.T @ centred
    singular = torch.linalg.eigvalsh(products).clamp(min=0).sqrt()
    # What is left of rounding, where the eigenvalues are zero.
    singular = singular[singular > 1e-6 * singular.amax()]
    if not len(singular) or not singular.amax() > 0:
        return 0.0
    share = singular / singular.sum()
    return float((-share * share.log()).sum().exp())


def relative_spread(embedding: Tensor) -> float:
    """Mean standard deviation of the dimensions of unit rows (N, E), as a share of 1/sqrt(E).

    1 for rows spread evenly over the unit sphere, 0 where all are the same. Chen and He 2021 (SimSiam), figure 2.
    """
    rows = F.normalize(embedding.double(), dim=1)
    return float(rows.std(dim=0, correction=0).mean() * rows.shape[1] ** 0.5)


@HOOKS.register_module()
class CollapseHook(Hook):
    """Every `interval` steps: effective rank and relative spread of both sides' embeddings of a training batch, in the log.

    They come from a forward pass of their own in evaluation mode over the first `clips` clips of the first rank's batch
    (of every rank's where the model is sharded). From step `begin` on a spread below `min_spread`, a rank below
    `min_rank`, and a logit scale at its clamp are warned of, once each. Models without embeddings are left in peace.
    """

    def __init__(
        self,
        interval: int = 500,
        begin: int = 1000,
        clips: int = 64,
        min_rank: float = 3.0,
        min_spread: float = 0.05,
    ) -> None:
        if interval < 1 or clips < 2:
            raise UserError(f'CollapseHook: interval={interval} must be 1 or more and clips={clips} 2 or more.')
        self.interval, self.begin, self.clips = interval, begin, clips
        self.min_rank, self.min_spread = min_rank, min_spread
        self._said: set[str] = set()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Look, if it is time."""
        model = getattr(runner.model, 'module', runner.model)
        if not self.every_n_train_iters(runner, self.interval) or not _has_embeddings(model, data_batch):
            return
        figures = self._figures(model, {name: column[: self.clips] for name, column in data_batch.items()})
        if world()[0] != 0:
            return
        for name, value in figures.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        scale = (outputs or {}).get('logit_scale')
        if scale is not None:
            figures['logit_scale'] = float(scale)
        if runner.iter + 1 >= self.begin:
            for cause, text in self._causes(figures, min(self.clips, len(data_batch['clip_id'])), model.head).items():
                if cause not in self._said:
                    self._said.add(cause)
                    runner.logger.warning(f'step {runner.iter + 1}: {text}')

    @torch.no_grad()
    def _figures(self, model: Any, batch: Mapping[str, Any]) -> dict[str, float]:
        was_training = model.training
        model.eval()
        try:
            video, audio = model(**model.data_preprocessor(batch, False), mode='tensor')
        finally:
            model.train(was_training)
        figures: dict[str, float] = {}
        for side, embedding in (('video', video), ('audio', audio)):
            rows = embedding.float().cpu()
            # NonFiniteHook tells of those.
            if rows.isfinite().all():
                figures |= {f'{side}_rank': effective_rank(rows), f'{side}_spread': relative_spread(rows)}
        return figures

    def _causes(self, figures: Mapping[str, float], clips: int, head: Any) -> dict[str, str]:
        """What is wrong -> what it means and what to do."""
        causes = {}
        for side in ('video', 'audio'):
            spread, rank = figures.get(f'{side}_spread'), figures.get(f'{side}_rank')
            if spread is None or rank is None or clips < _FEW_CLIPS:
                continue
            if spread < self.min_spread:
                causes[f'{side} spread'] = (
                    f'the {side} embeddings have collapsed: their spread is {spread:.3f} of that of clips told apart '
                    f'evenly, so that all clips look the same. Lower optim_wrapper.optimizer.lr, lengthen its warm-up, or '
                    f'look whether {side} reaches the model (tools/browse_dataset.py).'
                )
            elif rank < self.min_rank:
                causes[f'{side} rank'] = (
                    f'the {side} embeddings differ in only {rank:.1f} directions (effective rank of {clips} clips), so '
                    'that few clips can be told apart. Take larger batches or a lower learning rate, or look whether '
                    'the clips are all alike.'
                )
        top, scale = getattr(head, 'max_scale', None), figures.get('logit_scale')
        if top is not None and scale is not None and scale >= _AT_CLAMP * top:
            causes['logit scale'] = (
                f'the logit scale is at its clamp of {top:g}: the loss would sharpen its softmax further, and can no '
                'longer. With few clips this is memorising; otherwise mostly harmless. Take larger batches or more '
                'data, or raise model.head.max_scale.'
            )
        return causes


def _has_embeddings(model: Any, data_batch: Any) -> bool:
    """Whether it is a model of two sides whose clips are compared, and the batch one that says which clips it is of."""
    has_clips = isinstance(data_batch, Mapping) and 'clip_id' in data_batch
    return has_clips and hasattr(model, 'head') and hasattr(model, 'embed')
