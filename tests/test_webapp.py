"""The browser page without a browser: what it refuses, in which words, and what it shows of a file."""

import json
import pickle
import struct
import zipfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('gradio', reason='needs gradio: pip install "gmscavp[web]"')
pytest.importorskip('lancedb', reason='needs lancedb: pip install "gmscavp[search]"')

from gmscavp.errors import UserError
from gmscavp.inference import Model, load
from gmscavp.webapp import __main__ as command
from gmscavp.webapp import generate_tab, look_tab, search_tab
from gmscavp.webapp.controls import Page, Stops
from gmscavp.webapp.limits import BROKEN, Limits
from gmscavp.webapp.look_tab import look_with, scale_matrices
from gmscavp.webapp.moments import Workspace, read_moment
from gmscavp.webapp.page import build
from gmscavp.webapp.search_tab import inside, search_with
from gmscavp.webapp.served import Served, open_served
from gmscavp.webapp.server import Guard
from tests.generating import write_run
from tests.media import click, moving, numbered, read_number, sine, write_media
from tests.webpage import served_from, untrained

ME = SimpleNamespace(session_hash='me')
PICTURES, SOUND = search_tab.ASK_BY


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    workspace = Workspace()
    yield Page(served_from(tmp_path_factory.mktemp('page')), Limits(1, 20.0, 6.0), workspace, [])
    workspace.close()


@pytest.fixture(scope='module')
def tabs(page):
    """Every handler of a file, with plain settings."""
    search = search_with(page, page.served.store, page.served.root)
    look, generate = look_with(page), generate_tab.generate_with(page, page.served.generator)
    return {
        'search': lambda file: search(file, PICTURES, 2),
        'generate': lambda file: generate(file, 2, 1.0, 0, ME),
        'look': lambda file: look(file, 0),
    }


def said(answer):
    """The sentence of an error, which has to be all that is shown."""
    sentence, rest = answer
    assert not rest
    assert sentence.count('role="alert"') == 1
    assert 'Traceback' not in sentence
    assert '/' not in sentence.replace('</p>', '')
    return sentence


def png(width, height):
    header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + header + struct.pack('>I', zlib.crc32(header)) + bytes(100)


HOSTILE = {
    'pickle.mp4': pickle.dumps({'a': print}),
    'text.mp4': b'not a film',
    'page.html': b'<script>alert(1)</script>',
    'config.py': b'raise SystemExit',
    'weights.pth': pickle.dumps(print),
    'empty.mp4': b'',
    'huge.png': png(100_000, 100_000),
    'list.m3u8': b'#EXTM3U\n/etc/passwd\n',
    'large.mp4': bytes(2**20 + 1),
    '<img src=x onerror=alert(1)>.mp4': b'x',
}


@pytest.mark.parametrize('tab', ['search', 'generate', 'look'])
def test_hostile_files_get_one_sentence(tabs, tab, tmp_path):
    with zipfile.ZipFile(tmp_path / 'zip.mp4', 'w') as packed:
        packed.writestr('a.mp4', b'x' * 1000)
    for name, content in HOSTILE.items():
        (tmp_path / name.replace('/', '')).write_bytes(content)
    broken = write_media(tmp_path / 'cut.mp4', moving(), sine(), duration_s=2.0)
    broken.write_bytes(broken.read_bytes()[:3000])
    long = write_media(tmp_path / 'long.wav', None, sine(), duration_s=21.0, audio_codec='pcm_s16le', sample_rate=8000)
    for file in sorted(tmp_path.iterdir()):
        sentence = said(tabs[tab](str(file)))
        assert '<img' not in sentence
        assert BROKEN not in sentence, file
    assert 'larger than 1 MB' in said(tabs[tab](str(tmp_path / 'large.mp4')))
    assert 'lasts 21 s' in said(tabs[tab](str(long)))
    assert 'Choose a file' in said(tabs[tab](None))
    assert 'no longer here' in said(tabs[tab](str(tmp_path / 'gone.mp4')))


