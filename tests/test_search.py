"""The library: what is indexed once stays right whatever happens to files, processes and folders."""

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gmscavp.errors import UserError
from gmscavp.search import Filters, carry_out, find, labels_of, library_store, open_store, plan, writing
from gmscavp.search import store as store_module
from gmscavp.search.layout import About, Known, Vectors, rows_of, schema_of
from gmscavp.search.store import create_store
from tests.searching import StandInModel, write_file

GOLDEN = Path(__file__).parent / 'golden' / 'search'
NAMES = ['a.mp4', "it's; DROP.mp4", 'dröhn/鳥 声.wav', '100%_[x] "y"\\z.mp4', 'deep/er/e.mkv']


@pytest.fixture
def library(tmp_path):
    root = tmp_path / 'library'
    for seed, name in enumerate(NAMES):
        write_file(root / name, seed)
    return root


def index(db, root, model=None, labels=None, **settings):
    model = model or StandInModel()
    with writing(str(db)):
        store = library_store(str(db), model, root, 2.0, **settings)
        return list(carry_out(plan(store, root, labels), store, model, root))


def content(db):
    """All that a database says, in an order of its own."""
    rows = open_store(str(db))._table.to_arrow().drop_columns(['mtime_ns'])
    return rows.sort_by([('file', 'ascending'), ('modality', 'ascending'), ('number', 'ascending')])


def test_the_second_time_nothing_is_embedded(library, tmp_path):
    steps = index(tmp_path / 'db', library)
    assert [(step.state, step.windows) for step in steps].count(('added', 6)) == 4
    assert {step.file: step.windows for step in steps}['dröhn/鳥 声.wav'] == 3
    model = StandInModel()
    assert index(tmp_path / 'db', library, model) == []
    assert model.embedded == []


def test_incremental_is_as_from_scratch(library, tmp_path):
    index(tmp_path / 'db', library)
    write_file(library / NAMES[0], 77, 11.0)
    write_file(library / NAMES[1], 78, 5.0)
    (library / NAMES[2]).unlink()
    write_file(library / 'new.flac', 5)
    os.utime(library / NAMES[3], ns=(1, 1))
    steps = index(tmp_path / 'db', library)
    assert {step.file: step.state for step in steps} == {
        NAMES[0]: 'replaced',
        NAMES[1]: 'replaced',
        NAMES[3]: 'unchanged',
        'new.flac': 'added',
    }
    index(tmp_path / 'fresh', library)
    assert content(tmp_path / 'db').equals(content(tmp_path / 'fresh'))


@pytest.mark.parametrize('stop', [1, 2, 4])
def test_interrupted_at_any_file_it_is_whole_after_going_on(library, tmp_path, stop):
    model = StandInModel()
    store = library_store(str(tmp_path / 'db'), model, library, 2.0)
    steps = carry_out(plan(store, library), store, model, library)
    done = [next(steps).file for _ in range(stop)]
    steps.close()
    assert open_store(store.uri).known().keys() == set(done)
    rest = index(tmp_path / 'db', library)
    assert len(rest) == len(NAMES) - stop
    index(tmp_path / 'fresh', library)
    assert content(tmp_path / 'db').equals(content(tmp_path / 'fresh'))


def _index_forever(db, root):
    model = StandInModel()
    store = library_store(str(db), model, root, 2.0)
    for round_ in range(10_000):
        # Of another length each time, so that a file of two rounds would show.
        write_file(root / NAMES[0], round_, 8.0 + 2 * (round_ % 5))
        list(carry_out(plan(store, root, check_content=True), store, model, root))


def test_a_process_killed_while_it_writes_leaves_whole_files_and_readers_never_see_less(library, tmp_path):
    db = tmp_path / 'db'
    index(db, library)
    writer = multiprocessing.get_context('spawn').Process(target=_index_forever, args=(db, library))
    writer.start()
    seen, wrong = [0, 0], []
    over = threading.Event()

    def read(number):
        while not over.is_set():
            known = open_store(str(db)).known()
            seen[number] += 1
            file = known[NAMES[0]]
            if len(known) != len(NAMES) or file.windows != 2 * int((file.duration_s - 4) / 2 + 1):
                wrong.append(known)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for reader in readers:
        reader.start()
    before = open_store(str(db))._table.version
    deadline = time.monotonic() + 200
    while open_store(str(db))._table.version < before + 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    over.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert min(seen) > 0
    assert open_store(str(db))._table.version >= before + 4
    index(db, library)
    index(tmp_path / 'fresh', library)
    assert content(db).equals(content(tmp_path / 'fresh'))


def test_a_second_writer_is_refused_and_readers_are_not(library, tmp_path):
    index(tmp_path / 'db', library)
    with writing(str(tmp_path / 'db')):
        with pytest.raises(UserError, match='another process'), writing(str(tmp_path / 'db')):
            pass
        assert len(open_store(str(tmp_path / 'db')).known()) == len(NAMES)


