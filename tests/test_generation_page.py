"""The page of benchmarks/generation.py says what the figures say; its runs are those that it names."""

import math
from dataclasses import replace

import pytest

from benchmarks import generation_page as page
from benchmarks import generation_runs as runs
from benchmarks.generation_tasks import Task, run_tasks
from gmscavp.errors import UserError
from gmscavp.registry import MODELS, SAMPLERS

ASKED = page.Asked(64, 32, (1, 2, 3), (25, 100), ('trailing', 'karras'), ('Euler', 'Heun'), (0, 1), (0, 10))
SOUND = {
    'N': 64.0,
    'skipped': 0.0,
    'silent': 1.0,
    'not_finite': 0.0,
    'FD_judge': 2.5,
    'onset_f1': 60.0,
    'real_onset_f1': 90.0,
    'shuffled_onset_f1': 30.0,
}


def found(**figures):
    return page.Found(SOUND | figures, minutes=0.5)


def tokens(cavp, gms, figure='onset_f1'):
    pairs = [('CAVP', cavp), ('GMS-CAVP', gms)]
    return {f'tokens_{name}_{k}': found(**{figure: x}) for name, of in pairs for k, x in enumerate(of, start=1)}


def written(of, rows=(), failures=()):
    return page.page(of, rows, 'command', ASKED, failures)


def test_v2a_stands_beside_real_sound_and_chance_with_the_ratio():
    text = '\n'.join(page.v2a_section({'v2a': found(alignment_accuracy=70.0)}))
    assert '| seen impacts heard: F1, % | 60.0 | 90.0 | 30.0 |' in text
    assert '2.00 times' in text
    assert '64 clips; 1 silent' in text
    assert 'Missing' not in text
    assert 'no multiple' in page.ratio_sentence(SOUND | {'shuffled_onset_f1': 0.0})


def test_what_was_not_measured_is_named_and_not_invented():
    text = '\n'.join(page.v2a_section({'v2a': replace(found(), judged=False)}))
    assert 'Missing: the judge, so FD, KL and IS, the alignment classifier' in text
    nothing = written({})
    assert nothing.count('Missing: ') == 4
    assert 'CAVP of seed 3' in nothing
    assert nothing.count('| Euler | missing | missing |') == 2
    assert not [line for line in nothing.splitlines() if 'evaluations against' in line]


@pytest.mark.parametrize(
    ('gms', 'verdict', 'better'), [((60.0, 61.0, 62.0), 'outside', '3 of 3'), ((50.0, 60.0, 40.0), 'within', '1 of 3')]
)
def test_a_gap_is_clear_only_where_it_is_greater_than_the_spread_of_the_seeds(gms, verdict, better):
    of = page.token_runs(tokens((50.0, 51.0, 49.5), gms), ASKED.seeds)
    higher = page.comparison(of, 'onset_f1', 'onset F1', lower_is_better=False)
    assert f'{verdict} one standard deviation' in higher
    assert f'better in {better} seeds' in higher


def test_of_distances_the_lower_is_better_and_one_seed_proves_nothing():
    of = page.token_runs(tokens((3.0, 3.1), (2.0, 2.2), 'FD_judge'), ASKED.seeds)
    said = page.comparison(of, 'FD_judge', 'FD', lower_is_better=True)
    assert ': -0.95 (lower is better)' in said
    assert 'better in 2 of 2' in said
    assert page.comparison({'CAVP': {1: SOUND}, 'GMS-CAVP': {1: SOUND}}, 'FD_judge', 'FD', True) is None
    # Seeds that only one of them has are not compared.
    uneven = page.token_runs(tokens((50.0, 51.0), (60.0,)), ASKED.seeds)
    assert page.comparison(uneven, 'onset_f1', 'onset F1', False) is None
    text = '\n'.join(page.tokens_section(tokens((50.0, 52.0, 51.0), (60.0,)), ASKED.seeds))
    assert '| CAVP (3) | 2.5 ± 0.0 | 51.0 ± 1.0 |' in text
    assert 'Missing: GMS-CAVP of seed 2, GMS-CAVP of seed 3.' in text


