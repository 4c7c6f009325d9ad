"""The folder and the VGGSound configs on real clips; skipped where there are none."""

import csv
import json
import re

import pytest

from gmscavp.engine.config import load_config
from gmscavp.registry import DATASETS
from tests.engine.test_tools import ROOT
from tests.running import tool

FEW = ['batch_size=8', 'num_workers=1', 'max_epochs=1', 'val_interval=1']


def test_a_folder_of_real_clips_trains_and_is_evaluated_on_its_test_split(real_data, tmp_path):
    out = tool(
        'train.py',
        'configs/gmscavp_folder.py',
        '--work-dir',
        tmp_path,
        '--cfg-options',
        f'data_root={real_data / "clips"}',
        *FEW,
    )
    with (real_data / 'clips.csv').open() as rows:
        splits = [row['split'] for row in csv.DictReader(rows)]
    for split in ('train', 'test'):
        assert f'{split}: found {splits.count(split)} of {splits.count(split)} listed clips' in out
    figures = [json.loads(line) for line in next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    last = [line for line in figures if 'retrieval/N' in line][-1]
    assert last['retrieval/N'] + last['retrieval/skipped'] == splits.count('test')
    assert last['retrieval/chance_R1'] == pytest.approx(100 / last['retrieval/N'])


def test_training_never_sees_the_test_split(real_data):
    config = load_config(ROOT / 'configs/gmscavp_folder.py', {'data_root': str(real_data / 'clips')})
    train, test = (DATASETS.build(config[f'{part}_dataloader'].dataset) for part in ('train', 'test'))
    files = [set(data.manifest.column('file')) for data in (train, test)]
    assert not files[0] & files[1]
    with (real_data / 'clips.csv').open() as rows:
        assert files[1] == {row['file'] for row in csv.DictReader(rows) if row['split'] == 'test'}


def test_vggsound_config_says_how_many_listed_clips_it_found_and_reads_them(real_data, tmp_path):
    """The csv in the official form, with the clips that are there and two that are gone."""
    name = re.compile(r'([\w-]{11})_(\d{6})\.mp4')
    with (real_data / 'clips.csv').open() as rows:
        there = [(name.fullmatch(row['file']), row['label'], row['split']) for row in csv.DictReader(rows)]
    lines = [(m[1], int(m[2]), label or 'unnamed', split) for m, label, split in there if m]
    lines += [('gone0000000', 30, 'rain', 'train'), ('gone0000001', 0, 'rain', 'test')]
    with (tmp_path / 'vggsound.csv').open('w', newline='') as out:
        csv.writer(out).writerows(lines)
    options = {'data_root': str(real_data / 'clips'), 'annotations': str(tmp_path / 'vggsound.csv')}
    config = load_config(ROOT / 'configs/gmscavp_vggsound.py', options)
    found = {part: DATASETS.build(config[f'{part}_dataloader'].dataset) for part in ('train', 'val')}
    wanted = [sum(line[3] == split for line in lines) - 1 for split in ('train', 'test')]
    assert [len(found['train']), len(found['val'])] == wanted
    sample = found['val'][0]
    assert sample['video'].shape == (16, 3, 224, 224)
    assert sample['audio'].shape == (64000,)
