"""AudioSet: its tables as they are, its files under the names that people give them, and no guessing."""

import shutil

import pytest

from gmscavp.datasets import AudioSet, CentreWindow, audioset, base
from gmscavp.datasets.audioset import list_audioset, read_class_labels, read_segments_csv
from gmscavp.datasets.preparing.rewriting import target_name
from gmscavp.errors import UserError
from tests.media import moving, sine, write_media

COMMON = dict(
    clip=dict(duration_s=0.5, fps=8, size=32, sample_rate=8000, backend='pyav'), window=dict(type=CentreWindow)
)
CLASSES = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n2,/t/dd00088,"Gush"\n'
HEADER = 'YTID,start_seconds,end_seconds,positive_labels\n'
OFFICIAL = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=3, num_segs=3, num_unique_labels=2, num_positive_labels=4
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"
Yabcdefghij, 0.000, 10.000, "/m/05zppz"
0-_________, 210.500, 211.500, "/m/09x0r"
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def names(tmp_path):
    (tmp_path / 'classes.csv').write_text(CLASSES)
    return read_class_labels(tmp_path / 'classes.csv')


@pytest.fixture
def segments(tmp_path, names):
    (tmp_path / 'segments.csv').write_text(OFFICIAL)
    return read_segments_csv(tmp_path / 'segments.csv', names)


def folder(tmp_path, *files):
    for file in files:
        path = tmp_path / 'video' / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / 'video'


def found(root, segments, **settings):
    rows = list_audioset(root, {'train': segments}, **settings).manifest
    return dict(zip(rows.column('clip_id'), rows.column('file'), strict=True))


def test_the_official_comments_and_spaces_and_several_labels(segments):
    assert [tuple(segment) for segment in segments] == [
        ('--PJHxphWEs', 30.0, 40.0, ['Speech', 'Gush']),
        ('Yabcdefghij', 0.0, 10.0, ['Male speech, man speaking']),
        ('0-_________', 210.5, 211.5, ['Speech']),
    ]
    assert segments[2].clip_id == '0-__________210500_211500'


def test_a_header_line_windows_ends_and_a_byte_order_mark_change_nothing(tmp_path, names, segments):
    lines = [line.replace(', ', ',') for line in OFFICIAL.splitlines() if not line.startswith('#')]
    path = tmp_path / 'header.csv'
    path.write_bytes(b'\xef\xbb\xbf' + '\r\n'.join([HEADER.strip(), *lines, '', '']).encode())
    assert read_segments_csv(path, names) == segments


@pytest.mark.parametrize(
    'name',
    [
        '{id}.mp4',
        'Y{id}.mp4',
        'deep/er/{id}.webm',
        '{id}_30.mp4',
        '{id}_000030.mp4',
        '{id}_30.000_40.000.mkv',
        '{id}_30000_40000.mp4',
        'Y{id}_30000.mp4',
    ],
)
def test_usual_file_names(tmp_path, segments, name):
    file = name.format(id='--PJHxphWEs')
    root = folder(tmp_path, file, '--PJHxphWEs_50.mp4', '--PJHxphWEs_30000_50000.mp4', 'notes.mp4', 'x.txt')
    assert found(root, segments) == {'--PJHxphWEs_30000_40000': file}


def test_an_id_that_begins_with_y_and_times_with_a_fraction(tmp_path, segments):
    root = folder(tmp_path, 'Yabcdefghij.mp4', '0-__________210_211.mp4')
    assert set(found(root, segments)) == {'Yabcdefghij_0_10000', '0-__________210500_211500'}
    assert list(found(folder(tmp_path / 'y', 'YYabcdefghij_0_10.mp4'), segments)) == ['Yabcdefghij_0_10000']


def test_rewritten_files_are_found_under_their_names(tmp_path, segments):
    names = [target_name(segment.clip_id) for segment in segments]
    assert sorted(found(folder(tmp_path, *names), segments).values()) == sorted(names)


def test_two_files_for_a_segment_are_refused(tmp_path, segments):
    root = folder(tmp_path, 'a/--PJHxphWEs.mp4', 'b/--PJHxphWEs_30.mp4')
    with pytest.raises(UserError, match=r'1 clips have more than one file; for --PJ.* a/--PJ.*mp4 and b/--PJ'):
        found(root, segments)


def test_a_file_that_may_be_two_segments_is_refused_unless_it_is_the_whole_video(tmp_path, names):
    (tmp_path / 's.csv').write_text(HEADER + '--PJHxphWEs,0,10,/m/09x0r\n--PJHxphWEs,40,50,/m/09x0r\n')
    both = read_segments_csv(tmp_path / 's.csv', names)
    root = folder(tmp_path, '--PJHxphWEs.mp4')
    with pytest.raises(UserError, match=r'may be --PJHxphWEs_0_10000 or --PJHxphWEs_40000_50000; add the start'):
        found(root, both)
    rows = list_audioset(root, {'train': both}, whole_videos=True).manifest
    assert list(zip(rows.column('start_s'), rows.column('end_s'), strict=True)) == [(0, 10), (40, 50)]
    assert rows.column('group') == ['--PJHxphWEs'] * 2


