"""What a reader needs to know to repeat a run: versions, seed, machine, parameters."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch
from mmengine.config import Config
from torch import nn

from gmscavp import __version__

_PACKAGES = ('torch', 'mmengine', 'torchaudio', 'decord2', 'av', 'numpy')


def machine_facts() -> dict[str, str]:
    """Plain words for a report: when, on what, with which versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    return {
        'date': datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC'),
        'machine': f'{device}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}',
        'python': platform.python_version(),
        'gmscavp': __version__,
        **{name: _version(name) for name in _PACKAGES},
    }


def run_facts(config: Config, model: nn.Module) -> dict[str, str]:
    """machine_facts, and what was run: config, seed, parameters."""
    parameters = sum(p.numel() for p in model.parameters())
    parts = ', '.join(f'{name} {sum(p.numel() for p in part.parameters()):,}' for name, part in model.named_children())
    return {
        'config': str(config.filename),
        'seed': str(config.get('randomness', {}).get('seed')),
        'parameters': f'{parameters:,} ({parts})',
        **machine_facts(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return 'not installed'