def test_a_moved_library_and_database_go_on(library, tmp_path):
    index(tmp_path / 'db', library)
    moved = shutil.move(library, tmp_path / 'elsewhere')
    db = shutil.move(tmp_path / 'db', tmp_path / 'other_db')
    model = StandInModel()
    assert index(db, moved, model) == []
    assert model.embedded == []
    open_store(str(db)).set_root('/neu')
    assert open_store(str(db)).root == '/neu'
    assert open_store(str(db)).known().keys() == set(NAMES)


def test_a_folder_that_is_not_the_library_forgets_nothing(library, tmp_path):
    index(tmp_path / 'db', library)
    write_file(tmp_path / 'stranger' / 'b.mp4', 3)
    (tmp_path / 'empty').mkdir()
    for folder in ('stranger', 'empty', 'missing'):
        with pytest.raises(UserError):
            index(tmp_path / 'db', tmp_path / folder)
    assert len(open_store(str(tmp_path / 'db')).known()) == len(NAMES)


def test_models_and_settings_do_not_mix(library, tmp_path):
    index(tmp_path / 'db', library)
    other = StandInModel('another')
    with pytest.raises(UserError, match='made with the model stand-in, not with another'):
        index(tmp_path / 'db', library, other)
    with pytest.raises(UserError, match='made with the model'):
        find(open_store(str(tmp_path / 'db')), other, library / NAMES[0], 'video')
    with pytest.raises(UserError, match=r'stride_s 2\.0, not 1\.0'):
        library_store(str(tmp_path / 'db'), StandInModel(), library, 1.0)
    with pytest.raises(UserError, match='sides video audio, not audio'):
        index(tmp_path / 'db', library, sides=('audio',))


def test_bad_files_are_left_out_by_cause_and_good_ones_kept(library, tmp_path):
    (library / 'junk.mp4').write_bytes(b'\0' * 100)
    (library / 'empty.wav').touch()
    write_file(library / 'mute.mp4', 9, without=['audio'])
    write_file(library / 'nothing.mp4', 9, without=['audio', 'video'])
    (library / 'gone.mp4').symlink_to(tmp_path / 'nowhere')
    with open(os.fsencode(library) + b'/\xff.wav', 'w') as stream:
        json.dump({'seed': 1, 'duration_s': 8}, stream)
    states = {step.file: (step.state, step.cause) for step in index(tmp_path / 'db', library)}
    assert states['junk.mp4'] == states['empty.wav'] == ('bad', 'damaged')
    assert states['nothing.mp4'] == ('bad', 'no audio track')
    assert states['mute.mp4'] == ('added', '')
    assert [cause for _, cause in states.values()].count('name is no UTF-8') == 1
    assert 'gone.mp4' not in states
    known = open_store(str(tmp_path / 'db')).known()
    assert known.keys() == {*NAMES, 'mute.mp4'}
    # A file that was good and is damaged now has no moments to be found.
    (library / NAMES[0]).write_text('broken')
    index(tmp_path / 'db', library)
    assert NAMES[0] not in open_store(str(tmp_path / 'db')).known()


def test_labels_of_a_manifest_follow_the_files(library, tmp_path):
    table = tmp_path / 'labels.csv'
    table.write_text(f"clip_id,file,label\na,{NAMES[0]},rain\nb,{NAMES[1]},dawn;o'clock\n")
    index(tmp_path / 'db', library)
    assert index(tmp_path / 'db', library, labels=labels_of(table)) == []
    known = open_store(str(tmp_path / 'db')).known()
    assert (known[NAMES[0]].label, known[NAMES[1]].label, known[NAMES[2]].label) == ('rain', "dawn;o'clock", None)
    write_file(library / NAMES[0], 50)
    index(tmp_path / 'db', library)
    assert open_store(str(tmp_path / 'db')).known()[NAMES[0]].label == 'rain'
    assert open_store(str(tmp_path / 'db')).known(Filters(label="o'*").condition()).keys() == {NAMES[1]}


@pytest.mark.parametrize('name', NAMES)
def test_a_name_is_never_a_condition(library, tmp_path, name):
    index(tmp_path / 'db', library)
    store = open_store(str(tmp_path / 'db'))
    literal = ''.join('?' if c in '*?' else c for c in name)
    assert store.known(Filters(path=literal).condition()).keys() == {name}
    assert store.known(Filters(path=f"x' OR '1'='1{name}").condition()) == {}
    store.remove([name])
    assert store.known().keys() == set(NAMES) - {name}


def test_the_same_code_serves_an_object_store(library, tmp_path):
    uri = f'file-object-store://{tmp_path}/bucket'
    index(uri, library)
    index(tmp_path / 'db', library)
    assert content(uri).equals(content(tmp_path / 'db'))
    assert open_store(uri).size is None


