"""Vocoders on held-out clips of Impacts: how near to the true sound, at what cost: python benchmarks/vocoders.py

Trains configs/vocoder_impacts.py (or goes on where it was stopped), or takes --checkpoint. Every vocoder is given the true
log-mels, a clip at a time on one thread. Mel distance: mean absolute difference of the log-mels. Log-spectral distance:
root mean square over frequency of the difference in level, mean over frames (Gray and Markel 1976). Onsets and pitches:
what is heard of the impacts, against their truth. Cost: processor time per second of sound, and as a ratio to the first
vocoder, medians over clips that all vocoders do in turn. Writes the page that docs/vocoders.md refers to.
"""

import argparse
import copy
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from gmscavp.datasets.impacts_render.signals import PITCH_HZ
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import load_config
from gmscavp.engine.trained import load_model
from gmscavp.errors import UserError
from gmscavp.evaluation.generation.matching import pooled
from gmscavp.evaluation.generation.onsets import OnsetFigures, onset_figures
from gmscavp.evaluation.generation.truth import read_truth
from gmscavp.evaluation.vocoding import log_spectral_distance, mel_distance
from gmscavp.registry import DATASETS, MODELS, VOCODERS

CONFIG = 'configs/vocoder_impacts.py'
ITERATIONS = (32, 100)
# As in training, more, and by default.
REFINEMENTS = (4, 16, 24)
TRUE = 'true sound'


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkpoint', type=Path, help='.pth file of the config; without it the vocoder is trained')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/vocoder_impacts', help='folder for the run')
    parser.add_argument('--data-root', default=str(ROOT / 'data/impacts'), help='folder that holds Impacts')
    parser.add_argument('--clips', type=int, default=64, help='how many test clips (default: 64)')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/vocoders.md', help='page to write')
    return parser.parse_args()


@dataclass
class Heard:
    """What one vocoder made of the clips: distances in dB, onsets, processor seconds per second of sound."""

    mel_db: list[float] = field(default_factory=list)
    spectral_db: list[float] = field(default_factory=list)
    onsets: list[OnsetFigures] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)

    @property
    def onset_f1(self) -> float:
        """Of all clips together, in percent."""
        return 100 * pooled(figures.onsets for figures in self.onsets).f1

    @property
    def pitch(self) -> float:
        """Percent of the impacts that are heard alone whose pitch is the right one."""
        return 100 * float(np.concatenate([figures.right_pitch for figures in self.onsets]).mean())


def listen(
    model: Any, vocoders: Mapping[str, Any], dataset: Sequence[Mapping[str, Any]], truths: Mapping[str, Any]
) -> dict[str, Heard]:
    """Every clip through every vocoder; beside them the true sound itself."""
    heard = {name: Heard() for name in (TRUE, *vocoders)}
    for index in track(range(len(dataset)), 'listening'):
        sample = dataset[index]
        if not sample['valid']:
            continue
        audio = sample['audio'][None]
        mel = model.log_mel(audio)
        audio = audio[:, : mel.shape[2] * model.log_mel.hop]
        for name, made in heard.items():
            sound, seconds = (audio, 0.0) if name == TRUE else timed(vocoders[name], mel)
            made.cost.append(seconds / (audio.shape[1] / model.log_mel.settings['sample_rate']))
            made.mel_db.append(float(mel_distance(model.log_mel(sound), mel)))
            made.spectral_db.append(float(log_spectral_distance(sound, audio)))
            events = truths[sample['clip_id']].events
            rate = model.log_mel.settings['sample_rate']
            made.onsets.append(onset_figures(sound[0].numpy(), rate, events, PITCH_HZ))
    return heard


def timed(vocoder: Any, mel: Tensor) -> tuple[Tensor, float]:
    """(sound, processor seconds): another program on the machine does not count."""
    started = time.process_time()
    sound = vocoder(mel)
    return sound, time.process_time() - started


