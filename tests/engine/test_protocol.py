"""Protocols: every one joins every config, keeps what the model needs, and mistakes in them are named."""

from pathlib import Path

import pytest
from mmengine.config import Config

from gmscavp.engine.config import load_config
from gmscavp.engine.protocol import load_with_protocol
from gmscavp.errors import UserError

ROOT = Path(__file__).parents[2]
PROTOCOLS = sorted(ROOT.glob('configs/retrieval/*.py'))
CONFIGS = [ROOT / f'configs/{name}.py' for name in ('gmscavp_vggsound', 'gmscavp_impacts', 'gmscavp_folder')]
IMPACTS = CONFIGS[1]
P1 = ROOT / 'configs/retrieval/p1_vggsound.py'


def test_there_are_the_protocols_that_the_docs_name():
    named = (ROOT / 'docs/evaluation.md').read_text()
    assert len(PROTOCOLS) == 10
    for protocol in PROTOCOLS:
        assert f'`{protocol.stem}`' in named


@pytest.mark.parametrize('protocol', PROTOCOLS, ids=lambda path: path.stem)
def test_a_protocol_joins_every_config_and_can_be_dumped(protocol, tmp_path):
    for path in CONFIGS:
        config, own = load_with_protocol(path, protocol), load_config(path)
        dataset = config.test_dataloader.dataset
        clip, before = dataset.dataset.clip, own.test_dataloader.dataset.clip
        for key in ('fps', 'size', 'sample_rate', 'backend'):
            assert clip[key] == before[key]
        assert dataset.dataset.get('transforms') == own.test_dataloader.dataset.get('transforms')
        assert dataset.dataset.replace_bad is False
        assert dataset.dataset.window is not None
        for untouched in ('model', 'train_dataloader', 'val_dataloader'):
            assert config[untouched] == own[untouched]
        assert config.test_dataloader.collate_fn == own.test_dataloader.collate_fn
        config.dump(str(tmp_path / 'dumped.py'))
        dumped = Config.fromfile(str(tmp_path / 'dumped.py'))
        assert dumped.test_dataloader.dataset.protocol == dataset.protocol
        assert load_config(tmp_path / 'dumped.py').test_dataloader == dumped.test_dataloader


def test_options_reach_the_protocol():
    options = {'data_root': 'here', 'gallery_file': 'list.txt', 'test_dataloader.dataset.min_found': 0.5}
    dataset = load_with_protocol(IMPACTS, P1, options).test_dataloader.dataset
    assert dataset.dataset.data_root == 'here'
    assert dataset.gallery.gallery_file == 'list.txt'
    assert dataset.min_found == 0.5
    with pytest.raises(UserError, match=r"no 'galery_file'\. Did you mean gallery_file"):
        load_with_protocol(IMPACTS, P1, {'galery_file': 'x'})


def test_an_open_data_set_is_the_configs_own():
    protocol = ROOT / 'configs/retrieval/held_out_folder.py'
    for path in CONFIGS:
        own = load_config(path).test_dataloader.dataset
        joined = load_with_protocol(path, protocol).test_dataloader.dataset.dataset
        assert {**own, 'type': None} == {**joined, 'type': None}
    here = load_with_protocol(CONFIGS[2], protocol, {'data_root': 'here'})
    assert here.test_dataloader.dataset.dataset.data_root == 'here'


def test_without_a_protocol_the_config_is_as_it_is():
    assert load_with_protocol(IMPACTS, None).pretty_text == load_config(IMPACTS).pretty_text


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(a=1)', "sets 'model'; a protocol sets test_dataloader"),
        ('test_dataloder = dict(dataset=dict())', 'Did you mean test_dataloader'),
        ('test_dataloader = dict(batch_size=2)', 'needs test_dataloader = dict'),
        (
            'from gmscavp.datasets import GallerySubset\n'
            "test_dataloader = dict(dataset=dict(type=GallerySubset, galery={}, gallery={}, dataset=dict(split='test')))",
            'Did you mean gallery',
        ),
        (
            'from gmscavp.datasets import GallerySubset\n'
            'test_dataloader = dict(dataset=dict(type=GallerySubset, gallery={}, dataset=dict(splt=1)))',
            "Impacts has no setting 'splt'",
        ),
    ],
)
def test_mistakes_in_a_protocol_are_named(tmp_path, text, message):
    file = tmp_path / 'protocol.py'
    file.write_text(f'{text}\n')
    with pytest.raises(UserError, match=message):
        load_with_protocol(IMPACTS, file)


def test_a_missing_protocol_and_a_config_without_a_test_are_named(tmp_path):
    with pytest.raises(UserError, match=r'none\.py does not exist'):
        load_with_protocol(IMPACTS, tmp_path / 'none.py')
    (tmp_path / 'bare.py').write_text('seed = 1\n')
    with pytest.raises(UserError, match='has no test_dataloader'):
        load_with_protocol(tmp_path / 'bare.py', P1)