def test_a_strangers_database_is_refused_or_read_and_nothing_of_it_is_run(library, tmp_path):
    with pytest.raises(UserError, match='there is no search database'):
        open_store(str(tmp_path / 'nowhere'))
    assert not (tmp_path / 'nowhere').exists()
    index(tmp_path / 'db', library)
    about = open_store(str(tmp_path / 'db')).about
    told = json.loads(schema_of(about).metadata[b'gmscavp.search'])
    for changes, said in [
        ({'version': 2, 'made_by': '9.9'}, 'layout 2 of gmscavp 9.9'),
        ({'version': 'x'}, "layout 'x'"),
        ({'lengths': 'x'}, 'no search database of gmscavp'),
        ({'lengths': [0]}, 'no search database of gmscavp'),
        ({'width': 7}, 'no search database of gmscavp'),
    ]:
        schema = schema_of(about).with_metadata({'gmscavp.search': json.dumps(told | changes)})
        _hostile(tmp_path / 'bad', schema)
        with pytest.raises(UserError, match=said):
            open_store(str(tmp_path / 'bad'))
    functions = json.dumps([{'name': 'openai', 'model': {}, 'source_column': 'file', 'vector_column': 'vector'}])
    kept = schema_of(about).metadata
    _hostile(tmp_path / 'bad', schema_of(about).with_metadata({**kept, 'embedding_functions': functions}))
    with pytest.raises(UserError, match='no search database of gmscavp'):
        open_store(str(tmp_path / 'bad'))
    _hostile(tmp_path / 'bad', pa.schema({'x': pa.int64()}))
    with pytest.raises(UserError, match='no search database of gmscavp'):
        open_store(str(tmp_path / 'bad'))


def _hostile(db, schema):
    shutil.rmtree(db, ignore_errors=True)
    store_module.lancedb.connect(str(db)).create_table('windows', schema=schema)


@pytest.mark.parametrize('part', ['_versions', 'data'])
def test_a_damaged_database_is_said_in_words(library, tmp_path, part):
    index(tmp_path / 'db', library)
    for file in (tmp_path / 'db' / 'windows.lance' / part).iterdir():
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match=r'cannot be used|there is no search database'):
        open_store(str(tmp_path / 'db')).known()


def test_a_missing_library_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(store_module, 'lancedb', None)
    with pytest.raises(UserError, match=r'pip install -c requirements/constraints.txt "gmscavp\[search\]"'):
        open_store(str(tmp_path))


@pytest.mark.parametrize(('width', 'kind'), [(168, 'IvfRq'), (147, 'IvfSq')])
def test_an_index_finds_what_the_exact_search_finds(width, kind, tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, width))
    vectors = centres[rng.integers(20, size=2000)] + 0.5 * rng.standard_normal((2000, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    about = About('m', width, (16, 4, 1), 4.0, 1.0, ('audio',))
    store = create_store(str(tmp_path / 'db'), about)
    seconds = np.arange(2000.0)
    sides = {'audio': Vectors(seconds, seconds + 4, vectors)}
    store.commit(rows_of(about, 'a.wav', Known('', 0, 0, None, 2004.0, 2000), sides), False)
    store.tidy(ann_from=1000)
    assert store.index == kind
    hits = 0
    for query in vectors[:20]:
        exact = store.search(query, 10, exact=True)
        assert np.allclose(exact['score'], np.sort(vectors @ query)[::-1][:10], atol=2e-3)
        hits += len(set(exact['start_s'].to_pylist()) & set(store.search(query, 10)['start_s'].to_pylist()))
    assert hits >= 0.95 * 200


def test_the_database_of_this_release_is_read_and_answers(tmp_path):
    """tests/golden/search was made by 0.1.0 with make_golden; a later layout must read it, or say what it needs."""
    db = shutil.copytree(GOLDEN, tmp_path / 'db')
    store = open_store(str(db))
    assert (store.about.version, store.about.made_by, store.about.model) == (1, '0.1.0', 'stand-in')
    assert {file: (entry.label, entry.windows) for file, entry in store.known().items()} == {
        'a.mp4': ('rain', 6),
        'ö/b.wav': (None, 3),
    }
    write_file(tmp_path / 'a.mp4', 0)
    best = find(store, StandInModel(), tmp_path / 'a.mp4', 'video', start_s=2, end_s=6)[0]
    assert (best.file, best.start_s, best.modality) == ('a.mp4', 2.0, 'audio')
    assert best.score == pytest.approx(1.0, abs=2e-3)


def make_golden(folder):
    """How tests/golden/search was made: python -c "import tests.test_search as t; t.make_golden(t.GOLDEN)"."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_file(root / 'a.mp4', 0)
        write_file(root / 'ö' / 'b.wav', 1)
        (root / 'labels.csv').write_text('clip_id,file,label\na,a.mp4,rain\n')
        index(folder, root, labels=labels_of(root / 'labels.csv'))
    (folder / '.writing').unlink()
