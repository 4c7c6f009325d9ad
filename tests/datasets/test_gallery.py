"""Galleries: lists and rules that give the same clips everywhere, and what is said when clips are missing."""

import itertools
import json
import random
from collections import Counter

import pytest
import torch

from gmscavp.datasets.base import ClipDataset
from gmscavp.datasets.gallery import (
    GallerySubset,
    five_per_class,
    gallery_hash,
    hash_order,
    held_out,
    plain_id,
    read_gallery_list,
    select,
)
from gmscavp.datasets.manifest import Manifest
from gmscavp.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def manifest(count=20, labels=None):
    columns = {'file': [f'{i:02d}.mp4' for i in range(count)]}
    return Manifest.from_columns(columns | ({'labels': labels} if labels else {}), 'test')


def ids(count):
    return [f'{i:02d}' for i in range(count)]


def test_the_hash_is_of_the_sorted_names_and_never_changes():
    expected = '7e18f737311b2dc3b2f269dd78396b0351f14fb66efa879f768cb23181883c78'
    assert gallery_hash(['b', 'a']) == gallery_hash(['a', 'b']) == expected
    assert len({gallery_hash(names) for names in (['a'], ['b'], ['a', 'b'], ['ab'])}) == 4


def test_rules_depend_on_the_names_alone():
    labels = [['x'] if i % 3 else ['y', 'x'] for i in range(40)]
    paired = list(zip(ids(40), labels, strict=True))
    random.Random(0).shuffle(paired)
    shuffled, their_labels = zip(*paired, strict=True)
    assert hash_order(shuffled) == hash_order(ids(40))
    assert held_out(shuffled, 7) == held_out(ids(40), 7)
    assert set(held_out(ids(40), 7)) < set(held_out(ids(40), 8))
    assert five_per_class(shuffled, their_labels) == five_per_class(ids(40), labels)


def test_five_of_every_class_and_no_clip_twice():
    # Every clip of the rare class has the common label too, which must not take them.
    labels = [['common', 'rare'] if i < 5 else ['common'] if i < 30 else ['scarce'] for i in range(33)]
    chosen = five_per_class(ids(33), labels)
    assert {label: len(of) for label, of in chosen.items()} == {'common': 5, 'rare': 5, 'scarce': 3}
    assert Counter(itertools.chain(*chosen.values())).most_common(1)[0][1] == 1
    assert set(chosen['rare']) == set(ids(5))
    assert [len(of) for of in five_per_class(ids(33), labels, per_class=2).values()] == [2, 2, 2]


def test_names_of_lists_lose_folders_and_endings():
    assert plain_id('a/b\\--0PQM4-hqg_000030.mp4') == '--0PQM4-hqg_000030'
    assert plain_id(' x.y.WAV ') == 'x.y'
    assert plain_id('x.y') == 'x.y'


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('l.json', json.dumps({'data': [{'video_id': 'a', 'wav': 'x/a.wav'}, {'video_id': 'b'}]})),
        ('l.json', json.dumps(['a.mp4', 'b'])),
        ('l.txt', 'a\n\nb.mp4\r\n'),
        ('l.csv', 'a,dog\nb,cat\n'),
        ('l.csv', '\ufefflabel,clip_id\ndog,a\ncat,b\n'),
    ],
)
def test_lists_of_every_format_are_read(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text, encoding='utf-8')
    assert read_gallery_list(file) == ['a', 'b']


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('l.json', '{"data": [', 'is not JSON'),
        ('l.json', '[' * 100_000, 'is not JSON'),
        ('l.json', '{"clips": []}', 'neither a list nor'),
        ('l.json', '[{"wav": "a"}]', 'entry 1, names its clip under none of'),
        ('l.json', '[1]', 'entry 1'),
        ('l.txt', '\n \n', 'names no clip'),
        ('l.txt', 'a\na.mp4\n', "the clip 'a' twice"),
        ('l.csv', 'label,clip_id\ndog\n', 'only 1 columns'),
        ('l.pkl', 'a', 'must end in'),
    ],
)
def test_wrong_lists_are_named(tmp_path, name, text, message):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_gallery_list(file)


