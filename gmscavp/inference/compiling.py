"""torch.compile for what a generator is asked at every step."""

import os
import shutil
from typing import Any

import torch

from gmscavp.errors import UserError


def compile_denoiser(model: Any, device: torch.device) -> None:
    """Let torch.compile make a generator's denoiser, at its first call. UserError: no generator, or no C++ compiler."""
    denoiser: Any = getattr(model, 'denoiser', None)
    if not hasattr(denoiser, 'compile_steps'):
        raise UserError(f'{type(model).__name__} has no denoiser to compile; leave compiling out.')
    if device.type == 'cpu' and cxx_compiler() is None:
        raise UserError(
            'compiling for the CPU needs a C++ compiler; install g++, or name yours in CXX, or leave it out.'
        )
    denoiser.compile_steps()


def cxx_compiler() -> str | None:
    """The C++ compiler that torch.compile will call; None where there is none."""
    return shutil.which(os.environ.get('CXX', 'g++'))