def test_what_a_file_lacks_is_said(page, tabs, tmp_path):
    mute = str(write_media(tmp_path / 'mute.mp4', moving(), None, duration_s=4.0))
    blind = str(write_media(tmp_path / 'blind.wav', None, sine(), audio_codec='pcm_s16le', sample_rate=8000))
    silent = str(write_media(tmp_path / 'silent.mp4', moving((64, 64)), sine(level=0.0), fps=8))
    assert 'not both pictures and sound' in said(tabs['look'](mute))
    assert 'no video' in said(tabs['generate'](blind))
    assert 'no pictures' in said(tabs['search'](blind))
    search = search_with(page, page.served.store, page.served.root)
    assert 'no sound' in said(search(mute, SOUND, 2))
    # A silent one is a video as any other.
    for tab, there in (('look', '<svg'), ('generate', '<video'), ('search', '<video')):
        sentence, shown = tabs[tab](silent)
        assert 'wrong' not in sentence
        assert there in shown
    assert search(blind, SOUND, 2)[1].count('class="rank"') == 2


@pytest.mark.parametrize(
    'settings', [(0, 1.0, 0), (1000, 1.0, 0), (5, float('nan'), 0), (5, 99.0, 0), (5, 1.0, -1), (None, 1.0, 0)]
)
def test_settings_beyond_the_page_are_refused(page, settings):
    generate = generate_tab.generate_with(page, page.served.generator)
    file = page.served.root / 'clip "0" <b>.mp4'
    assert 'Choose' in (sentence := said(generate(str(file), *settings, ME))) or 'Give numbers' in sentence


def test_a_mistake_of_ours_is_one_sentence_too(page, monkeypatch):
    monkeypatch.setattr(Model, 'localise', lambda *_, **__: 1 / 0)
    file = page.served.root / 'clip "0" <b>.mp4'
    assert BROKEN in said(look_with(page)(str(file), 0))


def test_a_moment_begins_at_its_second(tmp_path):
    file = write_media(tmp_path / 'a.mp4', numbered(), click([2.5]), duration_s=5.0, gop=250)
    moment = read_moment(file, 2.3, 3.3, 'pyav')
    assert read_number(moment.frames[0].transpose(2, 0, 1)) == pytest.approx(232, abs=4)
    assert len(moment.frames) == 15
    loud = np.flatnonzero(np.abs(moment.sound.numpy()) > 0.3)[0] / moment.rate
    assert loud == pytest.approx(0.2, abs=0.01)
    # As it is played.
    workspace = Workspace()
    played = read_moment(moment.write(workspace), 0.0, 9.0, 'pyav')
    workspace.close()
    assert played.lasts_s == pytest.approx(1.0, abs=0.1)
    assert read_number(played.frames[0].transpose(2, 0, 1)) == pytest.approx(232, abs=4)
    assert not workspace.folder.exists()


@pytest.mark.parametrize('config', ['gmscavp_impacts.py', 'dense_impacts.py'])
def test_the_diagonal_of_a_matrix_is_the_similarity_over_time(config, tmp_path):
    file = write_media(tmp_path / 'a.mp4', moving((64, 64)), click([1.0, 5.0]), duration_s=9.3, fps=16)
    model = untrained(config)
    matrices = scale_matrices(model.embed(file, 'video'), model.embed(file, 'audio'), 4.0, 9.3)
    for scale, matrix in enumerate(matrices):
        expected = model.localise(file, scale=scale).similarity.numpy()
        count = min(len(matrix), len(expected))
        assert count >= min(2, len(expected))
        assert np.diagonal(matrix)[:count] == pytest.approx(expected[:count], abs=1e-5)