def test_figures_of_nothing_are_dashes():
    of = tokens((50.0, 51.0), (60.0, math.nan))
    assert page.comparison(page.token_runs(of, (1, 2)), 'onset_f1', 'onset F1', False) is None
    assert '–' in '\n'.join(page.a2v_section({'a2v': page.Found({'N': 2.0, 'position_error_px': None}, 0.1)}))


def test_a_page_of_one_table_holds_no_other():
    text = page.page({'v2a': found()}, (), 'command', replace(ASKED, tables=('samplers',)))
    assert [line for line in text.splitlines() if line.startswith('## ')] == [
        '## Samplers',
        '## How the figures were got',
    ]


def test_samplers_are_compared_at_25_and_100_evaluations_of_the_same_grid():
    of = {
        'samplers_Euler_trailing_25': found(onset_f1=55.0),
        'samplers_Euler_trailing_100': found(onset_f1=58.0),
        'samplers_Euler_karras_25': found(onset_f1=20.0),
        'samplers_Heun_karras_100': found(),
    }
    lines = page.samplers_section(of, ASKED)
    assert '| Euler | 2.5 / 55.0 (1 broken) | 2.5 / 58.0 (1 broken) |' in lines
    assert '| Heun | missing | missing |' in lines
    said = [line for line in lines if 'evaluations against' in line]
    assert said == ['- Euler, 25 evaluations against 100: trailing F1 -3.0 points (55.0, 58.0), FD 2.5 against 2.5']


def test_the_page_says_what_was_trained_what_stood_in_and_what_failed():
    rows = [
        page.RunFacts('v2a_impacts', 'v2a_impacts.py', 0, 32, 32, None, 'work_dirs/v2a_impacts', True),
        page.RunFacts('CAVP_1', 'cavp_impacts.py', 1, 5, 20, 4.25, None, True),
        page.RunFacts('CAVP_2', 'cavp_impacts.py', 2, None, 20, None, None, False, 'training CAVP_2 ended with code 1'),
    ]
    text = written({'v2a': found()}, rows, ['judging a2v ended with code 2'])
    assert '| v2a_impacts | v2a_impacts.py | 32 of 32 | 0 | – | a run that was there: `work_dirs/v2a_impacts` |' in text
    assert '| CAVP_1 | cavp_impacts.py | 5 of 20 | 1 | 4.2 | trained here |' in text
    assert 'missing: training CAVP_2 ended with code 1' in text
    assert 'judging a2v ended with code 2' in text
    assert 'all evaluations took 0.5' in text


@pytest.mark.parametrize('solver', runs.SOLVERS)
@pytest.mark.parametrize('most', [5, 10, 25, 50, 100])
def test_samplers_take_the_most_steps_within_the_evaluations(solver, most):
    sampler = SAMPLERS.build(dict(type=solver))
    steps = runs.steps_for(sampler, most)
    assert sampler.evaluations(steps) <= most < sampler.evaluations(steps + 1)


def test_every_cell_is_of_a_training_and_every_training_comes_after_those_it_needs():
    of = runs.trainings((1, 2))
    names = list(of)
    for run in of.values():
        assert all(names.index(need) < names.index(run.name) for need in run.needs)
    for budget in runs.BUDGETS.values():
        found_cells = runs.cells(budget, (1, 2))
        assert len({cell.name for cell in found_cells}) == len(found_cells)
        assert {cell.table for cell in found_cells} == set(page.TABLES)
        assert all(cell.run in runs.needed(cell.table, (1, 2)) <= set(of) for cell in found_cells)


