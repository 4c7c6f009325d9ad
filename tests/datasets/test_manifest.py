"""The manifest reads what people have, says what is wrong, and is mapped rather than copied."""

import pickle

import pyarrow as pa
import pyarrow.parquet
import pytest

from gmscavp.datasets.manifest import Manifest
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