def rows_of(heard: Mapping[str, Heard], against: str) -> list[list[str]]:
    """A row of text for each vocoder; costs as ratios to that of `against`."""
    rows = []
    for name, made in heard.items():
        cells = [f'{np.mean(made.mel_db):.2f}', f'{np.mean(made.spectral_db):.2f}']
        cells += [f'{made.onset_f1:.1f}', f'{made.pitch:.1f}']
        if name == TRUE:
            cells += ['', '']
        else:
            ratio = np.median(np.array(made.cost) / np.array(heard[against].cost))
            cells += [f'{np.median(made.cost):.4f}', f'{ratio:.2f}']
        rows.append([name, *cells])
    return rows


def refined(vocoder: Any, refinements: int) -> Any:
    """The same weights with so many refinements."""
    other = copy.deepcopy(vocoder)
    other.refinements = refinements
    return other


HEADINGS = ['', 'mel dB', 'spectral dB', 'onset F1 %', 'pitch %', 's per s', 'ratio']


def page_of(rows: Sequence[Sequence[str]], clips: int, said: str) -> str:
    """The page, in Markdown."""
    lines = [' | '.join(['', *row, '']).strip() for row in (HEADINGS, ['---'] * len(HEADINGS), *rows)]
    about = (
        f'`python benchmarks/vocoders.py`: {clips} test clips of Impacts (4 s, 64 bands, hop 250), true log-mels in. '
        f'{said} The number behind a name: iterations of Griffin-Lim. Definitions: [docs/vocoders.md](../vocoders.md).'
    )
    return '\n'.join(['# Vocoders on Impacts', '', about, '', *lines, ''])


def trained(args: argparse.Namespace) -> Path:
    """The checkpoint that was given, or the best one of a run brought to its end."""
    if args.checkpoint:
        return args.checkpoint
    command = ['--work-dir', str(args.work_dir), '--resume', '--cfg-options', f'data_root={args.data_root}']
    done = subprocess.run([sys.executable, str(ROOT / 'tools/train.py'), CONFIG, *command], cwd=ROOT, check=False)
    if done.returncode:
        raise UserError(f'tools/train.py ended with code {done.returncode}; its message stands above.')
    best = sorted(args.work_dir.glob('best_*.pth'), key=lambda file: file.stat().st_mtime)
    return best[-1] if best else args.work_dir


@torch.inference_mode()
def main() -> None:
    """Train or load, listen to every clip, print and write the table."""
    args = parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = load_config(ROOT / CONFIG, {'data_root': args.data_root})
    model: Any = load_model(config, trained(args))
    settings = model.log_mel.settings
    names = [f'Griffin-Lim, {n}' for n in ITERATIONS]
    vocoders: dict[str, Any] = {
        name: VOCODERS.build(dict(type='GriffinLim', iterations=n, **settings)).eval()
        for name, n in zip(names, ITERATIONS, strict=True)
    }
    fresh: Any = MODELS.build(config.model).eval()
    vocoders[f'not trained, {REFINEMENTS[-1]}'] = refined(fresh.vocoder, REFINEMENTS[-1])
    vocoders |= {f'trained, {n}': refined(model.vocoder, n) for n in REFINEMENTS}
    dataset = DATASETS.build({**config.test_dataloader.dataset, 'clips': args.clips})
    heard = listen(model, vocoders, dataset, read_truth(Path(args.data_root) / 'events.jsonl'))
    rows, clips = rows_of(heard, names[0]), len(heard[TRUE].cost)
    parameters = sum(p.numel() for p in model.vocoder.parameters())
    said = f'Trained: {type(model.vocoder).__name__}, {parameters:,} parameters, {config.max_epochs} epochs.'
    table = Table(title=f'{clips} test clips of Impacts')
    for heading in HEADINGS:
        table.add_column(heading, justify='right')
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    args.out.write_text(page_of(rows, clips, said))


if __name__ == '__main__':
    run_tool(main)
