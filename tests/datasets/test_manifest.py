"""The manifest reads what people have, says what is wrong, and is mapped rather than copied."""

import csv
import pickle

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis.strategies import booleans, characters, data, floats, lists, none, sampled_from, text, tuples

from gmscavp.datasets.manifest import Manifest, hash_share, splits_of
from gmscavp.errors import UserError

FULL = (
    'clip_id,file,start_s,end_s,labels,caption,split,group,extra\n'
    'a,x/a.mp4,1.5,4,dog;car horn,"a dog, barking",train,g1,7\n'
    'b,x/b.mp4,,,,,test,,8\n'
)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def write(tmp_path, text, name='m.csv'):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_full_csv(tmp_path):
    manifest = Manifest.read(write(tmp_path, FULL))
    assert manifest[0] == ('a', 'x/a.mp4', 1.5, 4.0, ['dog', 'car horn'], 'a dog, barking', 'train', 'g1')
    assert manifest[1] == ('b', 'x/b.mp4', None, None, [], None, 'test', None)
    assert manifest.column('extra') == [7, 8]
    assert manifest.has('group')
    assert not Manifest.read(write(tmp_path, 'file\na.mp4\n')).has('split')


def test_only_file_is_needed_and_names_make_ids(tmp_path):
    manifest = Manifest.read(write(tmp_path, 'file,label\nsome/00012.mp4,"barking, loud"\n'))
    assert manifest[0].clip_id == '00012'
    assert manifest[0].labels == ['barking, loud']


def test_start_without_end_is_the_place_in_the_source_not_in_the_file(tmp_path):
    manifest = Manifest.read(write(tmp_path, 'file,start_s,duration_s\na.mp4,30,10\n'))
    assert manifest[0].start_s is None
    assert manifest[0].end_s is None


def test_parquet_equals_csv(tmp_path):
    csv = Manifest.read(write(tmp_path, FULL))
    columns = {name: csv.column(name) for name in ('clip_id', 'file', 'start_s', 'end_s', 'labels', 'split')}
    pa.parquet.write_table(pa.table(columns), tmp_path / 'm.parquet')
    parquet = Manifest.read(tmp_path / 'm.parquet')
    for i in range(2):
        assert parquet[i][:5] == csv[i][:5]


def test_a_changed_file_is_read_anew(tmp_path):
    path = write(tmp_path, 'file\na.mp4\n')
    assert len(Manifest.read(path)) == 1
    path.write_text('file\na.mp4\nb.mp4\n')
    assert len(Manifest.read(path)) == 2


def test_what_travels_to_a_worker_does_not_hold_the_rows(tmp_path):
    rows = ''.join(f'{i:06d}.mp4,{"caption " * 20}\n' for i in range(20000))
    manifest = Manifest.read(write(tmp_path, 'file,caption\n' + rows))
    before = pa.total_allocated_bytes()
    again = Manifest.read(tmp_path / 'm.csv')
    assert pa.total_allocated_bytes() - before < 100_000, 'the rows were copied instead of mapped'
    picked = again.pick([i % 2 == 0 for i in range(20000)])
    assert len(pickle.dumps(picked)) < 100_000
    assert pickle.loads(pickle.dumps(picked))[5000] == manifest[10000]


def test_a_home_that_cannot_be_written_only_costs_reading_again(tmp_path, monkeypatch):
    blocked = tmp_path / 'file'
    blocked.write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(blocked))
    assert len(Manifest.read(write(tmp_path, FULL))) == 2


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('files,label\na.mp4,dog\n', "needs a column 'file'; found columns files, label. Did you mean files"),
        ('file\na.mp4\na.mp4\n', "clip_id 'a' stands in more than one row"),
        ('file,start_s,end_s\na.mp4,3,2\n', 'row 1 ends'),
        ('file,start_s,end_s\na.mp4,zero,2\n', 'cannot be read'),
        ('file,label\n,dog\n', "row 1 has no 'file'"),
        ('', 'cannot be read'),
        ('file,label\na.mp4\n', 'cannot be read'),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        Manifest.read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_another_ending_and_an_unknown_column(tmp_path):
    with pytest.raises(UserError, match='does not exist'):
        Manifest.read(tmp_path / 'none.csv')
    with pytest.raises(UserError, match=r'must end in \.csv or \.parquet'):
        Manifest.read(write(tmp_path, FULL, 'm.txt'))
    with pytest.raises(UserError, match="no column 'lable'"):
        Manifest.read(write(tmp_path, FULL)).column('lable')


