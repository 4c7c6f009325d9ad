"""The site of docs/: it builds with warnings as errors, is one whole, and asks no other host for anything.

With --strict mkdocs fails on a page that the navigation leaves out, on a broken link or anchor, and on a name that the
reference cannot find.
"""

import importlib.util
import os
import re
import subprocess
import sys
from urllib.parse import unquote

import pytest
import yaml

from tests.documents import PAGES, ROOT

# What a browser fetches by itself; links to click on are not among them.
FETCHED = re.compile(
    r'<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc="((?:https?:)?//[^"]*)"'
    r'|<link\b(?=[^>]*rel="(?:stylesheet|preconnect|preload|icon|prefetch)")[^>]*\bhref="((?:https?:)?//[^"]*)"'
    r'|url\(["\']?((?:https?:)?//[^)"\']*)'
)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '-d', str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {'NO_MKDOCS_2_WARNING': '1'}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_builds_whole_and_fetches_nothing_from_elsewhere(site):
    pages = {path.relative_to(site).as_posix() for path in site.rglob('*.html')}
    written = {
        path.relative_to(ROOT / 'docs').with_suffix('.html').as_posix() for path in PAGES if 'docs' in path.parts
    }
    assert written <= pages
    found = {
        f'{path.relative_to(site)}: {shown[0]}'
        for ending in ('html', 'css')
        for path in site.rglob(f'*.{ending}')
        for shown in FETCHED.finditer(path.read_text())
    }
    assert found == set()
    assert not (site / 'scripts').exists()


def test_the_reference_has_the_docstrings_as_they_are_written(site):
    page = (site / 'reference/models.html').read_text()
    assert 'class="doc doc-object-name' in page
    text = re.sub(r'<[^>]+>', '', page)
    assert '[(B, L_s, D)]' in text
    assert "{'loss_&lt;term&gt;': ()}" in text


def test_every_part_of_the_package_is_in_the_reference():
    shown = {
        name
        for page in (ROOT / 'docs/reference').glob('*.md')
        for name in re.findall(r'^::: (\S+)$', page.read_text(), re.M)
    }
    parts = {f'gmscavp.{path.stem}' for path in (ROOT / 'gmscavp').iterdir() if not path.name.startswith('_')}
    assert shown == parts


@pytest.mark.parametrize(
    'line',
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="//fonts.example" rel="preconnect">',
        '<img alt="a" src="http://example/x.png">',
        'a{background:url(https://example/x.png)}',
    ],
)
def test_what_a_browser_would_fetch_is_found(line):
    assert FETCHED.search(line)


def test_the_navigation_goes_from_the_beginning_to_the_results():
    # Its own tags are for MkDocs; there are none in nav.
    nav = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav']
    order = [next(iter(entry)) for entry in nav]
    wanted = ['Getting started', 'Concepts', 'Data', 'Train', 'Evaluate', 'Generate', 'Search', 'Web page', 'Extend']
    wanted += ['Troubleshooting', 'Reference', 'Results']
    assert [name for name in order if name in wanted] == [name for name in wanted if name in order]
    assert set(order) - set(wanted) == {'Home'}


@pytest.mark.parametrize('page', [path for path in PAGES if 'docs' not in path.parts], ids=lambda path: path.name)
def test_links_outside_of_the_site_lead_somewhere(page):
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        place, _, anchor = unquote(target).partition('#')
        if place.startswith(('http:', 'https:', 'mailto:')):
            continue
        file = (page.parent / place) if place else page
        assert file.exists(), f'{page.name}: {target}'
        if anchor:
            titles = re.findall(r'^#+ (.*)$', file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


def test_the_pictures_are_those_that_the_script_draws():
    spec = importlib.util.spec_from_file_location('draw_concepts', ROOT / 'docs/scripts/draw_concepts.py')
    draw_concepts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw_concepts)
    for name, draw in draw_concepts.PICTURES.items():
        assert (ROOT / f'docs/assets/{name}.svg').read_text() == draw(), name
        assert f'assets/{name}.svg' in (ROOT / 'docs/concepts.md').read_text()


def test_the_first_screen_of_the_readme_is_a_sentence_a_picture_two_commands_and_their_result():
    first = (ROOT / 'README.md').read_text().split('\n## ')[0]
    sentence, picture, commands, result = (part for part in re.split(r'\n\n+', first)[1:5])
    assert len(re.findall(r'\.(?:\s|$)', sentence)) == 1
    assert picture.startswith('![')
    assert [
        line.split(' #')[0].split()[:2] for line in commands.strip('`').splitlines() if line and line != 'bash'
    ] == [
        ['bash', 'tools/quickstart.sh'],
        ['bash', 'tools/run_tests.sh'],
    ]
    assert '93 %' in result
    assert 'docs/results/quickstart.md' in result
