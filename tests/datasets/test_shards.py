"""Shards hold what the files hold, give every clip once an epoch, and survive whatever happens to them."""

import errno
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import wave
from itertools import chain, groupby, zip_longest
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gmscavp.datasets import (
    CentreCrop,
    CentreWindow,
    EvenWindows,
    Manifest,
    RandomWindow,
    Shards,
    ShardShuffle,
    read_clip,
    samplers,
    write_shards,
)
from gmscavp.datasets.encoding import write_clip
from gmscavp.datasets.shards import finding, index, writing
from gmscavp.datasets.shards.dataset import window_frames
from gmscavp.datasets.shards.index import build_index, index_file, load_index
from gmscavp.datasets.shards.members import key_of
from gmscavp.errors import UserError
from gmscavp.registry import DATA_SAMPLERS
from tests.media import moving

FPS, SIZE, RATE = 8.0, 32, 8000
STORED = dict(fps=FPS, size=SIZE, sample_rate=RATE, clips_per_shard=4, workers=1)
CLIP = dict(duration_s=1.0, fps=FPS, size=SIZE, sample_rate=RATE)
CENTRE = dict(clip=CLIP, window=dict(type=CentreWindow))
NAMES = ['a', 'b.mp4', 'sub/c d', 'ä-ö', 'x' * 120, 'f', 'g', 'h', 'i', 'j']


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp() / 'cache'))


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """(folder of ten films of 2 s or a little more, columns of their manifest): two for the test split, two short."""
    root = tmp_path_factory.mktemp('videos')
    rng = np.random.default_rng(0)
    for number in range(10):
        picture, seconds = moving((36, 48), period_s=1.0 + number), 0.5 if number in (6, 7) else 2 + 0.09 * number
        frames = np.stack([picture(k / 16) for k in range(round(16 * seconds))])
        audio = rng.uniform(-0.5, 0.5, round(RATE * seconds)).astype(np.float32)
        write_clip(root / f'{number}.mp4', frames, 16, audio, RATE)
    (root / 'broken.mp4').write_bytes(b'no film')
    return root, {
        'file': [*(f'{number}.mp4' for number in range(10)), 'broken.mp4', 'none.mp4'],
        'clip_id': [*NAMES, 'k', 'l'],
        'split': ['train'] * 8 + ['test', 'test', 'train', 'train'],
        'labels': ['one;two'] * 12,
        'caption': ['a caption: ä "quoted"', *[None] * 11],
    }


def manifest_of(columns, **changes):
    return Manifest.from_columns(columns | changes, 'test')


@pytest.fixture(scope='module')
def written(videos, tmp_path_factory):
    """(folder with the shards, what write_shards gave)."""
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.getbasetemp() / 'cache')
    out = tmp_path_factory.mktemp('written')
    return out, write_shards(manifest_of(videos[1]), videos[0], out, **STORED)


@pytest.fixture
def shards(written, tmp_path):
    """A copy of the shards for a test to spoil."""
    return Path(shutil.copytree(written[0], tmp_path / 'shards'))


@pytest.fixture
def said(monkeypatch):
    """What is said to the log."""
    kept: list[str] = []
    for module in (finding, index):
        monkeypatch.setattr(module, 'print_log', lambda text, **_: kept.append(text))
    return kept


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob('*.tar'))}


def all_of(data):
    return {sample['clip_id']: sample for sample in (data[i] for i in range(len(data)))}


# What is stored


def test_counts_and_listing(written):
    out, counts = written
    assert counts == {'written': 10, 'not a media file': 1, 'missing file': 1}
    listing = json.loads((out / 'shards.json').read_text())
    assert listing['complete']
    assert listing['settings']['fps'] == FPS
    assert sorted(listing['shards']) == ['test-000000.tar', *(f'train-{n:06d}.tar' for n in range(3))]
    assert sum(shard['clips'] for shard in listing['shards'].values()) == 10
    assert Shards(str(out), **CENTRE).listed == 10, 'eight clips of the split are there of ten that were listed'


