"""What benchmarks/generation.py trains and what it judges, each by a name, and their configs."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from gmscavp.engine.config import apply_options, load_config
from gmscavp.models.samplers import Sampler
from gmscavp.registry import SAMPLERS

ROOT = Path(__file__).resolve().parents[1]
JUDGE, ALIGNED, GUIDE = 'audio_classifier_impacts', 'align_classifier_impacts', 'align_classifier_noisy_impacts'
V2A, CODEC, A2V = 'v2a_impacts', 'frame_autoencoder_impacts', 'a2v_impacts'
ENCODERS = {'CAVP': 'cavp_impacts', 'GMS-CAVP': 'gmscavp_impacts'}
SOLVERS = ('Euler', 'DDIM', 'EulerAncestral', 'Heun', 'Midpoint', 'DPMSolver2M')
# Scales of alignment guidance: of the generator that sees the video too, and under its null condition, where what fits
# the video can come from the classifier alone.
SCALES, SCALES_ALONE = (0, 1, 10), (0, 1, 3, 10, 30)
# Configs that train on more clips than the others -> how many, in a folder of that name beside theirs.
MORE_CLIPS = {A2V: ('impacts_6k', 6144)}
# CAVP's tokens before the maximum over time, as the ancestor's generator takes them: one a frame.
CAVP_TOKENS = dict(type='gmscavp.models.SingleScale', dim=64, steps=16)


@dataclass(frozen=True)
class Budget:
    """How many clips are judged (in the table of samplers: sampler_clips), with which seeds, at which settings of samplers.

    epochs: config -> epochs, where they are not the config's own. train_clips: None for all of the train split. more_clips:
    configs that ask for more clips than Impacts has by default get them.
    """

    clips: int
    sampler_clips: int
    seeds: tuple[int, ...]
    evaluations: tuple[int, ...]
    spacings: tuple[str, ...]
    epochs: Mapping[str, int] = field(default_factory=dict)
    train_clips: int | None = None
    more_clips: bool = False


_CONFIGS = (JUDGE, ALIGNED, GUIDE, V2A, CODEC, A2V, *ENCODERS.values(), 'v2a_frozen_impacts')
BUDGETS = {
    'full': Budget(256, 128, (1, 2, 3), (5, 10, 25, 50, 100), ('trailing', 'linspace', 'karras'), more_clips=True),
    'small': Budget(
        64,
        16,
        (1,),
        (5, 10, 25, 50, 100),
        ('trailing',),
        # In the order of _CONFIGS.
        dict(zip(_CONFIGS, (6, 4, 4, 8, 4, 3, 5, 5, 4), strict=True)),
    ),
    'tiny': Budget(8, 4, (1, 2), (5, 25), ('trailing',), dict.fromkeys(_CONFIGS, 1), train_clips=48),
}


@dataclass(frozen=True)
class Training:
    """A run of tools/train.py. seed: None for the config's own. init: part -> the training it starts from. model: what
    is replaced in the config's model.
    """

    name: str
    config: str
    seed: int | None = None
    init: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """The trainings that must be finished before."""
        return tuple(dict.fromkeys(self.init.values()))


@dataclass(frozen=True)
class Cell:
    """One evaluation of a training by tools/test.py, with other settings of its model by dotted name.

    judged: by the judge of sound; aligned: by the alignment classifier; guided: the classifier of noisy latents is lent
    to the generator.
    """

    name: str
    table: str
    run: str
    clips: int
    judged: bool = True
    aligned: bool = False
    guided: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def frozen_run(encoder: str, seed: int) -> str:
    """The generator under the frozen encoder of that seed."""
    return f'v2a_frozen_{encoder}_{seed}'


def listener(seeds: Sequence[int]) -> str:
    """The pretraining whose ears video from sound starts with."""
    return f'GMS-CAVP_{seeds[0]}'


def trainings(seeds: Sequence[int]) -> dict[str, Training]:
    """All of them by name; those that others wait for first."""
    runs = [Training(name, name) for name in (JUDGE, CODEC, V2A)]
    seeded = [(seed, encoder) for seed in seeds for encoder in ENCODERS]
    runs += [Training(f'{encoder}_{seed}', ENCODERS[encoder], seed) for seed, encoder in seeded]
    runs.append(Training(A2V, A2V, init={'codec': CODEC, 'audio_backbone': listener(seeds)}))
    for seed, encoder in seeded:
        init = dict.fromkeys(('video_backbone', 'video_pyramid'), f'{encoder}_{seed}')
        model = {'pyramid': CAVP_TOKENS} if encoder == 'CAVP' else {}
        runs.append(Training(frozen_run(encoder, seed), 'v2a_frozen_impacts', seed, init, model))
    runs += [Training(name, name) for name in (ALIGNED, GUIDE)]
    return {run.name: run for run in runs}


def cells(budget: Budget, seeds: Sequence[int]) -> list[Cell]:
    """Every evaluation of every table."""
    found = [Cell('v2a', 'v2a', V2A, budget.clips, aligned=True), Cell('a2v', 'a2v', A2V, budget.clips, judged=False)]
    for seed, encoder in itertools.product(seeds, ENCODERS):
        found.append(Cell(f'tokens_{encoder}_{seed}', 'tokens', frozen_run(encoder, seed), budget.clips))
    for scale in SCALES:
        found.append(guided_cell(f'guidance_{scale}', budget, {'sampling.alignment': float(scale)}))
    for scale in SCALES_ALONE:
        options = {'sampling.alignment': float(scale), 'sampling.guidance': 0.0}
        found.append(guided_cell(f'guidance_alone_{scale}', budget, options))
    for solver, spacing, most in itertools.product(SOLVERS, budget.spacings, budget.evaluations):
        options = {
            'sampler': dict(type=f'gmscavp.models.{solver}'),
            'scheduler.spacing': spacing,
            'sampling.steps': steps_for(SAMPLERS.build(dict(type=solver)), most),
        }
        name = sampler_cell(solver, spacing, most)
        found.append(Cell(name, 'samplers', V2A, budget.sampler_clips, options=options))
    return found


def guided_cell(name: str, budget: Budget, options: Mapping[str, Any]) -> Cell:
    """Sound from video with the classifier of noisy latents at hand."""
    return Cell(name, 'guidance', V2A, budget.clips, aligned=True, guided=True, options=options)


def sampler_cell(solver: str, spacing: str, evaluations: int) -> str:
    """Its name."""
    return f'samplers_{solver}_{spacing}_{evaluations}'


def steps_for(sampler: Sampler, evaluations: int) -> int:
    """The most steps that take no more than so many evaluations."""
    return max(steps for steps in range(1, evaluations + 1) if sampler.evaluations(steps) <= evaluations)


def needed(table: str, seeds: Sequence[int]) -> set[str]:
    """The trainings without which a table is not whole."""
    frozen = {frozen_run(encoder, seed) for seed in seeds for encoder in ENCODERS}
    pretrained = {f'{encoder}_{seed}' for seed in seeds for encoder in ENCODERS}
    return {
        'v2a': {JUDGE, V2A},
        'tokens': {JUDGE} | pretrained | frozen,
        'a2v': {CODEC, listener(seeds), A2V},
        'samplers': {JUDGE, V2A},
        'guidance': {JUDGE, V2A, ALIGNED, GUIDE},
    }[table]


def epochs_of(run: Training, budget: Budget) -> int:
    """How long it is trained."""
    return budget.epochs.get(run.config) or whole_epochs(run)


def whole_epochs(run: Training) -> int:
    """How long its config would train."""
    return int(load_config(config_file(run.config)).max_epochs)


def config_file(name: str) -> Path:
    """A config of the project."""
    return ROOT / 'configs' / f'{name}.py'


def _base_config(run: Training, data_root: Path) -> Config:
    """The config on the data of this benchmark, read by the run's own process alone."""
    config = load_config(config_file(run.config))
    options: dict[str, Any] = {'data_root': str(data_root)}
    if 'truth' in config:
        options['truth'] = str(data_root / 'events.jsonl')
    apply_options(config, options)
    for key, value in run.model.items():
        config.model[key] = value
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        config[loader].update(num_workers=0, persistent_workers=False)
    config.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    return config


