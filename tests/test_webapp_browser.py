"""The page as it is served: what requests get, and what a person with a browser sees."""

import http.server
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('gradio', reason='needs gradio: pip install "gmscavp[web]"')
pytest.importorskip('lancedb', reason='needs lancedb: pip install "gmscavp[search]"')

import httpx

from gmscavp.errors import UserError
from gmscavp.webapp import __main__ as command
from gmscavp.webapp import server
from gmscavp.webapp.generate_tab import STOPPED
from gmscavp.webapp.limits import Limits
from gmscavp.webapp.server import serving
from tests.media import moving, write_media
from tests.webpage import PHONE, SLOW, WIDE, chromium, served_from

TIMEOUT_MS = 90_000


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('served')


@pytest.fixture(scope='module')
def served(folder):
    return served_from(folder)


@pytest.fixture(scope='module')
def address(served):
    with serving(served, Limits(max_mb=1), '127.0.0.1', 0) as found:
        yield found.rstrip('/')


@pytest.fixture(scope='module')
def client(address):
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope='module')
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def shots(tmp_path):
    """Where pictures of the page are kept: GMSCAVP_SHOTS, or the test's own folder."""
    found = Path(os.environ.get('GMSCAVP_SHOTS') or tmp_path)
    found.mkdir(parents=True, exist_ok=True)
    return found


@pytest.fixture
def opened(browser, address):
    """Opens the page; what it asked for and what went wrong in it is judged at the end."""
    contexts, asked, wrong = [], [], []

    def begin(tab, viewport=WIDE, scheme='light'):
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        page.on('request', lambda request: asked.append(request.url))
        page.on('pageerror', lambda error: wrong.append(str(error)))
        page.goto(address)
        page.get_by_role('tab', name=tab, exact=True).click()
        return page, page.get_by_role('tabpanel').locator('visible=true')

    yield begin
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith((address, 'data:', 'blob:'))] == []
    assert wrong == []


def fits(page):
    return page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')


def fetch(client, path, **options):
    return client.get(f'/gradio_api/file={path}', **options).status_code


def test_no_other_file_is_served(client, served, folder, tmp_path):
    secret = tmp_path / 'secret.txt'
    secret.write_text('secret')
    inside = served.root / 'clip "0" <b>.mp4'
    for path in (secret, inside, folder / 'run.pth', '/etc/passwd', __file__, 'setup.cfg', '/proc/self/environ'):
        assert fetch(client, path) in (403, 404)
    file = tmp_path / 'a.mp4'
    write_media(file, moving((32, 32)), None, duration_s=1.0)
    uploaded = client.post('/gradio_api/upload', files={'files': ('../../up.mp4', file.read_bytes())}).json()[0]
    assert Path(uploaded).name == 'up.mp4'
    assert fetch(client, uploaded) == 200
    uploads = Path(uploaded).parents[1]
    (uploads.parent / 'made' / 'link').symlink_to(secret)
    for way in (
        f'{uploads}/../../../etc/passwd',
        f'{uploads}/..%2f..%2f..%2fetc%2fpasswd',
        f'{uploads}/%2e%2e/%2e%2e/{secret}',
        f'{uploads}/../made/../../{secret.name}',
        f'/proc/self/root{secret}',
        f'{uploads.parent}/made/link',
        f'http://127.0.0.1/{secret}',
    ):
        assert fetch(client, way) in (400, 403, 404), way
    assert client.get('/', headers={'Host': 'elsewhere.example'}).status_code == 400
    assert "default-src 'self'" in client.get('/').headers['content-security-policy']


def ask(client, name, *data):
    event = client.post(f'/gradio_api/call/{name}', json={'data': list(data)}).json()['event_id']
    return client.get(f'/gradio_api/call/{name}/{event}').text