def test_frames_and_sound_are_those_of_the_files(written, videos):
    root, columns = videos
    files = dict(zip(columns['clip_id'], columns['file'], strict=True))
    rng = np.random.default_rng(1)
    for split in ('train', 'test'):
        data = Shards(str(written[0]), clip=CLIP, window=dict(type=RandomWindow), split=split)
        for row in range(len(data)):
            record = data.manifest[row]
            file = str(root / files[record.clip_id])
            if record.end_s < 1:
                continue
            clip = data._window_of(str(data.root / record.file), float(rng.uniform(0, record.end_s - 1)))
            frame = round(clip.start_s * FPS)
            assert clip.start_s == frame / FPS
            whole = read_clip(file, 0.0, record.end_s, FPS, SIZE, RATE, 'pyav')
            expected = whole.video[frame : frame + 8]
            assert len(expected) >= 7
            assert (clip.video[: len(expected)].float() - expected.float()).abs().mean() < 2.5
            sound = whole.audio[round(clip.start_s * RATE) :][:RATE]
            assert (clip.audio[: len(sound)] - sound).abs().max() <= 1 / 32768


def test_labels_captions_and_strange_names_come_back(written):
    manifest = Shards(str(written[0]), **CENTRE).manifest
    assert set(manifest.column('clip_id')) == set(NAMES[:8])
    record = next(manifest[i] for i in range(8) if manifest[i].clip_id == 'a')
    assert (record.labels, record.caption, record.split) == (['one', 'two'], 'a caption: ä "quoted"', 'train')
    keys = [key_of(name) for name in [*NAMES, 'a/b', 'a%2Fb', '', '.', '..', '/']]
    assert len({*keys}) == len(keys)
    assert all(len(key) <= 80 and not set('./') & set(key) and key.isascii() for key in keys)


@pytest.mark.parametrize(('fps', 'stored_fps'), [(8, 8), (4, 8), (2, 6), (1.25, 25), (29.97, 29.97)])
def test_stored_frames_are_the_nearest_to_the_wanted_moments(fps, stored_fps):
    for offset_s in np.linspace(0, 3, 50):
        first, numbers = window_frames(offset_s, 5, fps, stored_fps, 1000)
        wanted_s = first / stored_fps + (np.arange(5) + 0.5) / fps
        assert np.abs((numbers + 0.5) / stored_fps - wanted_s).max() <= 0.5 / stored_fps + 1e-9
        assert abs(first / stored_fps - offset_s) <= 0.5 / stored_fps + 1e-9
    assert window_frames(99.0, 5, fps, stored_fps, 3)[1].max() == 2


def test_fewer_frames_and_other_sizes_on_demand(written):
    out = str(written[0])
    stored = all_of(Shards(out, **CENTRE, split='test'))
    small = dict(clip=CLIP | dict(fps=4, size=(8, 12)), window=dict(type=CentreWindow), split='test')
    for clip_id, sample in all_of(Shards(out, **small)).items():
        whole = stored[clip_id]
        assert sample['video'].shape == (4, 3, 8, 12)
        assert torch.equal(sample['audio'], whole['audio'])
        reference = torch.nn.functional.interpolate(whole['video'][::2].float(), (8, 12), mode='area')
        assert (sample['video'].float() - reference).abs().mean() < 6


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(fps=16), 'hold 8 frames a second, from which 16 cannot be taken'),
        (dict(fps=3), 'from which 3 cannot be taken'),
        (dict(sample_rate=16000), r'hold 8000 samples a second, not 16000'),
    ],
)
def test_rates_that_are_not_stored_are_refused(written, change, message):
    with pytest.raises(UserError, match=message):
        Shards(str(written[0]), clip=CLIP | change, window=dict(type=CentreWindow))


def test_segments_of_one_clip(written):
    data = Shards(str(written[0]), clip=CLIP, window=dict(type=EvenWindows, segments=3), split='test')
    sample = data[0]
    assert sample['video'].shape[:2] == (3, 8)
    assert sample['audio'].shape == (3, RATE)
    assert (sample['start_s'].diff() >= 1 / FPS).all()
    assert not torch.equal(sample['audio'][0], sample['audio'][1])


def test_clips_too_short_for_the_window_are_a_named_failure(written):
    samples = all_of(Shards(str(written[0]), **CENTRE, replace_bad=False))
    failures = {clip_id: sample['failures'] for clip_id, sample in samples.items() if not sample['valid']}
    assert set(failures) == {'g', 'h'}
    assert all(line.startswith('too short\t') and '.tar/' in line for line in failures.values())


