"""Data sets find their clips, say how many, replace or mark bad ones, and name what is missing."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gmscavp.datasets import CentreCrop, CentreWindow, ClipFormat, Impacts, VGGSound, VideoFolder, base, vggsound
from gmscavp.datasets.decoding import media
from gmscavp.datasets.encoding import write_clip
from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.datasets.vggsound import read_vggsound_csv
from gmscavp.errors import UserError
from gmscavp.structures import Draw

CLIP = dict(duration_s=0.5, fps=8, size=32, sample_rate=8000, backend='pyav')
COMMON = dict(clip=CLIP, window=dict(type=CentreWindow))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture(scope='module')
def one_clip(tmp_path_factory):
    """A good file of 1 s, from which folders are made by copying."""
    file = tmp_path_factory.mktemp('source') / 'good.mp4'
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (16, 48, 64, 3), dtype=np.uint8)
    write_clip(file, frames, 16, rng.uniform(-0.5, 0.5, 16000).astype(np.float32), 16000)
    return file


@pytest.fixture
def folder(tmp_path, one_clip):
    """make('a.mp4', 'b/c.mp4') -> a folder with good clips of these names."""
    root = tmp_path / 'clips'
    root.mkdir()

    def make(*names):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(one_clip, root / name)
        return root

    return make


def test_sample_has_the_promised_shapes(folder):
    root = folder('a.mp4')
    sample = VideoFolder(str(root), **COMMON, split='train', test_share=0.0)[0]
    assert (sample['video'].shape, sample['video'].dtype) == ((4, 3, 32, 43), torch.uint8)
    assert (sample['audio'].shape, sample['audio'].dtype) == ((4000,), torch.float32)
    assert (sample['clip_id'], sample['valid'], sample['failures']) == ('a.mp4', True, '')
    assert sample['start_s'] == pytest.approx(0.25, abs=0.05)


def test_folder_without_manifest_splits_by_name_for_good(folder):
    root = folder(*(f'{i}.mp4' for i in range(40)), 'sub/x.webm.mp4', 'note.txt')
    train, test = (VideoFolder(str(root), **COMMON, split=split, test_share=0.3) for split in ('train', 'test'))
    ids = train.manifest.column('clip_id'), test.manifest.column('clip_id')
    assert len(ids[0]) + len(ids[1]) == 41
    assert not set(ids[0]) & set(ids[1])
    assert 5 <= len(ids[1]) <= 20
    folder('zzz.mp4')
    again = VideoFolder(str(root), **COMMON, split='test', test_share=0.3).manifest.column('clip_id')
    assert set(ids[1]) <= set(again), 'a new file must not move the others to another split'


@pytest.mark.parametrize('place', ['clips/manifest.csv', 'clips.csv'])
def test_manifest_in_or_beside_the_folder_is_found_and_its_split_kept(folder, place):
    root = folder('a.mp4', 'b.mp4', 'c.mp4')
    (root.parent / place).write_text('file,split\na.mp4,train\nb.mp4,test\ngone.mp4,test\n')
    test = VideoFolder(str(root), **COMMON, split='test')
    assert test.manifest.column('file') == ['b.mp4']
    with pytest.raises(UserError, match="in the split 'val'"):
        VideoFolder(str(root), **COMMON, split='val')


def test_rows_may_be_windows_of_one_file(folder):
    root = folder('a.mp4')
    (root / 'manifest.csv').write_text('clip_id,file,start_s,end_s\nx,a.mp4,0,0.5\ny,a.mp4,0.5,1\n')
    data = VideoFolder(str(root), **COMMON, test_share=0.0)
    assert [data[i]['start_s'] for i in range(2)] == [0.0, 0.5]
    assert not torch.equal(data[0]['video'], data[1]['video'])


SEGMENTS = dict(clip=CLIP, window=dict(type='EvenWindows', segments=3))


def test_segments_are_the_windows_read_one_by_one(folder):
    root = folder('a.mp4')
    sample = VideoFolder(str(root), **SEGMENTS, test_share=0.0)[0]
    assert (sample['video'].shape, sample['audio'].shape) == ((3, 4, 3, 32, 43), (3, 4000))
    starts = sample['start_s'].tolist()
    assert starts == pytest.approx([0, 0.25, 0.5], abs=0.05)
    for n, start in enumerate(starts):
        (root / 'manifest.csv').write_text(f'file,start_s,end_s\na.mp4,{start},{start + 0.5}\n')
        one = VideoFolder(str(root), **COMMON, test_share=0.0)[0]
        assert torch.equal(sample['video'][n], one['video'])
        assert torch.equal(sample['audio'][n], one['audio'])


def test_segments_of_a_file_are_transformed_alike(folder):
    root = folder('a.mp4')
    starts = VideoFolder(str(root), **SEGMENTS, test_share=0.0)[0]['video']
    chance = [dict(type='Flip'), dict(type='Gain')]
    data = VideoFolder(str(root), **SEGMENTS, transforms=chance, test_share=0.0)
    torch.manual_seed(0)
    seen = set()
    for _ in range(12):
        sample = data[0]
        flipped = [torch.equal(video, plain.flip(-1)) for video, plain in zip(sample['video'], starts, strict=True)]
        assert len(set(flipped)) == 1
        seen.add(flipped[0])
    assert seen == {True, False}


def test_files_too_short_for_different_segments_are_too_short(folder):
    settings = SEGMENTS | dict(clip=CLIP | dict(duration_s=0.8))
    data = VideoFolder(str(folder('a.mp4')), **settings, test_share=0.0, replace_bad=False)
    sample = data[0]
    assert sample['failures'].startswith('too short\t')
    assert not sample['valid']


def test_a_bad_clip_among_segments_has_their_shape(folder):
    square = [dict(type=CentreCrop, size=24)]
    data = VideoFolder(str(bad_folder(folder)), **SEGMENTS, transforms=square, test_share=0.0, replace_bad=False)
    batch = next(iter(DataLoader(data, batch_size=3, num_workers=0)))
    assert batch['valid'].tolist() == [True, False, True]
    assert batch['video'].shape == (3, 3, 4, 3, 24, 24)
    assert (batch['audio'].shape, batch['start_s'].shape) == ((3, 3, 4000), (3, 3))


def bad_folder(folder):
    root = folder('a.mp4', 'c.mp4')
    (root / 'b.mp4').write_text('no film at all')
    return root


def test_training_replaces_a_bad_clip_and_says_so(folder):
    data = VideoFolder(str(bad_folder(folder)), **COMMON, test_share=0.0)
    sample = data[1]
    assert sample['valid']
    assert sample['clip_id'] in ('a.mp4', 'c.mp4')
    cause, file = sample['failures'].splitlines()[0].split('\t')
    assert (cause, file) == ('not a media file', str(data.root / 'b.mp4'))


def test_a_draw_alone_decides_what_is_random_about_a_clip(folder):
    """Also which clip comes in place of a bad one; neither workers nor what was read before do."""
    chance = [dict(type='Flip'), dict(type='Gain')]
    root = str(bad_folder(folder))
    data = VideoFolder(root, clip=CLIP, window=dict(type='RandomWindow'), transforms=chance, test_share=0.0)
    draws = [Draw(index, (7, epoch)) for epoch in range(2) for index in range(len(data))]
    torch.manual_seed(0)
    first = [data[draw] for draw in draws]
    for sample, again in zip(reversed(first), DataLoader(data, None, sampler=draws[::-1], num_workers=1), strict=True):
        assert (again['clip_id'], again['start_s']) == (sample['clip_id'], sample['start_s'])
        assert torch.equal(again['video'], sample['video'])
        assert torch.equal(again['audio'], sample['audio'])
    assert any(not torch.equal(a['audio'], b['audio']) for a, b in zip(first, first[len(data) :], strict=False))


def test_evaluation_marks_a_bad_clip_and_batches_it(folder):
    square = [dict(type=CentreCrop, size=24)]
    data = VideoFolder(str(bad_folder(folder)), **COMMON, transforms=square, test_share=0.0, replace_bad=False)
    torch.manual_seed(0)
    batch = next(iter(DataLoader(data, batch_size=3, num_workers=0)))
    assert batch['valid'].tolist() == [True, False, True]
    assert batch['clip_id'] == ['a.mp4', 'b.mp4', 'c.mp4']


def test_a_folder_of_bad_clips_ends_with_a_sentence(folder):
    root = folder()
    for i in range(3):
        (root / f'{i}.mp4').write_text('no film')
    with pytest.raises(UserError, match=r'20 clips in a row could not be read'):
        VideoFolder(str(root), **COMMON, test_share=0.0)[0]


def test_a_file_is_opened_once(folder, monkeypatch):
    data = VideoFolder(str(folder('a.mp4')), **COMMON, split='train', test_share=0.0)
    opened = []
    monkeypatch.setattr(
        media, 'open_container', lambda name, open_it=media.open_container: opened.append(name) or open_it(name)
    )
    assert data.manifest[0].end_s is None
    assert data[0]['valid']
    assert len(opened) == 1


def test_a_mistake_in_a_transform_is_no_bad_clip(folder):
    data = VideoFolder(str(folder('a.mp4')), **COMMON, split='train', test_share=0.0)
    for place in ('window', 'transforms'):
        mistaken = VideoFolder(str(data.root), **COMMON, split='train', test_share=0.0)
        setattr(mistaken, place, [math.sqrt] if place == 'transforms' else math.sqrt)
        with pytest.raises(TypeError):
            mistaken[0]


def test_short_clips_are_a_named_failure(folder):
    settings = COMMON | dict(clip=CLIP | dict(duration_s=3.0))
    data = VideoFolder(str(folder('a.mp4')), **settings, test_share=0.0, replace_bad=False)
    assert data[0]['failures'].startswith('too short\t')


def test_missing_and_empty_folders_are_named(tmp_path, folder):
    with pytest.raises(UserError, match=r'nowhere does not exist; set data_root'):
        VideoFolder(str(tmp_path / 'nowhere'), **COMMON)
    with pytest.raises(UserError, match='holds no video files'):
        VideoFolder(str(folder()), **COMMON)
    root = folder('a.mp4')
    (root / 'manifest.csv').write_text('file\nother.mp4\n')
    with pytest.raises(UserError, match=r"none of the 1 clips .* 'other.mp4'"):
        VideoFolder(str(root), **COMMON, test_share=0.0)


def test_misspelt_clip_setting_names_the_near_one():
    with pytest.raises(UserError, match=r"no setting 'sampel_rate'. Did you mean sample_rate"):
        ClipFormat.of(dict(CLIP, sampel_rate=8000))


NAMES = ['--0PQM4-hqg_000030', 'abcdefghijk_000005', 'ABCDEFGHIJK_001251']


@pytest.fixture
def said(monkeypatch):
    """What the data sets say to the log."""
    kept: list[str] = []
    for module in (base, vggsound):
        monkeypatch.setattr(module, 'print_log', lambda text, **_: kept.append(text))
    return kept


def test_vggsound_official_csv(folder, tmp_path, said):
    root = folder(*(f'{name}.mp4' for name in NAMES), 'unrelated.mp4')
    csv = tmp_path / 'vggsound.csv'
    csv.write_text('--0PQM4-hqg,30,"dog barking, loud",train\nabcdefghijk,5,rain,test\nzzzzzzzzzzz,0,rain,train\n')
    train = VGGSound(str(root), str(csv), **COMMON, split='train')
    assert [(*train.manifest[i][:2], train.manifest[i].labels) for i in range(len(train))] == [
        (NAMES[0], f'{NAMES[0]}.mp4', ['dog barking, loud'])
    ]
    assert said[0].startswith('VGGSound train: found 1 of 2 listed clips')
    assert said[1] == 'VGGSound: 1 clips with a VGGSound name are not listed; left out'
    more = VGGSound(str(root), str(csv), **COMMON, split='train', unlisted='train')
    assert more.manifest.column('clip_id') == [NAMES[0], NAMES[2]]
    assert train[0]['valid']


def test_vggsound_list_of_one_split_in_subfolders(folder, tmp_path):
    root = folder(f'part1/{NAMES[1]}.mp4')
    (tmp_path / 'test.csv').write_text(f'{NAMES[1]}.mp4,rain\n')
    data = VGGSound(str(root), str(tmp_path / 'test.csv'), **COMMON, split='test')
    assert data.manifest[0].file == f'part1/{NAMES[1]}.mp4'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('id,start,label\n', 'line 1: expected'),
        ('abcdefghijk,5,rain,test\nabcdefghijk,five,rain,test\n', 'line 2: expected'),
        ('abcdefghijk,5,rain,test\nabcdefghijk,5,snow,test\n', 'line 2: clip abcdefghijk_000005 is listed twice'),
        ('short_000005.mp4,rain\n', "'short_000005' is not '<youtube id>_<start, 6 digits>'"),
        ('', 'is empty'),
    ],
)
def test_vggsound_csv_mistakes_are_named(tmp_path, text, message):
    (tmp_path / 'v.csv').write_text(text)
    with pytest.raises(UserError, match=message):
        read_vggsound_csv(tmp_path / 'v.csv')


def test_vggsound_with_two_files_for_a_clip_is_refused(folder, tmp_path):
    root = folder('a/abcdefghijk_000005.mp4', 'b/abcdefghijk_000005.mp4')
    (tmp_path / 'v.csv').write_text('abcdefghijk,5,rain,test\n')
    with pytest.raises(UserError, match='holds clip abcdefghijk_000005 twice'):
        VGGSound(str(root), str(tmp_path / 'v.csv'), **COMMON, split='test')


def test_vggsound_without_any_listed_clip_says_what_names_it_looks_for(folder, tmp_path):
    root = folder('a.mp4')
    (tmp_path / 'v.csv').write_text('abcdefghijk,5,rain,test\n')
    with pytest.raises(
        UserError, match=r"none of the 1 clips of the test split .* '<youtube id>_<start, 6 digits>.mp4'"
    ):
        VGGSound(str(root), str(tmp_path / 'v.csv'), **COMMON, split='test')
    with pytest.raises(UserError, match='does not exist; set annotations'):
        VGGSound(str(root), str(tmp_path / 'none.csv'), **COMMON, split='test')


def test_vggsound_real_metadata_and_real_clips(real_data, said):
    rows = read_vggsound_csv(real_data / 'meta/vggsound/test.csv')
    assert len(rows) == 15446
    assert len({row.label for row in rows}) == 309
    listing = str(real_data / 'meta/vggsound/test.csv')
    data = VGGSound(str(real_data / 'clips'), listing, **COMMON, split='train', unlisted='train')
    assert re.match('VGGSound train: found \\d+ of 15,446 listed clips', said[0])
    assert len(data) == 40
    assert data[0]['valid']


@pytest.fixture(scope='module')
def impacts(tmp_path_factory):
    return render_impacts(tmp_path_factory.mktemp('impacts'), train=4, test=16, workers=1, progress=False)


def test_impacts_galleries(impacts):
    truth = [json.loads(line) for line in (impacts / 'events.jsonl').read_text().splitlines()]
    groups = {entry['clip_id']: entry['group'] for entry in truth}

    def ids(**settings):
        return Impacts(str(impacts), **COMMON, **settings).manifest.column('clip_id')

    assert len(ids(split='train')) == 4
    semantic, temporal, mixed = (ids(split='test', gallery=name) for name in ('semantic', 'temporal', 'mixed'))
    assert (len(semantic), len(temporal), len(mixed)) == (16, 16, 16)
    assert set(mixed) == {*semantic[:8], *temporal[:8]}
    assert all(groups[name] is None for name in semantic)
    assert len({groups[name] for name in temporal[:8]}) == 1
    assert len(ids(split='test', clips=8)) == 8


def test_impacts_that_are_not_there_name_the_command(tmp_path, impacts):
    with pytest.raises(UserError, match=r'python tools/prepare_data.py impacts --out'):
        Impacts(str(tmp_path), **COMMON)
    with pytest.raises(UserError, match='gallery must be one of semantic, temporal, mixed'):
        Impacts(str(impacts), **COMMON, gallery='all')
    with pytest.raises(UserError, match='needs 128 of each kind; 16 are rendered'):
        Impacts(str(impacts), **COMMON, split='test', clips=256)