def test_a_request_cannot_name_files_or_addresses(client, served, tmp_path):
    reached = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            reached.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

    other = http.server.HTTPServer(('127.0.0.1', 0), Elsewhere)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    kind = {'meta': {'_type': 'gradio.FileData'}}
    inside = str(served.root / 'clip "0" <b>.mp4')
    for path in (inside, '/etc/passwd', f'http://127.0.0.1:{other.server_port}/a.mp4', 'https://192.0.2.1/a.mp4'):
        for given in ({'path': path}, {'path': path, 'url': path}):
            answer = ask(client, 'search', given | kind, 'What fits its pictures', 2)
            assert 'event: error' in answer
            assert 'Traceback' not in answer
    other.shutdown()
    assert reached == []
    # No route that reads a config or a checkpoint.
    info = client.get('/gradio_api/info').json()
    assert sorted(info['named_endpoints']) == ['/generate', '/look', '/search']


def test_uploads_have_a_size(client):
    large = client.post('/gradio_api/upload', files={'files': ('a.mp4', bytes(2**20 + 1))})
    assert large.status_code == 413


def test_a_password_guards_everything(served, tmp_path):
    with (
        serving(served, Limits(), '127.0.0.1', 0, password='right') as found,
        httpx.Client(base_url=found, timeout=60, trust_env=False) as client,
    ):
        assert client.get('/config').status_code == 401
        assert client.post('/gradio_api/upload', files={'files': ('a.mp4', b'x')}).status_code == 401
        assert fetch(client, '/etc/passwd') == 401
        assert client.post('/login', data={'username': 'me', 'password': 'wrong'}).status_code == 400
        assert client.post('/login', data={'username': 'me', 'password': 'right'}).status_code == 200
        assert client.get('/config').status_code == 200
        with (
            pytest.raises(UserError, match='choose another --port'),
            serving(served, Limits(), '127.0.0.1', client.base_url.port),
        ):
            pass


def test_the_command_serves_here_alone_and_leaves_nothing(served, tmp_path, monkeypatch, capsys):
    asked, folders = [], []

    def used():
        found = capsys.readouterr().out.split()[1]
        folders.append(Path(os.environ['GRADIO_TEMP_DIR']).parent)
        asked.append((found, httpx.get(f'{found}config', trust_env=False).status_code))

    monkeypatch.setattr(command, 'open_served', lambda *_: served)
    monkeypatch.setattr(server, 'wait', used)
    monkeypatch.setattr('sys.argv', ['webapp', '--run', str(tmp_path), '--port', '0'])
    monkeypatch.setenv(command.PASSWORD, 'right')
    command.main()
    assert asked[0][0].startswith('http://127.0.0.1:')
    assert asked[0][1] == 401
    assert not folders[0].exists()


def test_search_by_keyboard_finds_and_plays(opened, shots, served):
    page, panel = opened('Search', scheme='dark')
    page.get_by_role('tab', name='Look', exact=True).focus()
    page.get_by_role('tab', name='Search', exact=True).focus()
    page.keyboard.press('Enter')
    page.screenshot(path=shots / 'search_empty_dark.png')
    upload = panel.get_by_role('button', name='Drop File').or_(panel.locator('button:has(input[type=file])')).first
    with page.expect_file_chooser() as chooser:
        upload.press('Enter')
    chooser.value.set_files(served.root / 'clip "2" <b>.mp4')
    panel.locator('.seen video').wait_for()
    button = panel.get_by_role('button', name='Search', exact=True)
    button.focus()
    page.keyboard.press('Enter')
    panel.locator('#answers video').first.wait_for()
    assert panel.locator('#answers li').count() == 4
    assert 'clip "2" <b>.mp4' in panel.locator('#answers').inner_text()
    # Each is a mel and a line of similarity, and plays by itself.
    assert panel.locator('#answers img').count() == panel.locator('#answers polyline').count() == 4
    page.wait_for_function("[...document.querySelectorAll('#answers video')].some(v => v.currentTime > 0.1)")
    lasts_s = panel.locator('#answers video').first.evaluate('v => v.duration')
    assert lasts_s == pytest.approx(4.0, abs=0.6)
    page.screenshot(path=shots / 'search_dark.png', full_page=True)
    assert fits(page)


