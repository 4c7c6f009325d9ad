"""The page of benchmarks/retrieval_order.py says what the figures say."""

from pathlib import Path

import pytest

from benchmarks import order_page as page
from benchmarks.order_variants import VARIANTS, folder_name
from gmscavp.engine.config import check_config, load_config

ROOT = Path(__file__).resolve().parents[1]


def run(variant, seed, recall):
    figures = {'mean_R1': recall, 'v2a_R10': recall, 'a2v_R10': recall, 'chance_R1': 0.4, 'N': 256}
    looks = {look: dict.fromkeys(page.GALLERIES, figures) for look in ('early', 'late')}
    return dict(variant=variant, seed=seed, minutes=1.0, parameters=10, encoders=5, looks=looks)


def runs(**recalls):
    return {
        name.replace('_', '-'): [run(name, seed, recall) for seed, recall in enumerate(of)]
        for name, of in recalls.items()
    }


@pytest.mark.parametrize(
    ('higher', 'verdict'), [([20.0, 21.0, 22.0], 'outside one'), ([10.0, 13.0, 9.0], 'within one')]
)
def test_a_gap_is_clear_only_where_it_is_greater_than_the_spread_of_the_seeds(higher, verdict):
    said = page.comparisons(runs(CAVP=[10.0, 11.0, 9.0], DiffGAP=higher), 'late', 'mixed')
    assert verdict in said[0]


def test_one_seed_proves_nothing_and_the_ratio_is_of_means():
    said = page.comparisons(runs(CAVP=[10.0], GMS_CAVP=[35.0]), 'late', 'mixed')
    assert said == ['- GMS-CAVP / CAVP: 3.5 times']


def test_an_ablation_is_held_against_the_runs_of_its_own_seeds():
    found = runs(GMS_CAVP=[80.0, 90.0])
    found['feature pyramid'] = [run('feature pyramid', 1, 92.0)]
    assert page.against_the_method(found, 'late', 'mixed') == ['- GMS-CAVP to feature pyramid, seed 1: +2.0 points']
    assert set(page.ABLATIONS) <= set(VARIANTS)


def test_the_best_of_the_trials_is_named_for_every_model():
    found = {
        'CAVP: default': [1.0],
        'CAVP: rate 4e-3': [2.0],
        'GMS-CAVP: default': [75.0],
        'GMS-CAVP: width 128': [60.0],
    }
    said = page.comparisons({name: [run(name, 1, *of)] for name, of in found.items()}, 'late', 'mixed')
    assert said == [
        '- CAVP, best of 2 trials: rate 4e-3 with 2.0 (default: 1.0)',
        '- GMS-CAVP, best of 2 trials: default with 75.0 (default: 75.0)',
    ]
    assert not page.best_trials({'batches of 12: scales only': 3.0})


def test_the_table_has_a_row_a_variant_and_says_how_many_runs_there_are():
    text = page.impacts_page(runs(CAVP=[10.0, 12.0], GMS_CAVP=[35.0]), 'command', 'settings', {'early': 2, 'late': 5})
    assert '| CAVP (2) | 11.0 ± 1.4 |' in text
    assert '| GMS-CAVP (1) | 35.0 |' in text
    assert 'After 2 epochs' in text
    assert 'After 5 epochs' in text


@pytest.mark.parametrize('name', VARIANTS)
def test_every_variant_is_a_config_that_can_be_checked_and_written_down(name):
    variant = VARIANTS[name]
    config = load_config(ROOT / 'configs' / f'{variant.config}_impacts.py')
    before = config.pretty_text
    config.model.update(variant.changes(config.model))
    config.merge_from_dict(dict(variant.settings))
    check_config(config)
    assert (config.pretty_text == before) == (name in {'CAVP', 'DiffGAP', 'GMS-CAVP'} or name.endswith(': default'))


def test_runs_have_folders_of_their_own_with_plain_names():
    folders = [folder_name(name, seed) for name in VARIANTS for seed in (1, 2)]
    assert len(set(folders)) == len(folders)
    assert not [name for name in folders if set(name) & set('/: ()')]
