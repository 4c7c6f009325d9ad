"""tools/prepare_data.py as a user runs it."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gmscavp.datasets import Manifest
from gmscavp.datasets.preparing import run
from tests.media import moving, sine, write_media

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'prepare_data.py'
CLIPS = 120


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    # Wide enough that no table is folded.
    monkeypatch.setenv('COLUMNS', '200')


@pytest.fixture(scope='module')
def one_clip(tmp_path_factory):
    file = tmp_path_factory.mktemp('source') / 'good.mp4'
    return write_media(file, moving(), sine(), duration_s=4.2, fps=10, sample_rate=16_000)


@pytest.fixture
def folder(tmp_path, one_clip):
    def make(*names):
        for name in names:
            (tmp_path / 'video' / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(one_clip, tmp_path / 'video' / name)
        return tmp_path / 'video'

    return make


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run the tool in this process, without processes of its own, and give (exit code, what it said)."""

    def run_here(function, tasks, workers, timeout_s, memory_bytes):
        yield from ((task, function(task)) for task in tasks)

    monkeypatch.setattr(run, 'run_each', run_here)

    def start(*arguments):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        assert 'Traceback' not in said.err
        return code, said.out + said.err

    return start


CLASSES = 'index,mid,display_name\n0,/m/a,"Speech"\n1,/m/b,"Rain, heavy"\n'


def prepared(out):
    rows = Manifest.read(out)
    return [rows[i] for i in range(len(rows))]


def test_folder_with_small_files_and_shards(tool, folder, tmp_path):
    root = folder('a.mp4', 'b/c.mp4')
    (root / 'bad.mp4').write_text('no film')
    out, small, shards = tmp_path / 'm.parquet', tmp_path / 'small', tmp_path / 'shards'
    code, said = tool(
        'folder', root, '--out', out, '--test-share', 0, '--rewrite', small, '--size', 32, '--shards', shards,
        '--workers', 1,
    )  # fmt: skip
    assert code == 0, said
    for words in ('listed', 'dropped: not a media file', '2 train', 'shards: ', f'data_root={small} manifest={out}'):
        assert words in said
    assert all((small / record.file).is_file() for record in prepared(out))
    assert next(shards.glob('train-*.tar')).stat().st_size > 10_000
    assert json.loads((tmp_path / 'm.parquet.report.json').read_text())['dropped']['not a media file']['count'] == 1


def test_vggsound(tool, folder, tmp_path):
    root = folder('abcdefghijk_000005.mp4', 'ABCDEFGHIJK_000010.mp4')
    (tmp_path / 'v.csv').write_text('abcdefghijk,5,"dog, loud",train\nABCDEFGHIJK,10,rain,test\nzzzzzzzzzzz,0,x,test\n')
    given = ('vggsound', root, '--annotations', tmp_path / 'v.csv', '--out', tmp_path / 'm.csv')
    code, said = tool(*given, '--dry-run')
    assert (code, said) == (0, f'2 of 3 listed clips are below {root} (1 test, 1 train).\n')
    assert not (tmp_path / 'm.csv').exists()
    assert tool(*given)[0] == 0
    assert [(record.labels, record.split) for record in prepared(tmp_path / 'm.csv')] == [
        (['dog, loud'], 'train'), (['rain'], 'test')
    ]  # fmt: skip


def test_audioset(tool, folder, tmp_path):
    root = folder('abcdefghijk.mp4', 'YABCDEFGHIJK_30000_40000.mp4')
    header = 'YTID,start_seconds,end_seconds,positive_labels\n'
    (tmp_path / 'classes.csv').write_text(CLASSES)
    (tmp_path / 'a.csv').write_text(header + 'abcdefghijk,0,10,"/m/a,/m/b"\nzzzzzzzzzzz,0,10,/m/a\n')
    (tmp_path / 'e.csv').write_text(header + 'ABCDEFGHIJK,30,40,/m/b\n')
    given = ('audioset', root, '--class-labels', tmp_path / 'classes.csv', '--out', tmp_path / 'm.parquet')
    code, said = tool(*given, '--train', tmp_path / 'a.csv', '--test', tmp_path / 'e.csv')
    assert code == 0
    assert 'missing' in said
    assert [(record.labels, record.split, record.group) for record in prepared(tmp_path / 'm.parquet')] == [
        (['Speech', 'Rain, heavy'], 'train', 'abcdefghijk'), (['Rain, heavy'], 'test', 'ABCDEFGHIJK')
    ]  # fmt: skip
    assert tool(*given)[0] == 2