def test_a_list_of_bytes_and_a_missing_one_are_named(tmp_path):
    (tmp_path / 'l.txt').write_bytes(b'\xff\xfe\x00a')
    with pytest.raises(UserError, match='cannot be read'):
        read_gallery_list(tmp_path / 'l.txt')
    with pytest.raises(UserError, match=r'none\.json does not exist; set gallery_file.*It is published: in a paper'):
        read_gallery_list(tmp_path / 'none.json', published='in a paper')


@pytest.mark.parametrize(
    ('gallery', 'message'),
    [
        ({}, 'rule must be one of'),
        ({'rule': 'lists'}, 'Did you mean list'),
        ({'rule': 'list'}, "needs 'gallery_file'"),
        ({'rule': 'held_out'}, "needs 'count'"),
        ({'rule': 'held_out', 'count': 0}, 'count must be a number from 1'),
        ({'rule': 'held_out', 'cuont': 4}, 'Did you mean count'),
        ({'rule': 'five_per_class'}, 'needs labels'),
    ],
)
def test_wrong_rules_are_named(gallery, message):
    with pytest.raises(UserError, match=message):
        select(gallery, manifest())


def test_clips_that_carry_a_path_are_found_by_their_name(tmp_path):
    (tmp_path / 'l.txt').write_text('a\nb\n')
    rows = Manifest.from_columns({'file': ['x/a.mp4', 'b.mp4'], 'clip_id': ['x/a.mp4', 'b.mp4']}, 'test')
    chosen = select({'rule': 'list', 'gallery_file': str(tmp_path / 'l.txt')}, rows)
    assert (chosen.clip_ids, chosen.missing) == (['x/a.mp4', 'b.mp4'], [])


class Numbered(ClipDataset):
    """Clips without files: frame t of window n of clip i shows the number 16 n + t + i."""

    def __init__(self, count: int = 20, windows: int = 0, replace_bad: bool = False, labels=None) -> None:
        clip = dict(duration_s=1.0, fps=4, size=8, sample_rate=8)
        super().__init__(manifest(count, labels), '.', clip, dict(type='CentreWindow'), replace_bad=replace_bad)
        self.windows = windows

    def __getitem__(self, index):
        video = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 2, 2) + index
        if self.windows:
            video = torch.stack([video + 16 * n for n in range(self.windows)])
        return {'video': video, 'clip_id': self.manifest[index].clip_id}


def subset(gallery, dataset=None, **settings):
    return GallerySubset(dict(type=Numbered, **(dataset or {})), gallery, **settings)


def test_a_subset_gives_the_chosen_clips_and_says_so(tmp_path):
    (tmp_path / 'l.txt').write_text('\n'.join(['03', '11', '07', 'gone']))
    part = subset(
        {'rule': 'list', 'gallery_file': str(tmp_path / 'l.txt')}, {'labels': ['a;b'] * 20}, protocol='P', min_found=0.7
    )
    assert [part[i]['clip_id'] for i in range(len(part))] == ['03', '07', '11'] == part.manifest.column('clip_id')
    facts = part.metainfo['gallery']
    assert (facts['protocol'], facts['rule']) == ('P', 'list')
    assert (facts['listed'], facts['found'], facts['missing']) == (4, 3, ['gone'])
    assert facts['hash'] == 'sha256:' + gallery_hash(['03', '07', '11', 'gone'])
    assert part.metainfo['labels']['07'] == ['a', 'b']
    assert json.loads(json.dumps(facts)) == facts