def test_plain_tar_in_the_grouping_of_webdataset(written):
    clips = 0
    for shard in sorted(written[0].glob('*.tar')):
        with tarfile.open(shard) as tar:
            members = [(*member.name.split('.', 1), tar.extractfile(member).read()) for member in tar]
        for _, group in groupby(members, key=lambda member: member[0]):
            parts = {ending: content for _, ending, content in group}
            about = json.loads(parts['json'])
            frames = [cv2.imdecode(np.frombuffer(parts[f'{k:03d}.jpg'], np.uint8), 1) for k in range(about['frames'])]
            assert set(parts) == {'json', 'wav', *(f'{k:03d}.jpg' for k in range(about['frames']))}
            assert {frame.shape[:2] for frame in frames} == {(about['height'], about['width'])}
            with wave.open(io.BytesIO(parts['wav'])) as sound:
                assert (sound.getframerate(), sound.getnframes()) == (RATE, about['samples'])
            clips += 1
    assert clips == 10


def test_webdataset_reads_them(written):
    webdataset = pytest.importorskip('webdataset', reason='webdataset is not installed')
    urls = [str(path) for path in sorted(written[0].glob('*.tar'))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode('rgb8'))
    assert sorted(sample['json']['clip_id'] for sample in samples) == sorted(NAMES)
    assert all(sample['000.jpg'].shape[2] == 3 and len(sample['wav']) for sample in samples)


# Every clip once


@pytest.mark.parametrize('uneven', ['drop', 'pad'])
def test_every_clip_once_an_epoch_over_all_ranks(uneven):
    rng = np.random.default_rng(0)
    for _ in range(40):
        sizes = rng.integers(0, 9, rng.integers(1, 12))
        clips, ranks = int(sizes.sum()), int(rng.integers(1, 6))
        if clips < ranks:
            continue
        data = SimpleNamespace(shard_starts=np.cumsum([0, *sizes]))
        window = int(rng.integers(1, 20))
        samplers = [ShardShuffle(data, 3, window, uneven, rank, ranks) for rank in range(ranks)]
        for sampler in samplers:
            sampler.set_epoch(5)
        orders = [list(sampler) for sampler in samplers]
        assert {len(order) for order in orders} == {len(samplers[0])}
        given = list(chain(*orders))
        if uneven == 'drop':
            assert len({*given}) == len(given) > clips - ranks
        else:
            assert {*given} == set(range(clips))
            assert len(given) < clips + ranks
            # MMEngine's collection over ranks keeps the first of them, taken in turns.
            turns = [row for turn in zip_longest(*orders) for row in turn]
            assert sorted(turns[:clips]) == list(range(clips))


@pytest.mark.parametrize(('uneven', 'words'), [('drop', '2 are left out'), ('pad', '1 are given twice')])
def test_an_uneven_share_is_said_once(monkeypatch, uneven, words):
    kept: list[str] = []
    monkeypatch.setattr(samplers, 'print_log', lambda text, **_: kept.append(text))
    for ranks in (3, 4):
        for rank in range(ranks):
            ShardShuffle(SimpleNamespace(shard_starts=[0, 3, 8]), uneven=uneven, rank=rank, ranks=ranks)
    assert len(kept) == 1
    assert words in kept[0]


def test_seed_and_epoch_alone_decide_the_order():
    data = SimpleNamespace(shard_starts=np.arange(0, 101, 10))

    def order(seed, epoch):
        sampler = ShardShuffle(data, seed=seed, window=20, rank=0, ranks=2)
        sampler.set_epoch(epoch)
        assert list(sampler) == list(sampler)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    left_out = {frozenset(range(100)) - frozenset(order(0, epoch)) for epoch in range(5)}
    assert len(left_out) == 5, 'the ranks change their clips'