def test_the_library_is_not_left(page, tmp_path):
    root = page.served.root
    outside = tmp_path / 'secret.mp4'
    outside.write_bytes(b'x')
    (root / 'link.mp4').symlink_to(outside)
    for name in ('link.mp4', '../db', '/etc/passwd', 'a/../../x'):
        with pytest.raises(UserError, match='outside'):
            inside(root, name)
    (root / 'link.mp4').unlink()
    assert inside(root, 'clip "1" <b>.mp4').is_file()


def test_a_file_that_left_the_library_is_said(page, tmp_path):
    file = page.served.root / 'clip "1" <b>.mp4'
    moved = file.rename(tmp_path / 'moved.mp4')
    sentence, shown = search_with(page, page.served.store, page.served.root)(str(moved), PICTURES, 4)
    moved.rename(file)
    assert 'wrong' not in sentence
    assert shown.count('<video') == 3
    assert shown.count('index the library again') == 1
    assert '<b>' not in shown
    assert str(page.served.root) not in shown


def test_old_moments_are_removed():
    workspace = Workspace(most=2)
    files = [workspace.new('a.mp4') for _ in range(4)]
    for file in files[2:]:
        file.write_bytes(b'x')
    assert [file.parent.is_dir() for file in files] == [False, False, True, True]
    assert workspace.folder.stat().st_mode & 0o077 == 0
    workspace.close()


def test_stopping_is_for_what_runs_and_not_for_what_they_begin_next():
    stops = Stops()
    stops.ask('nobody')
    with stops.work('other') as other, stops.work('me') as mine:
        stops.ask('me')
        assert mine.is_set()
        # The one that was stopped is still at its last step.
        with stops.work('me') as following:
            assert not following.is_set()
            stops.ask('me')
            assert following.is_set()
        assert not other.is_set()
    with stops.work('me') as later:
        assert not later.is_set()


@pytest.mark.parametrize(
    ('path', 'status'),
    [
        ('/gradio_api/file=http://127.0.0.1/x', 403),
        ('/gradio_api/file=https:/example.org/x', 403),
        ('/gradio_api/file=http%3A//127.0.0.1/x', 403),
        ('/gradio_api/proxy=http://127.0.0.1/x', 403),
        ('/gradio_api/file=/tmp/a.mp4', None),
        ('/', None),
    ],
)
def test_nothing_is_fetched_from_elsewhere(path, status, tmp_path):
    refusal = Guard(None, tmp_path).refusal(path)
    assert (refusal and refusal[0]) == status


def test_tabs_without_a_model_say_how_to_get_it(page):
    alone = build(Page(Served(page.served.run), Limits(), page.workspace, []))
    told = json.dumps(alone.get_config_file())
    assert search_tab.MISSING in told
    assert generate_tab.MISSING in told
    moment = read_moment(page.served.root / 'clip "0" <b>.mp4', 0, 1, 'pyav')
    assert look_tab.NO_HEAT in look_tab.where(Page(Served(page.served.run), Limits(), page.workspace, []), moment)


def test_the_command_says_what_is_missing(page, tmp_path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['webapp', '--run', str(tmp_path), '--max-mb', '0'])
    with pytest.raises(UserError, match='above 0'):
        command.main()
    monkeypatch.setattr(command.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r'pip install .*gmscavp\[web\]'):
        command.main()
    monkeypatch.setattr(Model, 'from_run', lambda path, device: load(*write_run(tmp_path), device='cpu'))
    with pytest.raises(UserError, match='embeds nothing'):
        open_served(tmp_path)
    monkeypatch.setattr(Model, 'from_run', lambda path, device: untrained('dense_impacts.py'))
    with pytest.raises(UserError, match='not with'):
        open_served(tmp_path, database=page.served.store.uri)
    monkeypatch.setattr(Model, 'from_run', lambda path, device: page.served.run)
    with pytest.raises(UserError, match='no model with DenseHead'):
        open_served(tmp_path, heat_map=tmp_path)
    with pytest.raises(UserError, match='--root'):
        open_served(tmp_path, database=page.served.store.uri, root=tmp_path / 'nowhere')