def test_panda70m(tool, folder, tmp_path):
    root = folder('abcdefghijk.mp4')
    times = "[['0:00:00.000', '0:00:02.000'], ['0:00:02.000', '0:00:04.000'], ['0:00:00.000', '0:00:00.500']]"
    (tmp_path / 'p.csv').write_text(
        'videoID,url,timestamp,caption,matching_score\n'
        f'abcdefghijk,x,"{times}","[\'one\', \'two, three\', \'four\']","[0.9, 0.2, 0.9]"\n'
    )
    given = ('panda70m', root, '--annotations', tmp_path / 'p.csv', '--out', tmp_path / 'm.parquet')
    code, said = tool(*given, '--min-duration', 2, '--test-share', 1)
    assert code == 0, said
    assert [(r.clip_id, r.start_s, r.end_s, r.caption, r.split) for r in prepared(tmp_path / 'm.parquet')] == [
        ('abcdefghijk_00000', 0.0, 2.0, 'one', 'test'), ('abcdefghijk_00001', 2.0, 4.0, 'two, three', 'test')
    ]  # fmt: skip
    assert tool(*given, '--min-duration', 'none', '--min-score', 0.5, '--split', 'val')[0] == 0
    assert [r.clip_id[-1] for r in prepared(tmp_path / 'm.parquet')] == ['0', '2']


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['folder', 'nowhere', '--out', 'm.parquet'], 'data folder nowhere does not exist'),
        (['folder', 'video', '--out', 'm.txt'], 'must end in .parquet or .csv'),
        (['folder', 'video', '--out', 'video/a.mp4/m.csv'], 'cannot be written to: it is not a folder'),
        (['folder', 'video', '--out', 'm.csv', '--manifest', 'none.csv'], 'manifest none.csv does not exist'),
        (['folder', 'video', '--out', 'm.csv', '--min-side', '900'], 'none of the 1 clips is kept (1 too small)'),
        (['folder', 'empty', '--out', 'm.csv'], 'holds no video files'),
        (['vggsound', 'video', '--out', 'm.csv', '--annotations', 'v.csv'], 'VGGSound csv v.csv does not exist'),
        (['folder', 'video', '--out', 'm.csv', '--timeout', '0'], "'0' is not a number above 0"),
        (['folder', 'video', '--out', 'm.csv', '--silent', 'quiet'], "'quiet' is not a number or 'none'"),
        (['folder', 'video'], 'the following arguments are required: --out'),
    ],
)
def test_wrong_input_ends_with_a_sentence(tool, folder, tmp_path, monkeypatch, arguments, said):
    folder('a.mp4')
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path)
    code, words = tool(*arguments)
    assert code == 2
    assert said in words


@pytest.mark.parametrize('name', ['impacts', 'vggsound', 'audioset', 'panda70m', 'folder'])
def test_help_of_each(tool, name):
    code, said = tool(name, '--help')
    assert code == 0
    if name != 'impacts':
        assert f'Example: python tools/prepare_data.py {name}' in said
        assert 'least loudness, RMS in dB of full scale (default: -60.0)' in said


def test_ctrl_c_and_the_same_command_again(tool, folder, tmp_path):
    # So many that a busy machine does not get through them before the signal comes.
    root = folder(*(f'{i:03d}.mp4' for i in range(CLIPS)))
    out, journal = tmp_path / 'm.parquet', tmp_path / 'm.parquet.journal.jsonl'
    command = [sys.executable, str(TOOL), 'folder', str(root), '--out', str(out), '--workers', '1']
    first = subprocess.Popen(
        command,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background has them and what they start ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  (one thread here)
    )
    while first.poll() is None and not (journal.exists() and journal.read_bytes().count(b'\n') > 3):
        time.sleep(0.005)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=200)
    assert first.returncode == 130, said
    assert 'clips; the same command goes on from there.' in said
    assert not out.exists()
    done = journal.read_bytes().count(b'\n') - 1
    assert 3 <= done < CLIPS
    code, said = tool(*command[2:])
    assert code == 0, said
    assert len(Manifest.read(out)) == CLIPS
    assert journal.read_bytes().count(b'\n') == CLIPS + 1, 'what the first run had measured was measured again'
