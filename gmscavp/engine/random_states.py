"""Where the generators of random numbers stand: python's, NumPy's, torch's on the CPU and on this process's GPU."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """All of them as tensors and plain values, which a checkpoint may hold."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    kind, keys, place, has_gauss, cached = numpy_state
    return {
        'python': (version, torch.tensor(words), gauss),
        'numpy': (str(kind), torch.from_numpy(keys.astype(np.int64)), int(place), int(has_gauss), float(cached)),
        'torch': torch.get_rng_state(),
        # That of the current device alone: asking the others would start work on all GPUs of a machine.
        'cuda': torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put all of them where `random_states` found them; the GPU's only where there is one, then and now."""
    version, words, gauss = states['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *rest = states['numpy']
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if states['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


@contextmanager
def apart(*seed: int) -> Iterator[None]:
    """Draw from generators seeded by these numbers; afterwards all stand where they stood."""
    before = random_states()
    words = np.random.SeedSequence(seed).generate_state(3).tolist()
    try:
        random.seed(words[0])
        np.random.seed(words[1])
        torch.manual_seed(words[2])
        yield
    finally:
        set_random_states(before)
