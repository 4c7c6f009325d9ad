"""CLAP as judge, through the library `transformers`."""

import importlib
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# The library imports torchaudio by itself, which works beside a CPU build of torch only after this.
import gmscavp.compat  # noqa: F401
from gmscavp.errors import UserError
from gmscavp.evaluation.embedders.base import Embedder, at_rate
from gmscavp.registry import EMBEDDERS

# By name: the types of an optional library cannot be checked where it is not installed.
transformers: Any
try:
    transformers = importlib.import_module('transformers')
except ImportError:  # the extra gmscavp[hf]
    transformers = None

INSTALL = 'pip install -c requirements/constraints.txt "gmscavp[hf]"'


@EMBEDDERS.register_module()
class CLAP(Embedder):
    """The audio features of CLAP before they are brought to unit length; no class scores. Wu et al. 2023.

    folder: what save_pretrained wrote, or a copy of the repository laion/clap-htsat-unfused. Never loaded from
    the network. Of clips longer than its window (10 s) the beginning is heard.
    """

    def __init__(self, folder: str) -> None:
        if transformers is None:
            raise UserError(f'CLAP needs the library transformers; install it with: {INSTALL}')
        place = Path(folder).expanduser()
        if not (place / 'config.json').is_file():
            raise UserError(f'{folder} has no config.json; give a local copy of laion/clap-htsat-unfused.')
        try:
            loaded, report = transformers.ClapModel.from_pretrained(
                str(place), local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
            self.extract = transformers.ClapFeatureExtractor.from_pretrained(str(place), local_files_only=True)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(f'{folder} cannot be loaded as CLAP: {textwrap.shorten(str(error), 300)}') from error
        if report['missing_keys'] or report['mismatched_keys']:
            missing = sorted(map(str, [*report['missing_keys'], *report['mismatched_keys']]))
            raise UserError(f'{folder} lacks {len(missing)} weights of CLAP, for example {missing[0]}.')
        self.audio = loaded.audio_model.requires_grad_(False).eval()
        self.project = loaded.audio_projection.requires_grad_(False).eval()

    def to(self, device: str | torch.device) -> None:
        """Move the network."""
        self.audio.to(device)
        self.project.to(device)

    @torch.no_grad()
    def __call__(self, waveform: Tensor, sample_rate: int) -> tuple[Tensor, None]:
        """(B, S) -> features (B, D)."""
        rate = self.extract.sampling_rate
        # Of longer clips the library would take a window at random.
        sounds = list(at_rate(waveform.cpu(), sample_rate, rate)[:, : self.extract.nb_max_samples].numpy())
        mel = self.extract(sounds, sampling_rate=rate, return_tensors='pt')['input_features']
        device = next(self.project.parameters()).device
        longer = torch.zeros(len(mel), 1, dtype=torch.bool, device=device)
        found = self.audio(input_features=mel.to(device), is_longer=longer)
        return self.project(found.pooler_output).float().cpu(), None