def test_reading_stays_within_a_few_shards_at_a_time():
    data = SimpleNamespace(shard_starts=np.arange(0, 2001, 20))
    order = np.array(list(ShardShuffle(data, seed=0, window=100, rank=1, ranks=2)))
    for first in range(0, len(order) - 100, 50):
        assert len({*(order[first : first + 100] // 20)}) <= 13
    assert (np.diff(order) == 1).mean() < 0.1, 'shuffled'


def test_sampler_mistakes_are_named(written):
    data = Shards(str(written[0]), **CENTRE)
    with pytest.raises(UserError, match=r"'pat' is none of drop, pad\. Did you mean pad"):
        ShardShuffle(data, uneven='pat')
    with pytest.raises(UserError, match='8 clips cannot be shared out among 9 ranks'):
        ShardShuffle(data, rank=0, ranks=9)
    with pytest.raises(UserError, match='not of list'):
        DATA_SAMPLERS.build(dict(type='ShardShuffle', dataset=[1]))


def test_two_ranks_with_two_workers_each_read_every_clip_once(written):
    data = Shards(str(written[0]), **CENTRE | dict(clip=CLIP | dict(duration_s=0.25)))
    ids = []
    for rank in range(2):
        # In the parent first: what is open there must not be used by the workers.
        assert data[0]['valid']
        sampler = DATA_SAMPLERS.build(dict(type=ShardShuffle, dataset=data, seed=1, window=3, rank=rank, ranks=2))
        loader = DataLoader(data, batch_size=2, num_workers=2, sampler=sampler)
        batches = list(loader)
        assert all(batch['valid'].all() for batch in batches)
        ids += chain(*(batch['clip_id'] for batch in batches))
    assert sorted(ids) == sorted(NAMES[:8])


def test_a_data_set_travels_to_another_process_without_open_files(written):
    data = Shards(str(written[0]), **CENTRE, split='test')
    sample = data[0]
    assert data._files._open
    again = pickle.loads(pickle.dumps(data))
    assert not again._files._open
    assert torch.equal(again[0]['video'], sample['video'])


# Damage


def places_of_a_cut(shard):
    """(what, bytes left): a cut in every kind of place."""
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
    json_, wav, jpeg = members[0], members[1], members[4]
    last = members[-1]
    return {
        'empty': 0,
        'first header': 100,
        'after the first header': 512,
        'json': json_.offset_data + json_.size // 2,
        'wav header': wav.offset_data + 20,
        'wav': wav.offset_data + wav.size // 2,
        'jpeg': jpeg.offset_data + jpeg.size // 2,
        'padding': jpeg.offset_data + jpeg.size + 1,
        'between members': jpeg.offset,
        'between clips': next(m.offset for m in members[1:] if m.name.endswith('.json')),
        'last member': last.offset_data + 10,
        'end mark': last.offset_data + -(-last.size // 512) * 512 + 300,
    }


@pytest.mark.parametrize('with_index', [True, False])
def test_a_shard_cut_off_anywhere_costs_only_what_is_cut(shards, said, with_index):
    settings = CENTRE | dict(clip=CLIP | dict(duration_s=0.5), replace_bad=False)
    expected = all_of(Shards(str(shards), **settings))
    shard = shards / 'train-000000.tar'
    content, kept_index = shard.read_bytes(), index_file(shard).read_bytes()
    ends = {
        row['clip_id']: max(o + s for o, s in zip(row['frame_offset'], row['frame_size'], strict=True))
        for row in load_index(shard).rows.to_pylist()
    }
    for place, size in places_of_a_cut(shard).items():
        shard.write_bytes(content[:size])
        index_file(shard).write_bytes(kept_index) if with_index else index_file(shard).unlink()
        said.clear()
        samples = all_of(Shards(str(shards), **settings))
        lost = {clip_id for clip_id, end in ends.items() if end > size}
        assert set(expected) - set(samples) <= lost, place
        # An index is known by the first 4 KiB of its shard.
        if with_index and size > 4096:
            assert set(samples) == set(expected), f'{place}: what is cut off is still counted'
        for clip_id, sample in samples.items():
            if clip_id not in lost:
                assert torch.equal(sample['video'], expected[clip_id]['video']), place
                assert torch.equal(sample['audio'], expected[clip_id]['audio']), place
            elif not sample['valid']:
                assert sample['failures'].startswith(f'damaged\t{shard}/'), place
        assert bool(lost) == any('train-000000.tar is cut off' in text for text in said), place
        bad = [sample for sample in samples.values() if not sample['valid']]
        assert len(bad) >= (len(lost & set(samples)) > 1), place


def test_training_goes_on_with_a_cut_shard(shards):
    shard = shards / 'train-000000.tar'
    with shard.open('r+b') as stream:
        stream.truncate(9000)
    data = Shards(str(shards), **CENTRE)
    batch = next(iter(DataLoader(data, batch_size=len(data), num_workers=1)))
    assert batch['valid'].all()
    assert any('damaged\t' in text for text in batch['failures'])


def flip(shard, ending, which=0, at=0.5):
    """Change one byte of a member."""
    with tarfile.open(shard) as tar:
        member = [member for member in tar if member.name.endswith(ending)][which]
    place = member.offset_data + int(member.size * at)
    content = bytearray(shard.read_bytes())
    content[place] ^= 0x55
    shard.write_bytes(content)
    return member.name.split('.')[0]


@pytest.mark.parametrize('with_index', [True, False])
@pytest.mark.parametrize('ending', ['.008.jpg', '.wav'])
def test_changed_bytes_are_damage(shards, ending, with_index):
    shard = shards / 'test-000000.tar'
    key = flip(shard, ending)
    if not with_index:
        index_file(shard).unlink()
    samples = all_of(Shards(str(shards), **CENTRE, split='test', replace_bad=False))
    assert samples[key]['failures'] == f'damaged\t{shard}/{key}'
    assert [sample['valid'] for clip_id, sample in samples.items() if clip_id != key] == [True]


def test_damage_outside_the_window_does_not_matter(shards):
    key = flip(shards / 'test-000000.tar', '.wav', at=0.1)
    data = Shards(
        str(shards), clip=CLIP | dict(duration_s=0.5), window=dict(type=EvenWindows, segments=1), split='test'
    )
    file = next(data.manifest[i].file for i in range(2) if data.manifest[i].clip_id == key)
    assert data._window_of(str(data.root / file), 1.25).start_s == 1.25


def test_a_missing_shard_is_said_and_left_out(shards, said):
    gone = len(load_index(shards / 'train-000001.tar').rows)
    (shards / 'train-000001.tar').unlink()
    data = Shards(str(shards), **CENTRE)
    assert len(data) == 8 - gone
    assert any(f'train-000001.tar is missing with its {gone} clips' in text for text in said)


def test_a_shard_that_goes_during_training_is_a_missing_file(shards):
    data = Shards(str(shards), **CENTRE, split='test', replace_bad=False)
    (shards / 'test-000000.tar').unlink()
    assert data[0]['failures'].startswith('missing file\t')


def spoil(name):
    """Ways for an index to be wrong."""
    return {
        'missing': lambda file: file.unlink(),
        'empty': lambda file: file.write_bytes(b''),
        'garbage': lambda file: file.write_bytes(b'ARROW1' + bytes(500)),
        'cut': lambda file: file.write_bytes(file.read_bytes()[:-300]),
        'of another shard': lambda file: shutil.copy(file.with_name('train-000001.idx'), file),
        'numbers': _with_hostile_numbers,
    }[name]


def _with_hostile_numbers(file):
    shard = file.with_suffix('.tar')
    rows = load_index(shard).rows
    column = rows.schema.get_field_index('frame_size')
    huge = [[2**60] * len(sizes) for sizes in rows['frame_size'].to_pylist()]
    rows = rows.set_column(column, rows.schema.field(column), [huge])
    index.save_index(index.ShardIndex(rows, shard.stat().st_size, {}), shard, file)


@pytest.mark.parametrize('how', ['missing', 'empty', 'garbage', 'cut', 'of another shard', 'numbers'])
def test_an_index_that_does_not_match_is_made_again(shards, how):
    expected = all_of(Shards(str(shards), **CENTRE, split='test'))
    kept = load_index(shards / 'test-000000.tar').rows
    spoil(how)(shards / 'test-000000.idx')
    samples = all_of(Shards(str(shards), **CENTRE, split='test'))
    assert {key: sample['start_s'] for key, sample in samples.items()} == {
        key: sample['start_s'] for key, sample in expected.items()
    }
    assert load_index(shards / 'test-000000.tar').rows.equals(kept)


def test_an_index_follows_its_shard(shards):
    old = index_file(shards / 'train-000001.tar').read_bytes()
    shutil.copy(shards / 'train-000000.tar', shards / 'train-000001.tar')
    assert load_index(shards / 'train-000001.tar').rows.equals(load_index(shards / 'train-000000.tar').rows)
    assert index_file(shards / 'train-000001.tar').read_bytes() != old


def test_folders_that_cannot_be_written_only_cost_time(shards, said, monkeypatch):
    (shards / 'test-000000.idx').unlink()

    def refuse(*_):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(index, 'save_index', refuse)
    assert len(Shards(str(shards), **CENTRE, split='test')) == 2
    assert any('made at every start' in text for text in said)


def test_other_tars_of_the_same_clips_are_read_too(shards, tmp_path):
    """Unpacked and packed again by hand: another order, a folder in front, long headers."""
    shard = shards / 'test-000000.tar'
    expected = all_of(Shards(str(shards), **CENTRE, split='test'))
    with tarfile.open(shard) as tar:
        parts = sorted((member.name, tar.extractfile(member).read()) for member in tar)
    with tarfile.open(shard, 'w', format=tarfile.PAX_FORMAT) as tar:
        folder = tarfile.TarInfo('./')
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in parts:
            header = tarfile.TarInfo(f'./{name}')
            header.size, header.pax_headers = len(content), {'comment': 'x' * 50}
            tar.addfile(header, io.BytesIO(content))
    for clip_id, sample in all_of(Shards(str(shards), **CENTRE, split='test')).items():
        assert torch.equal(sample['video'], expected[clip_id]['video'])


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('../out.json', tarfile.REGTYPE),
        ('/etc/passwd', tarfile.REGTYPE),
        ('a/../../b.wav', tarfile.REGTYPE),
        ('link.000.jpg', tarfile.SYMTYPE),
        ('hard.wav', tarfile.LNKTYPE),
        ('pipe.json', tarfile.FIFOTYPE),
        ('..', tarfile.DIRTYPE),
    ],
)
def test_members_that_are_no_plain_files_inside_are_refused(shards, name, kind):
    with tarfile.open(shards / 'train-000002.tar', 'a') as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, '/etc/passwd'
        tar.addfile(member)
    with pytest.raises(UserError, match='no plain file inside it'):
        Shards(str(shards), **CENTRE)


@pytest.mark.parametrize('text', ['[]', '{}', 'null', '{"clip_id": 3}', '\xff', '{"frame_crc32": [1e400]}'])
def test_a_json_that_is_not_ours_costs_its_clip(shards, text):
    shard = shards / 'train-000000.tar'
    before = build_index(shard).rows.num_rows
    with tarfile.open(shard, 'a') as tar:
        member = tarfile.TarInfo('other.json')
        member.size = len(text.encode('latin1'))
        tar.addfile(member, io.BytesIO(text.encode('latin1')))
    assert build_index(shard).rows.num_rows == before


def test_a_clip_in_two_shards_is_refused(shards):
    shutil.copy(shards / 'train-000000.tar', shards / 'train-000007.tar')
    with pytest.raises(UserError, match=r'stands twice in the shards in .* \(train-000000.tar and train-000007.tar\)'):
        Shards(str(shards), **CENTRE)


def test_shards_of_different_settings_are_refused(shards, videos, tmp_path):
    one = manifest_of({'file': ['0.mp4'], 'clip_id': ['new'], 'split': ['train']})
    write_shards(one, videos[0], tmp_path / 'other', **STORED | dict(fps=4.0))
    shutil.copy(tmp_path / 'other/train-000000.tar', shards / 'train-000009.tar')
    with pytest.raises(UserError, match=r'fps is 8 in train-000000.tar and 4 in train-000009.tar'):
        Shards(str(shards), **CENTRE)


def test_folders_without_shards_are_named(tmp_path, shards):
    with pytest.raises(UserError, match='does not exist; set data_root'):
        Shards(str(tmp_path / 'none'), **CENTRE)
    with pytest.raises(UserError, match=r"no shards of the split 'val' \(val-000000.tar, ...\)"):
        Shards(str(shards), **CENTRE, split='val')
    (shards / 'test-000000.tar').write_bytes(b'')
    with pytest.raises(UserError, match='no clip can be read'):
        Shards(str(shards), **CENTRE, split='test')


# Writing again


def test_a_finished_folder_is_left_as_it_is_and_other_settings_are_refused(shards, videos):
    root, columns = videos
    times = {path.name: path.stat().st_mtime_ns for path in shards.glob('*-*')}
    (shards / '.train-000000.tar.99.part').write_text('left by a killed writer')
    (shards / 'mine.part').write_text('')
    counts = write_shards(manifest_of(columns), root, shards, **STORED)
    assert counts == {'written': 10, 'not a media file': 1, 'missing file': 1}
    assert {path.name: path.stat().st_mtime_ns for path in shards.glob('*-*')} == times
    assert (shards / 'mine.part').exists()
    with pytest.raises(UserError, match=r'other settings \(fps 8.0 instead of 4.0\)'):
        write_shards(manifest_of(columns), root, shards, **STORED | dict(fps=4.0))
    fewer = manifest_of({name: values[:3] for name, values in columns.items()})
    with pytest.raises(UserError, match=r'the manifest has changed'):
        write_shards(fewer, root, shards, **STORED)
    assert write_shards(fewer, root, shards, **STORED, force=True) == {'written': 3}
    assert sorted(contents(shards)) == ['train-000000.tar']


def test_lost_and_damaged_shards_are_written_again_the_same(shards, videos):
    before = contents(shards)
    (shards / 'train-000000.tar').unlink()
    (shards / 'train-000001.idx').unlink()
    with (shards / 'train-000002.tar').open('r+b') as stream:
        stream.truncate(5000)
    write_shards(manifest_of(videos[1]), videos[0], shards, **STORED)
    assert contents(shards) == before


def test_folders_of_unknown_origin_and_senseless_settings_are_refused(tmp_path, videos):
    manifest = manifest_of(videos[1])
    (tmp_path / 'precious.tar').write_text('')
    with pytest.raises(UserError, match='tar files of unknown origin'):
        write_shards(manifest, videos[0], tmp_path, **STORED)
    for wrong in (dict(fps=0), dict(size=0), dict(sample_rate=-1), dict(clips_per_shard=0), dict(max_s=float('nan'))):
        with pytest.raises(UserError):
            write_shards(manifest, videos[0], tmp_path / 'out', **STORED | wrong)


def test_a_full_disk_ends_with_a_sentence_and_leaves_no_half_shard(tmp_path, videos, monkeypatch):
    quick, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, 'No space left on device')
        quick(handle)

    monkeypatch.setattr(writing.os, 'fsync', full)
    with pytest.raises(UserError, match=r'cannot be written to .*: No space left on device'):
        write_shards(manifest_of(videos[1]), videos[0], tmp_path, **STORED)
    assert [path.name for path in tmp_path.iterdir() if 'part' in path.name] == []
    assert sorted(contents(tmp_path)) == ['test-000000.tar']


def test_a_shard_may_hold_no_clip(tmp_path, videos):
    bad = manifest_of({'file': ['broken.mp4', '0.mp4'], 'clip_id': ['bad', 'good'], 'split': ['test', 'train']})
    assert write_shards(bad, videos[0], tmp_path, **STORED) == {'written': 1, 'not a media file': 1}
    assert len(Shards(str(tmp_path), **CENTRE)) == 1
    with pytest.raises(UserError, match='no clip can be read'):
        Shards(str(tmp_path), **CENTRE, split='test')


def test_windows_of_files_long_clips_and_rows_without_a_split(tmp_path, videos):
    manifest = manifest_of(
        {
            'file': ['0.mp4'] * 4,
            'clip_id': ['window', 'beyond', 'whole', 'neither'],
            'start_s': [0.5, 1.0, None, None],
            'end_s': [1.5, 60.0, None, None],
            'split': ['train', 'train', 'train', None],
        }
    )
    counts = write_shards(manifest, videos[0], tmp_path, **STORED | dict(max_s=1.5))
    assert counts == {'written': 3, 'no split': 1}
    rows = {row['clip_id']: row for row in load_index(tmp_path / 'train-000000.tar').rows.to_pylist()}
    assert [(rows[key]['start_s'], rows[key]['end_s']) for key in ('window', 'beyond', 'whole')] == [
        (0.5, 1.5),
        (1.0, pytest.approx(2.0, abs=0.05)),
        (0.0, 1.5),
    ]
    assert json.loads((tmp_path / 'shards.json').read_text())['totals']['cut'] == 1
    data = Shards(str(tmp_path), clip=CLIP | dict(duration_s=0.5), window=dict(type=CentreWindow))
    assert all_of(data)['window']['start_s'] == 0.75


# Its processes are forked: importing everything again in each of them takes seconds.
SLOW_WRITER = """
import multiprocessing, sys, time
from pathlib import Path
from gmscavp.datasets.manifest import Manifest
from gmscavp.datasets.shards import pool, writing

fork = multiprocessing.get_context('fork')
pool.multiprocessing.get_context = lambda kind: fork
quick = writing.stored_clip

def stored_clip(*arguments):
    time.sleep(0.3)
    return quick(*arguments)

writing.stored_clip = stored_clip

if __name__ == '__main__':
    manifest = Manifest.read(sys.argv[1])
    writing.write_shards(manifest, Path(sys.argv[2]), Path(sys.argv[3]), fps=8, size=32, sample_rate=8000,
                         clips_per_shard=4, workers=2)
"""


def test_a_writer_killed_in_the_middle_goes_on_to_the_same_bytes(tmp_path, videos, written):
    root, columns = videos
    script, out = tmp_path / 'slow.py', tmp_path / 'out'
    script.write_text(SLOW_WRITER)
    lines = (','.join(row) for row in zip(*(columns[name] for name in ('file', 'clip_id', 'split')), strict=True))
    (tmp_path / 'manifest.csv').write_text('\n'.join(['file,clip_id,split', *lines]))
    # Of its own session, so that whatever it leaves behind can be ended with it.
    writer = subprocess.Popen(
        [sys.executable, script, tmp_path / 'manifest.csv', root, out],
        env=os.environ | {'PYTHONPATH': str(Path(__file__).parents[2])},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not (any(out.glob('.*.part')) and any(out.glob('*.idx'))):
            assert writer.poll() is None, 'the writer ended before it could be killed'
            assert time.monotonic() < deadline
            time.sleep(0.02)
        writer.kill()
        writer.wait()
        assert not json.loads((out / 'shards.json').read_text())['complete']
        while _alive(writer.pid):
            assert time.monotonic() < deadline, 'processes outlive their parent'
            time.sleep(0.05)
    finally:
        if _alive(writer.pid):
            os.killpg(writer.pid, signal.SIGKILL)
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob('*.tar') if index_file(path).exists()}
    assert finished
    assert len(finished) < 4
    write_shards(Manifest.read(tmp_path / 'manifest.csv'), root, out, **STORED)
    assert not list(out.glob('.*.part'))
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished
    # Labels and captions are not in this manifest: a run from its start is what it must equal.
    write_shards(Manifest.read(tmp_path / 'manifest.csv'), root, tmp_path / 'again', **STORED)
    assert contents(out) == contents(tmp_path / 'again')
    listings = [json.loads((folder / 'shards.json').read_text()) for folder in (out, tmp_path / 'again')]
    assert listings[0] == listings[1]


def _alive(group):
    """Whether a process of the group runs."""
    for status in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = status.read_text().rpartition(')')[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != 'Z':
            return True
    return False


def test_real_clips(real_data, tmp_path):
    rows = Manifest.read(real_data / 'clips.csv')
    rows = rows.pick(np.arange(len(rows)) % 100 == 0)
    root = real_data / 'clips'
    settings = dict(fps=4.0, size=128, sample_rate=16000, workers=1)
    counts = write_shards(rows, root, tmp_path, **settings)
    assert counts == {'written': len(rows)}
    clip = dict(duration_s=2.0, fps=4, size=128, sample_rate=16000)
    data = Shards(
        str(tmp_path), clip=clip, window=dict(type=RandomWindow), transforms=[dict(type=CentreCrop, size=112)]
    )
    files = {rows[i].clip_id: str(root / rows[i].file) for i in range(len(rows))}
    for i in range(len(data)):
        record, sample = data.manifest[i], data[i]
        assert sample['valid']
        assert sample['video'].shape == (8, 3, 112, 112)
        first = data._window_of(str(data.root / record.file), 0.0)
        original = read_clip(files[record.clip_id], 0.0, 2.0, 4, 128, 16000, 'pyav')
        error = (first.video.float() - original.video.float()).pow(2).mean()
        assert 10 * torch.log10(255**2 / error) > 36
        assert (first.audio - original.audio).abs().max() <= 1 / 32768