def test_too_many_missing_clips_are_refused_and_named(tmp_path):
    (tmp_path / 'l.txt').write_text('\n'.join(['03', *(f'gone{i}' for i in range(9))]))
    gallery = {'rule': 'list', 'gallery_file': str(tmp_path / 'l.txt')}
    with pytest.raises(UserError, match=r'P: 9 of 10 listed clips are missing \(gone0, gone1, .*\.\.\.\).*min_found'):
        subset(gallery, protocol='P')
    assert len(subset(gallery, min_found=0.1)) == 1
    (tmp_path / 'l.txt').write_text('gone')
    with pytest.raises(UserError, match=r'none of the 1 listed clips is in the data set \(gone\)'):
        subset(gallery, min_found=0.0)


def test_rules_report_what_they_fall_short_of():
    labels = ['x'] * 17 + ['y'] * 3
    with pytest.raises(UserError, match=r'2 of 10 listed clips are missing \(y \(3 of 5\)\)'):
        subset({'rule': 'five_per_class'}, {'labels': labels})
    part = subset({'rule': 'five_per_class'}, {'labels': labels}, min_found=0.8)
    assert (len(part), part.metainfo['gallery']['missing']) == (8, ['y (3 of 5)'])
    assert len(subset({'rule': 'held_out', 'count': 6})) == 6
    part = subset({'rule': 'held_out', 'count': 40}, min_found=0.5)
    assert (len(part), part.metainfo['gallery']['listed']) == (20, 40)
    whole = subset({'rule': 'all'})
    assert (len(whole), whole.metainfo['gallery']['listed']) == (20, 20)
    assert [whole[i]['clip_id'] for i in (0, 19)] == ['00', '19']


def test_still_shows_the_middle_frame_of_the_clip_or_of_each_window():
    def shown(**settings):
        return subset({'rule': 'all'}, **settings)[3]['video'][..., 0, 0, 0].tolist()

    assert shown() == [3, 4, 5, 6]
    assert shown(still='clip') == shown(still='window') == [5] * 4
    windows = {'windows': 3}
    assert shown(dataset=windows, still='window') == [[5] * 4, [21] * 4, [37] * 4]
    assert shown(dataset=windows, still='clip') == [[21] * 4] * 3
    with pytest.raises(UserError, match='still must be'):
        subset({'rule': 'all'}, still='frame')


def test_a_test_set_that_replaces_clips_is_refused():
    with pytest.raises(UserError, match='replace_bad=False'):
        subset({'rule': 'all'}, {'replace_bad': True})


def test_only_test_sets_carry_labels_and_facts():
    assert Numbered(replace_bad=True).metainfo == {}
    known = Numbered(labels=['dog'] * 20).metainfo
    assert known['labels']['04'] == ['dog']
    assert len(known['labels']) == 20
    assert known['labels'].get('nobody') is None
    assert known['gallery']['found'] == 20


def test_the_published_list_of_vggsound(real_data):
    folder = real_data / 'meta' / 'retrieval'
    file = folder / 'vgg_test_5_per_class_for_retrieval_template.json'
    if not file.is_file():
        pytest.skip(f'no published list at {file}')
    listed = read_gallery_list(file)
    assert len(listed) == len(set(listed)) == 1545
    rows = (real_data / 'meta/vggsound/test.csv').read_text().splitlines()
    label = {plain_id(row.split(',')[0]): row.split(',', 1)[1] for row in rows}
    assert Counter(Counter(label[clip_id] for clip_id in listed).values()) == {5: 309}
    everything = Manifest.from_columns({'file': list(label), 'label': list(label.values())}, 'VGGSound')
    chosen = select({'rule': 'list', 'gallery_file': str(file)}, everything)
    assert (len(chosen.clip_ids), chosen.listed, chosen.missing) == (1545, 1545, [])
    assert chosen.digest == '4d58dadf6ffe612bd0374b0d0d3a798c6bbc7f768245f7aefcc9bacddf5591df'
    assert len(select({'rule': 'five_per_class'}, everything).clip_ids) == 1545