def test_a_segment_in_two_splits_is_refused(tmp_path, segments):
    root = folder(tmp_path, '--PJHxphWEs.mp4')
    with pytest.raises(UserError, match='segment --PJHxphWEs_30000_40000 is listed for train and for test'):
        list_audioset(root, {'train': segments, 'test': segments})


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (HEADER + 'a--PJHxphWE,0,10,/m/09x0\n', r"line 2: label '/m/09x0' is not in .* Did you mean /m/09x0r"),
        (HEADER + 'a--PJHxphWE,0,10,/m/09x0r\n' * 2, 'line 3: segment a--PJHxphWE_0_10000 is listed twice'),
        ('id,from,to,labels\n', "line 1: 'id' is not a YouTube id of 11 letters; expected YTID"),
        (HEADER + 'a--PJHxphWE,0,10\n', 'line 2: expected "YTID'),
        (HEADER + 'a--PJHxphWE,zero,10,/m/09x0r\n', "line 2: 'zero' is not a time"),
        (HEADER + 'a--PJHxphWE,10,10,/m/09x0r\n', 'line 2: the segment from 10 to 10 s has no length'),
        (HEADER + 'a--PJHxphWE,0,10,"/m/09x0r\n', 'is damaged after'),
        (HEADER, 'lists no segments'),
        ('', 'is empty'),
        ('# only a comment\n', 'is empty'),
    ],
)
def test_mistakes_in_a_segments_csv_are_named(tmp_path, names, text, message):
    (tmp_path / 's.csv').write_text(text)
    with pytest.raises(UserError, match=message):
        read_segments_csv(tmp_path / 's.csv', names)


def test_other_files_are_named(tmp_path, names, segments):
    with pytest.raises(UserError, match='does not exist; set annotations'):
        read_segments_csv(tmp_path / 'none.csv', names)
    (tmp_path / 's.csv').write_bytes(b'\xff\xfe\x00binary')
    with pytest.raises(UserError, match='is damaged'):
        read_segments_csv(tmp_path / 's.csv', names)
    (tmp_path / 's.csv').write_text('mid,name\n')
    with pytest.raises(UserError, match='expected the header "index,mid,display_name"'):
        read_class_labels(tmp_path / 's.csv')
    with pytest.raises(UserError, match=r"none of the 3 listed clips .* '<youtube id>_<start>.mp4'"):
        found(folder(tmp_path, 'other.mp4'), segments)


def test_the_data_set_reads_windows_of_whole_videos_and_counts(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(base, 'print_log', lambda text, **_: said.append(text))
    (tmp_path / 'classes.csv').write_text(CLASSES)
    (tmp_path / 's.csv').write_text(HEADER + '--PJHxphWEs,1,2,"/m/09x0r,/t/dd00088"\nzzzzzzzzzzz,0,10,/m/09x0r\n')
    (tmp_path / 'video').mkdir()
    write_media(tmp_path / 'video' / 'long.mp4', moving(), sine(), duration_s=3)
    shutil.move(tmp_path / 'video' / 'long.mp4', tmp_path / 'video' / '--PJHxphWEs.mp4')
    tables = dict(annotations=str(tmp_path / 's.csv'), class_labels=str(tmp_path / 'classes.csv'))
    data = AudioSet(str(tmp_path / 'video'), **tables, **COMMON, whole_videos=True)
    assert said == [f'AudioSet train: found 1 of 2 listed clips in {tmp_path / "video"}']
    assert (data[0]['valid'], data[0]['start_s']) == (True, 1.25)
    assert data.manifest[0].labels == ['Speech', 'Gush']


def test_real_metadata_and_real_clips(real_data):
    meta = real_data / 'meta/audioset'
    names = read_class_labels(meta / 'class_labels_indices.csv')
    train = read_segments_csv(meta / 'balanced_train_segments.csv', names)
    test = read_segments_csv(meta / 'eval_segments.csv', names)
    assert (len(names), len(train), len(test)) == (527, 22_160, 20_371)
    assert not {segment.youtube_id for segment in train} & {segment.youtube_id for segment in test}
    listing = audioset.list_audioset(real_data / 'clips', {'train': train, 'test': test})
    assert (listing.listed, len(listing.manifest)) == (42_531, 7)
    whistle = listing.manifest[listing.manifest.column('clip_id').index('00W1lcxW-WU_40000_50000')]
    assert (whistle.labels, whistle.split) == (['Whistle'], 'train')
