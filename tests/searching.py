"""A stand-in for a model and its media, so that tests of search need neither: what a file says is what it sounds like."""

import json
import os

import numpy as np
import torch

from gmscavp.datasets.base import ClipFormat
from gmscavp.datasets.decoding import ClipError
from gmscavp.inference import Windows

LENGTHS, DIM, WINDOW_S = (16, 4, 1), 8, 4.0
TOKEN_S = WINDOW_S / LENGTHS[0]


class StandInModel:
    """Tokens are a walk drawn from the file's seed, a step each quarter second, the same for both sides."""

    def __init__(self, identity='stand-in'):
        self.identity = identity
        self.clip = ClipFormat(WINDOW_S, 4, 16, 16_000)
        self.embedded = []

    def iter_windows(self, file, side, stride_s=None, start_s=0, end_s=None):
        told = _read(file)
        if side in told.get('without', ()):
            raise ClipError(str(file), f'no {side} track')
        self.embedded.append((os.path.basename(file), side))
        walk = np.random.default_rng(told['seed']).standard_normal((round(told['duration_s'] / TOKEN_S), DIM))
        end_s = min(told['duration_s'], end_s or told['duration_s'])
        starts = np.arange(start_s, max(start_s, end_s - WINDOW_S) + 1e-6, stride_s or WINDOW_S / 2)
        for start in starts:
            first = round(start / TOKEN_S)
            yield _window(start, min(start + WINDOW_S, end_s), walk[first : first + LENGTHS[0]])

    def windows(self, file, side, stride_s=None, start_s=0, end_s=None):
        parts = list(self.iter_windows(file, side, stride_s, start_s, end_s))
        starts, ends, fused, scales = zip(*parts, strict=True)
        joined = [torch.cat(scale) for scale in zip(*scales, strict=True)]
        return Windows(torch.cat(starts), torch.cat(ends), torch.cat(fused), joined)


def write_file(file, seed, duration_s=8.0, without=()):
    """A file that StandInModel reads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({'seed': seed, 'duration_s': duration_s, 'without': list(without)}))
    return file


def _read(file):
    try:
        with open(file) as stream:
            return json.load(stream)
    except (OSError, ValueError) as error:
        raise ClipError(str(file), 'damaged') from error


def _window(start_s, end_s, tokens):
    fine = np.zeros((LENGTHS[0], DIM))
    fine[: len(tokens)] = tokens
    scales = [_unit(fine.reshape(length, -1, DIM).mean(axis=1)) for length in LENGTHS]
    fused = np.concatenate([(s / np.sqrt(len(s) * len(LENGTHS))).ravel() for s in scales])
    tensors = [torch.tensor(s[None], dtype=torch.float32) for s in scales]
    return Windows(
        torch.tensor([start_s], dtype=torch.float64),
        torch.tensor([end_s], dtype=torch.float64),
        torch.tensor(fused[None], dtype=torch.float32),
        tensors,
    )


def _unit(tokens):
    return tokens / np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-9)