def more_root(run: Training, data_root: Path) -> Path:
    """Where the clips of a config in MORE_CLIPS lie."""
    return data_root.with_name(MORE_CLIPS[run.config][0])


def train_config(run: Training, budget: Budget, data_root: Path, started: Mapping[str, Path]) -> Config:
    """What tools/train.py is given: no looks between, the newest checkpoint kept. started: training -> checkpoint."""
    config, epochs = _base_config(run, data_root), epochs_of(run, budget)
    apply_options(config, {'max_epochs': epochs, 'train_cfg.max_epochs': epochs})
    # The last epoch is looked at whatever the interval.
    config.train_cfg.update(val_begin=epochs + 1, val_interval=epochs + 1)
    config.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=1, save_best=None, save_last=True)
    if run.seed is not None:
        config.randomness.seed = run.seed
    if run.config in MORE_CLIPS:
        config.train_dataloader.dataset.data_root = str(more_root(run, data_root) if budget.more_clips else data_root)
    if budget.train_clips:
        dataset = config.train_dataloader.dataset
        dataset.get('dataset', dataset)['clips'] = budget.train_clips
    config.init = {part: str(started[name]) for part, name in run.init.items()}
    return config


def test_config(cell: Cell, run: Training, data_root: Path, judge: Path | None, aligned: Path | None) -> Config:
    """What tools/test.py is given. judge, aligned: checkpoints; None where there is none, which leaves its figures out."""
    config = _base_config(run, data_root)
    config.test_dataloader.dataset.clips = cell.clips
    config.test_evaluator.examples = 0
    if cell.guided:
        config.model.classifier = load_config(config_file(GUIDE)).model
    for key, value in cell.options.items():
        place, _, name = key.rpartition('.')
        (config.model[place] if place else config.model)[name] = value
    if judge:
        judges = dict(type='gmscavp.evaluation.embedders.RunEmbedder', config=str(config_file(JUDGE)))
        config.test_evaluator.embedders = dict(judge=dict(**judges, checkpoint=str(judge)))
    if aligned:
        config.test_evaluator.alignment = dict(config=str(config_file(ALIGNED)), checkpoint=str(aligned))
    return config