def test_captions_of_several_lines_are_read_in_files_larger_than_a_block(tmp_path):
    captions = [f'{number}\n' + 'caption ' * 50 for number in range(5000)]
    with (tmp_path / 'm.csv').open('w', newline='') as stream:
        csv.writer(stream).writerows([('file', 'caption'), *((f'{i}.mp4', text) for i, text in enumerate(captions))])
    # pyarrow reads a megabyte at a time.
    assert (tmp_path / 'm.csv').stat().st_size > 2**20
    assert Manifest.read(tmp_path / 'm.csv').column('caption') == captions


# Whatever a file system and UTF-8 allow. A csv cannot tell an empty field, and the words for it, from nothing.
NOTHING = ('', 'nan', 'NaN', 'null')
WORDS = text(alphabet=characters(exclude_categories=('Cs',), exclude_characters='\0'), max_size=12) | sampled_from(
    ['00012', '-1e5', 'true', 'a,b', 'a"b', '"', "'", 'a\nb', 'a\r\nb', ' a ', '#a', 'é', '日本', '=1+1', 'None']
)
NAMES = WORDS.filter(lambda word: word not in NOTHING)
LABELS = lists(WORDS.map(lambda word: word.replace(';', '').strip()).filter(bool), max_size=3)
SPANS = none() | tuples(floats(0, 1e6), floats(1e-3, 1e3)).map(lambda span: (span[0], span[0] + span[1]))
ROWS = lists(
    tuples(NAMES, NAMES, SPANS, LABELS, none() | WORDS, sampled_from(['train', 'test']), none() | WORDS),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row[0],
)


def as_read(row, of_csv):
    clip_id, file, span, labels, caption, split, group = row
    caption, group = (None if of_csv and word in NOTHING else word for word in (caption, group))
    return (clip_id, file, *(span or (None, None)), labels, caption, split, group)


@given(ROWS)
def test_any_rows_come_back_from_csv_and_parquet_in_their_order(tmp_path, rows):
    plain = [(*row[:2], *(row[2] or (None, None)), ';'.join(row[3]), *row[4:]) for row in rows]
    names = ('clip_id', 'file', 'start_s', 'end_s', 'labels', 'caption', 'split', 'group')
    with (tmp_path / 'm.csv').open('w', newline='', encoding='utf-8') as stream:
        csv.writer(stream).writerows([names, *plain])
    table = pa.table({name: list(column) for name, column in zip(names, zip(*plain, strict=True), strict=True)})
    pa.parquet.write_table(table, tmp_path / 'm.parquet')
    for ending in ('csv', 'parquet'):
        manifest = Manifest.read(tmp_path / f'm.{ending}')
        assert [manifest[i] for i in range(len(manifest))] == [as_read(row, ending == 'csv') for row in rows]
        again = pickle.loads(pickle.dumps(manifest))
        assert again.column('clip_id') == [row[0] for row in rows]


@given(ROWS, data())
def test_picked_rows_keep_their_order_and_two_of_one_name_are_refused(rows, draw):
    manifest = Manifest.from_columns({'clip_id': [r[0] for r in rows], 'file': [r[1] for r in rows]}, 'here')
    keep = draw.draw(lists(booleans(), min_size=len(rows), max_size=len(rows)))
    picked = manifest.pick(keep)
    assert picked.column('clip_id') == [row[0] for row, kept in zip(rows, keep, strict=True) if kept]
    assert [picked[i].file for i in range(len(picked))] == picked.column('file')
    twins = [*rows, draw.draw(sampled_from(rows))]
    with pytest.raises(UserError, match='stands in more than one row'):
        Manifest.from_columns({'clip_id': [r[0] for r in twins], 'file': [r[1] for r in twins]}, 'here')


@given(lists(tuples(NAMES, none() | sampled_from('abc')), min_size=1, max_size=20), floats(0, 1), floats(0, 1))
def test_splits_follow_names_alone_and_keep_groups_together(rows, share, other):
    def splits(rows, share):
        files, groups = zip(*rows, strict=True)
        columns = {'clip_id': [str(i) for i in range(len(rows))], 'file': files, 'group': groups}
        return splits_of(Manifest.from_columns(columns, 'here'), share)

    found = splits(rows, share)
    assert found[::-1] == splits(rows[::-1], share)
    by_name = {}
    for (file, group), split in zip(rows, found, strict=True):
        assert by_name.setdefault(group or file, split) == split
        assert 0 <= hash_share(group or file) < 1
    # A larger share only adds to the test split.
    larger = splits(rows, max(share, other))
    assert all(late == 'test' for early, late in zip(found, larger, strict=True) if early == 'test')
    assert set(splits(rows, 0.0)) == {'train'}
    assert set(splits(rows, 1.0)) == {'test'}