def test_the_frozen_encoders_are_those_of_pretraining(tmp_path):
    of = runs.trainings((7,))
    for encoder in runs.ENCODERS:
        run = of[runs.frozen_run(encoder, 7)]
        config = runs.train_config(run, runs.BUDGETS['tiny'], tmp_path, {f'{encoder}_7': tmp_path / 'epoch_1.pth'})
        assert config.init.video_pyramid == config.init.video_backbone == str(tmp_path / 'epoch_1.pth')
        assert (config.randomness.seed, config.train_cfg.max_epochs) == (7, 1)
        assert config.train_dataloader.dataset.data_root == str(tmp_path)
        pretrained = MODELS.build(runs.load_config(runs.config_file(of[f'{encoder}_7'].config)).model)
        generator = MODELS.build(config.model)
        for part in ('video_backbone', 'video_pyramid'):
            shapes = [
                {k: v.shape for k, v in getattr(model, part).state_dict().items()} for model in (pretrained, generator)
            ]
            assert shapes[0] == shapes[1]
        assert generator.video_pyramid.lengths == ([16] if encoder == 'CAVP' else [16, 8, 4, 2, 1])


def test_video_from_sound_starts_with_pretrained_ears_and_has_more_clips_where_the_budget_says(tmp_path):
    run = runs.trainings((3,))[runs.A2V]
    started = {name: tmp_path / f'{name}.pth' for name in run.needs}
    for name, place in (('full', tmp_path / 'impacts_6k'), ('tiny', tmp_path / 'impacts')):
        config = runs.train_config(run, runs.BUDGETS[name], tmp_path / 'impacts', started)
        assert config.train_dataloader.dataset.data_root == str(place)
        assert config.test_dataloader.dataset.data_root == str(tmp_path / 'impacts')
        assert config.init.audio_backbone == str(tmp_path / 'GMS-CAVP_3.pth')
    pretrained = MODELS.build(runs.load_config(runs.config_file('gmscavp_impacts')).model).audio_backbone
    mine = MODELS.build(config.model).audio_backbone
    assert {k: v.shape for k, v in pretrained.state_dict().items()} == {
        k: v.shape for k, v in mine.state_dict().items()
    }


def test_cells_change_only_what_they_name(tmp_path):
    budget, of = runs.BUDGETS['full'], runs.trainings((1,))
    cells = {cell.name: cell for cell in runs.cells(budget, (1,))}
    name = runs.sampler_cell('Midpoint', 'karras', 25)
    config = runs.test_config(cells[name], of[runs.V2A], tmp_path, tmp_path / 'judge.pth', None)
    assert (config.model.scheduler.spacing, config.model.scheduler.shift) == ('karras', 15.0)
    assert (config.model.sampling.steps, config.model.sampling.guidance) == (12, 3.0)
    assert config.test_dataloader.dataset.clips == budget.sampler_clips
    assert config.test_evaluator.embedders.judge.checkpoint == str(tmp_path / 'judge.pth')
    assert 'alignment' not in config.test_evaluator
    assert config.test_evaluator.truth == str(tmp_path / 'events.jsonl')
    guided = runs.test_config(cells['guidance_10'], of[runs.V2A], tmp_path, None, tmp_path / 'align.pth')
    assert (guided.model.sampling.alignment, guided.model.sampling.guidance) == (10.0, 3.0)
    assert MODELS.build(guided.model).classifier.noisy


def test_tasks_wait_for_each_other_and_a_failure_does_not_stop_the_others():
    done = []

    def fail():
        raise UserError('no disk')

    tasks = {
        'late': Task(lambda: done.append('late'), ('early', 'not to be done')),
        'early': Task(lambda: done.append('early')),
        'bad': Task(fail),
        'after bad': Task(lambda: done.append('after bad'), ('bad',)),
    }
    assert run_tasks(tasks, jobs=2) == {'bad': 'no disk'}
    assert sorted(done) == ['after bad', 'early', 'late']
    assert done.index('early') < done.index('late')
