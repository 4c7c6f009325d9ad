"""Guidance: closures around `denoise(x, t) -> x0`, to be put together and handed to a sampler.

    denoise = guided(conditional, null, 4.5, rescale=0.7)
    denoise = guided_within(denoise, conditional, scheduler.alpha_sigma, high=5.0)
    denoise = aligned(denoise, log_prob, scheduler.alpha_sigma, 1.0)

Clean signals are combined, not predictions of the noise. At one x and t the two are linear in each other, so that the
result is the same: eps = (x - alpha x0) / sigma.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gmscavp.errors import UserError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (B, ...), t ()) -> the clean signal that the denoiser sees in x, like x."""

Path = Callable[[Tensor], tuple[Tensor, Tensor]]
"""t () -> alpha, sigma: a noise scheduler's alpha_sigma."""


def guided(denoise: Denoise, denoise_null: Denoise, scale: float, rescale: float = 0.0) -> Denoise:
    """Classifier-free guidance: x0_null + scale (x0 - x0_null). Ho & Salimans 2022, equation 6, with scale = 1 + w.

    denoise_null: the same network given the null condition it was trained with. scale 1 is `denoise` itself, at half the
    evaluations; 0 is the null condition; below 1 leans towards it. rescale: see rescaled; 0 is off.
    """
    _check_scale('guidance', scale)
    if not 0 <= rescale <= 1:
        raise UserError(f'guidance: rescale must lie between 0 and 1, not at {rescale:g}.')
    if scale == 1:
        return denoise

    def with_guidance(x: Tensor, t: Tensor) -> Tensor:
        x0, x0_null = denoise(x, t), denoise_null(x, t)
        pushed = x0_null + scale * (x0 - x0_null)
        return rescaled(pushed, x0, rescale) if rescale else pushed

    return with_guidance


def rescaled(pushed: Tensor, x0: Tensor, strength: float) -> Tensor:
    """Guidance widens the signal; this gives it back, by `strength`, the standard deviation of the plain x0.

    (B, ...), (B, ...) -> (B, ...), clip by clip. Lin et al. 2024, equations 15 and 16, on the clean signal.
    """
    widths = [signal.flatten(1).std(dim=1).view(-1, *[1] * (x0.dim() - 1)) for signal in (x0, pushed)]
    ratio = torch.where(widths[1] > 0, widths[0] / widths[1], 1.0)
    return pushed * (strength * ratio + (1 - strength))


def guided_within(
    with_guidance: Denoise, plain: Denoise, path: Path, low: float = 0.0, high: float = math.inf
) -> Denoise:
    """Guidance only where low < sigma / alpha <= high, elsewhere `plain`. Kynkäänniemi et al. 2024, equation 5.

    Outside the interval only `plain` is evaluated.
    """
    if not 0 <= low < high:
        raise UserError(f'guidance: the interval needs 0 <= low < high, not {low:g} and {high:g}.')

    def in_interval(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = path(t)
        return (with_guidance if low < float(sigma / alpha) <= high else plain)(x, t)

    return in_interval


def aligned(denoise: Denoise, log_prob: Denoise, path: Path, scale: float) -> Denoise:
    """Guidance by a classifier of alignment, on top of `denoise`: x0 + scale sigma^2 / alpha grad_x log_prob(x, t).

    log_prob: (x (B, ...), t ()) -> (B,), log p(aligned | x_t, t, condition), differentiable in x. In terms of the noise,
    eps - scale sigma grad log p: Dhariwal & Nichol 2021, algorithm 2; with `guided` inside, the double guidance of Luo et
    al. 2023. With the true classifier and scale 1, the mean of x0 given x_t becomes that given x_t and alignment. At pure
    noise, where alpha = 0, x says nothing of the signal and `denoise` is left as it is.
    """
    _check_scale('alignment guidance', scale)
    if scale == 0:
        return denoise

    def with_alignment(x: Tensor, t: Tensor) -> Tensor:
        x0 = denoise(x, t)
        alpha, sigma = path(t)
        return x0 + scale * sigma**2 / alpha * _slope(log_prob, x, t) if alpha > 0 else x0

    return with_alignment


def _slope(log_prob: Denoise, x: Tensor, t: Tensor) -> Tensor:
    """The gradient of every clip's own log probability: (B, ...)."""
    with torch.inference_mode(False), torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        value = log_prob(point, t)
        if value.shape != point.shape[:1]:
            raise UserError(
                f'alignment guidance: the classifier must give one log probability a clip, ({len(x)},), '
                f'not {tuple(value.shape)}.'
            )
        return torch.autograd.grad(value.sum(), point)[0]


def _check_scale(what: str, scale: float) -> None:
    if not 0 <= scale < math.inf:
        raise UserError(f'{what}: scale must be 0 or above and finite, not {scale:g}.')