def test_search_on_a_phone_by_an_example(opened, shots):
    page, panel = opened('Search', PHONE)
    page.screenshot(path=shots / 'search_phone_empty.png', full_page=True)
    panel.get_by_role('button', name='clip', exact=False).first.click()
    panel.locator('.seen video').wait_for()
    panel.get_by_label('What fits its sound').check()
    panel.get_by_role('button', name='Search', exact=True).click()
    panel.locator('#answers video').first.wait_for()
    page.screenshot(path=shots / 'search_phone.png', full_page=True)
    assert fits(page)


def test_generate_stops_and_then_makes_a_film(opened, shots, served, tmp_path):
    page, panel = opened('Generate', scheme='dark')
    maker = served.generator.model
    panel.locator('input[type=file]').first.set_input_files(
        write_media(tmp_path / 'mine.mp4', moving((64, 64)), None, duration_s=4.0)
    )
    panel.locator('.seen video').wait_for()
    steps = panel.get_by_label('number input for Steps')
    steps.fill(str(SLOW))
    steps.press('Tab')
    panel.get_by_role('button', name='Generate', exact=True).click()
    page.get_by_text('Making the sound').first.wait_for()
    page.screenshot(path=shots / 'generate_running.png')
    panel.get_by_role('button', name='Stop', exact=True).click()
    page.get_by_text(STOPPED).wait_for()
    begun = len(maker.seen)
    steps.fill('3')
    steps.press('Tab')
    panel.get_by_role('button', name='Generate', exact=True).click()
    # The one that was stopped has made room long before its end.
    started = time.monotonic()
    panel.locator('#result video').first.wait_for()
    assert time.monotonic() - started < SLOW * 0.2 * 4
    assert len(maker.seen) == begun + 1
    assert maker.seen[-1][1].steps == 3
    assert panel.locator('#result video').count() == 2
    page.screenshot(path=shots / 'generate_dark.png', full_page=True)
    with page.expect_download() as download:
        panel.get_by_role('link', name='Download').click()
    assert download.value.suggested_filename == 'mine_with_sound.mp4'
    with Path(download.value.path()).open('rb') as film:
        assert film.read(12)[4:8] == b'ftyp'


def test_look_shows_matrices_heat_and_lateness(opened, shots):
    page, panel = opened('Look', PHONE, 'dark')
    panel.get_by_role('button', name='clip', exact=False).first.click()
    panel.locator('.seen video').wait_for()
    panel.get_by_role('button', name='Look', exact=True).click()
    panel.locator('#seen video').wait_for()
    assert panel.locator('#seen .matrices img').count() == 5
    assert 'sure' in panel.locator('.said').first.inner_text()
    page.screenshot(path=shots / 'look_phone_dark.png', full_page=True)
    assert fits(page)


def test_errors_are_one_sentence_on_the_page(opened, shots, tmp_path):
    page, panel = opened('Search')
    panel.get_by_role('button', name='Search', exact=True).click()
    panel.get_by_role('alert').first.wait_for()
    assert 'Choose a file' in panel.get_by_role('alert').first.inner_text()
    bad = tmp_path / 'bad.mp4'
    bad.write_bytes(b'no film')
    panel.locator('input[type=file]').first.set_input_files(bad)
    page.get_by_text('bad.mp4: not a media file').first.wait_for()
    large = tmp_path / 'large.mp4'
    large.write_bytes(np.zeros(2**20 + 1, np.uint8).tobytes())
    panel.get_by_role('button', name='Clear').or_(panel.get_by_label('Remove')).first.click()
    panel.locator('input[type=file]').first.set_input_files(large)
    page.get_by_text('exceed').first.wait_for()
    page.wait_for_timeout(600)
    page.screenshot(path=shots / 'errors.png')
    assert 'Traceback' not in json.dumps(page.content())
