"""Preparing: bad clips are dropped for the right cause, nothing stops the run, and a stopped one ends the same."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from gmscavp.datasets import CentreWindow, Manifest, VideoFolder, probe, read_clip
from gmscavp.datasets.preparing import run
from gmscavp.datasets.preparing.filters import Limits
from gmscavp.datasets.preparing.journal import Journal, key_of
from gmscavp.datasets.preparing.listings import folder_listing, vggsound_listing
from gmscavp.datasets.preparing.pool import Lost, run_each
from gmscavp.datasets.preparing.probing import Measures, Trouble, Window, changes_of, measure, motion_of, parts_of
from gmscavp.datasets.preparing.rewriting import Form, Rewriting, rewrite, target_name
from gmscavp.datasets.preparing.run import Work, prepare
from gmscavp.errors import UserError
from tests.media import MOOV_FIRST, click, flash, moving, sine, write_media

QUIET = Work(workers=1, timeout_s=20, progress=False)
LIMITS = Limits(min_duration_s=2.0)
GOOD = ('a.mp4', 'sub/b.mkv', 'z.mp4')


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def _here(monkeypatch):
    """Work in this process: no time goes into starting others."""

    def run_here(function, tasks, workers, timeout_s, memory_bytes):
        yield from ((task, function(task)) for task in tasks)

    monkeypatch.setattr(run, 'run_each', run_here)


def noisy_still(time_s):
    """A photograph with the faint noise that no encoder keeps."""
    rng = np.random.default_rng(round(time_s * 1000))
    return np.clip(np.kron(PHOTO, np.ones((8, 8, 1))) + rng.normal(0, 1.5, (96, 128, 3)), 0, 255).astype(np.uint8)


PHOTO = np.random.default_rng(0).integers(0, 255, (12, 16, 3))


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    """Three good clips, and one for each thing that can be wrong."""
    root = tmp_path_factory.mktemp('data') / 'clips'
    (root / 'sub').mkdir(parents=True)

    def write(name, picture=None, sound=None, **settings):
        settings = dict(duration_s=2.5, fps=10, sample_rate=16_000) | settings
        return write_media(root / name, picture or moving(), sound or sine(), **settings)

    for name in GOOD:
        write(name)
    write('silent.mp4', sound=sine(level=1e-4))
    write('still.mp4', picture=noisy_still)
    write('slides.mp4', picture=lambda t: np.full((64, 96, 3), 60 * int(t), np.uint8))
    write('short.mp4', duration_s=1.0)
    whole = write('cut.mp4', container_options=MOOV_FIRST, picture=noise).read_bytes()
    (root / 'cut.mp4').write_bytes(whole[: len(whole) // 2])
    write_media(root / 'mute.mp4', moving(), None, duration_s=2.5)
    write_media(root / 'sound.mp4', None, sine(), duration_s=2.5)
    (root / 'text.mp4').write_text('no film at all')
    (root / 'empty.mp4').touch()
    return root


def noise(time_s):
    return np.random.default_rng(round(time_s * 1000)).integers(0, 255, (64, 96, 3), dtype=np.uint8)


DROPPED = {
    'silent.mp4': 'silent',
    'still.mp4': 'still',
    'slides.mp4': 'still',
    'short.mp4': 'too short',
    'mute.mp4': 'no audio track',
    'sound.mp4': 'no video track',
    'text.mp4': 'not a media file',
    'empty.mp4': 'empty file',
}


def counts(report):
    return {cause: entry['count'] for cause, entry in report.as_dict()['dropped'].items()}


def causes(report):
    return {
        example['clip_id']: cause
        for cause, entry in report.as_dict()['dropped'].items()
        for example in entry['examples']
    }


@pytest.mark.usefixtures('_here')
def test_every_bad_clip_is_dropped_for_its_cause_and_the_rest_trains(clips, tmp_path):
    out = tmp_path / 'out' / 'm.parquet'
    report = prepare(folder_listing(clips, test_share=0.0), clips, out, LIMITS, QUIET)
    found = causes(report)
    assert found.pop('cut.mp4') in ('damaged', 'truncated audio')
    assert found == DROPPED
    assert (report.listed, report.found, report.kept, report.kept_of_split) == (12, 12, 3, {'train': 3})
    said = json.loads((out.parent / 'm.parquet.report.json').read_text())
    assert (said['kept'], said['dropped']['still']['count'], said['settings']['silent']) == (3, 2, -60.0)
    rows = Manifest.read(out)
    assert rows.column('file') == list(GOOD)
    assert rows.column('width') == [96] * 3
    assert rows.column('audio_rate') == [16_000] * 3
    assert rows.column('fps') == [10] * 3
    assert rows.column('duration_s') == pytest.approx([2.5] * 3, abs=0.1)
    # A sine of level 0.5: its peak is -6.0 dB, its RMS 3.0 dB less.
    assert rows.column('loudness') == pytest.approx([-9.03] * 3, abs=0.3)
    assert rows.column('peak') == pytest.approx([-6.02] * 3, abs=0.5)
    clip = dict(duration_s=2.0, fps=4, size=32, sample_rate=16_000, backend='pyav')
    data = VideoFolder(str(clips), clip=clip, window=dict(type=CentreWindow), manifest=str(out))
    assert [data[i]['valid'] and data[i]['failures'] == '' for i in range(3)] == [True] * 3


@pytest.mark.usefixtures('_here')
def test_other_limits_need_no_new_measuring(clips, tmp_path, monkeypatch):
    out = tmp_path / 'm.csv'
    prepare(folder_listing(clips), clips, out, LIMITS, QUIET)
    monkeypatch.setattr(run, '_measure_row', None)
    lax = Limits(min_duration_s=None, silent=None, still=None)
    report = prepare(folder_listing(clips), clips, out, lax, QUIET)
    assert report.kept == 7
    assert set(Manifest.read(out).column('file')) >= {'silent.mp4', 'still.mp4', 'short.mp4'}
    with pytest.raises(UserError, match=r'none of the 12 clips is kept \(7 too small'):
        prepare(folder_listing(clips), clips, out, Limits(min_duration_s=None, min_side=1000), QUIET)


def test_a_stopped_run_ends_as_one_that_was_not(clips, tmp_path, monkeypatch):
    def stopping(after):
        def run_here(function, tasks, workers, timeout_s, memory_bytes):
            for done, task in enumerate(tasks):
                if done == after:
                    raise KeyboardInterrupt
                yield task, function(task)

        monkeypatch.setattr(run, 'run_each', run_here)

    listing = folder_listing(clips)
    stopping(None)
    prepare(listing, clips, tmp_path / 'a.parquet', LIMITS, QUIET, tmp_path / 'A', Form(size=32))
    for after in (2, 5, 4, 1, 1):
        stopping(after)
        with pytest.raises(KeyboardInterrupt, match=r'stopped (measuring|rewriting) after \d+ of \d+ clips; the same'):
            prepare(listing, clips, tmp_path / 'b.parquet', LIMITS, QUIET, tmp_path / 'B', Form(size=32))
        assert not (tmp_path / 'b.parquet').exists()
        # What a kill leaves: half a line, half a file.
        with (tmp_path / 'b.parquet.journal.jsonl').open('a') as lines:
            lines.write('{"key": "half a l')
        (tmp_path / 'B').mkdir(exist_ok=True)
        (tmp_path / 'B' / '.left.mp4.1.part').touch()
    stopping(None)
    prepare(listing, clips, tmp_path / 'b.parquet', LIMITS, QUIET, tmp_path / 'B', Form(size=32))
    assert (tmp_path / 'a.parquet').read_bytes() == (tmp_path / 'b.parquet').read_bytes()
    assert sorted(path.name for path in (tmp_path / 'B').rglob('*')) == sorted(
        path.name for path in (tmp_path / 'A').rglob('*')
    )


# Tasks for `eval`, which a process has without importing these tests.
HANG, DIE, ANSWER = "__import__('time').sleep(600)", "__import__('os')._exit(1)", "__import__('os').getpid()"


def test_a_hanging_and_a_dying_task_cost_only_themselves():
    tasks = [HANG, f'({ANSWER}, 1)', DIE, f'({ANSWER}, 2)', f'({ANSWER}, 3)']
    answers = dict(run_each(eval, tasks, 1, lambda task: 0.5 if task == HANG else 60))
    assert (answers.pop(HANG), answers.pop(DIE)) == (Lost('timed out'), Lost('crashed'))
    processes, numbers = zip(*answers.values(), strict=True)
    assert sorted(numbers) == [1, 2, 3]
    # One process is kept for as long as it behaves.
    assert len(set(processes)) == 2


def test_what_a_task_raises_is_raised_and_closing_ends_the_processes():
    with pytest.raises(ZeroDivisionError):
        list(run_each(eval, ['1 / 0', '1'], 1, lambda task: 60))
    answers = run_each(eval, [ANSWER, HANG], 1, lambda task: 60)
    _, process = next(answers)
    answers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def hang_on_b(row):
    if row.window.file.endswith('b.mkv'):
        time.sleep(600)
    return Trouble('empty file', '') if 'empty' in row.window.file else measure(row.window)


def test_a_file_that_hangs_is_counted_and_tried_again_when_asked(clips, tmp_path, monkeypatch):
    listing, out = folder_listing(clips), tmp_path / 'm.parquet'
    listing = listing._replace(
        manifest=listing.manifest.pick([name in GOOD for name in listing.manifest.column('file')])
    )
    with monkeypatch.context() as patched:
        patched.setattr(run, '_measure_row', hang_on_b)
        report = prepare(listing, clips, out, LIMITS, Work(2, 6.0, progress=False))
    assert counts(report) == {'timed out': 1}
    assert report.as_dict()['dropped']['timed out']['examples'][0]['detail'] == 'after 6 s'
    assert prepare(listing, clips, out, LIMITS, QUIET).kept == 2
    assert prepare(listing, clips, out, LIMITS, Work(1, 20, retry=True, progress=False)).kept == 3


def rewritten(source, target, form=None):
    measured = measure(Window(str(source), None, None))
    assert isinstance(measured, Measures), measured
    job = Rewriting(str(source), str(target), measured, form or Form())
    assert rewrite(job) is None
    return job


def key_frame_times(file):
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        return [float(p.pts * p.time_base) for p in container.demux(stream) if p.is_keyframe and p.pts is not None]


EVENTS = [0.5, 1.3, 2.2, 3.1, 8.4]
JITTERED = [k / 24 + (0.015 if k % 3 == 1 else 0.0) for k in range(24 * 9)]


@pytest.mark.parametrize(
    ('ending', 'settings'),
    [
        ('mp4', dict(fps=25)),
        ('mp4', dict(fps=50, sample_rate=48_000)),
        ('mkv', dict(frame_times=JITTERED)),
        ('mp4', dict(fps=25, video_start_s=0.3)),
        ('mp4', dict(fps=25, audio_start_s=0.4)),
        ('mp4', dict(fps=30, rotation=90)),
    ],
    ids=['25', '50', 'variable', 'late picture', 'late sound', 'rotated'],
)
def test_rewriting_keeps_picture_and_sound_in_step(tmp_path, ending, settings):
    source, target = tmp_path / f'in.{ending}', tmp_path / 'deep' / 'out.mp4'
    write_media(source, flash(EVENTS), click(EVENTS), **(dict(duration_s=9.0, gop=250) | settings))
    job = rewritten(source, target)
    with av.open(str(target)) as container:
        pictures = [(frame.time, frame.to_ndarray(format='gray').mean()) for frame in container.decode(video=0)]
        assert container.streams.audio[0].codec_context.sample_rate == 16_000
        assert container.streams.audio[0].codec_context.layout.name == 'mono'
        assert container.streams.video[0].codec_context.pix_fmt == 'yuv420p'
    with av.open(str(target)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    loud = np.flatnonzero(np.abs(sound) > 0.3) / 16_000
    lit = np.array([time_s for time_s, level in pictures if level > 127])
    old_frames = np.array(settings.get('frame_times') or np.arange(9 * settings['fps']) / settings['fps'])
    old_frames = old_frames + settings.get('video_start_s', 0.0)
    for event in EVENTS:
        # The source shows an event from its next frame on.
        shown = old_frames[old_frames >= event - 1e-6].min()
        assert abs(lit[(lit > event - 0.06) & (lit < event + 0.2)].min() - shown) <= 0.5 / job.fps + 0.002
        assert abs(loud[loud > event - 0.02][0] - event) <= 0.005
    assert max(np.diff(key_frame_times(target))) <= 0.5 + 1e-6
    info = probe(target)
    assert (info.rotation, info.width, info.height) == (0, *((64, 96) if 'rotation' in settings else (96, 64)))
    assert [path.name for path in target.parent.iterdir()] == ['out.mp4']


def test_rewritten_size_and_rate(tmp_path):
    write_media(tmp_path / 'in.mp4', moving((300, 402)), sine(), duration_s=1.0, fps=60)
    job = rewritten(tmp_path / 'in.mp4', tmp_path / 'out.mp4', Form(size=128, sample_rate=8000))
    info = probe(tmp_path / 'out.mp4')
    assert (info.width, info.height, info.fps, info.sample_rate) == (172, 128, 30.0, 8000)
    assert job.picture_size == (128, 172)
    # The same moments: the bar of `moving` is at the same place.
    old, new = (read_clip(tmp_path / name, 0.25, 0.5, 10, (32, 32), 8000, 'pyav') for name in ('in.mp4', 'out.mp4'))
    assert (old.video.float() - new.video.float()).abs().mean() < 4
    assert float(torch.nn.functional.cosine_similarity(old.audio, new.audio, dim=0)) > 0.99


@pytest.mark.usefixtures('_here')
def test_parts_of_several_machines_put_together_are_the_whole(clips, tmp_path, monkeypatch):
    whole, merged = tmp_path / 'whole', tmp_path / 'merged'
    listing, form = folder_listing(clips), Form(size=32)
    prepare(listing, clips, whole / 'm.parquet', LIMITS, QUIET, whole / 'small', form)
    for k in (3, 1, 2):
        work = replace(QUIET, part=(k, 3))
        prepare(listing, clips, merged / 'm.parquet', LIMITS, work, merged / 'small', form)
        assert not (merged / 'm.parquet').exists()
    assert len(list((merged / 'small').rglob('*.mp4'))) == 3, 'rewritten by the parts'
    monkeypatch.setattr(run, '_measure_row', None)
    monkeypatch.setattr(run, '_rewrite_job', None)
    prepare(listing, clips, merged / 'm.parquet', LIMITS, QUIET, merged / 'small', form)
    rows, expected = (Manifest.read(folder / 'm.parquet') for folder in (merged, whole))
    for name in expected.columns:
        assert rows.column(name) == expected.column(name), name


@pytest.mark.usefixtures('_here')
def test_rewriting_is_resumed_in_the_same_form_only(clips, tmp_path):
    out, folder = tmp_path / 'm.parquet', tmp_path / 'small'
    listing = folder_listing(clips)
    report = prepare(listing, clips, out, LIMITS, QUIET, folder, Form(size=32))
    rows = Manifest.read(out)
    assert report.kept == 3
    assert rows.column('clip_id') == list(GOOD)
    assert [name.split('/')[-1] for name in rows.column('file')] == ['a.mp4', 'b.mkv.mp4', 'z.mp4']
    assert rows.column('height') == [32] * 3
    assert all(rows[i].start_s == 0 and rows[i].end_s == 2.5 for i in range(3))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob('*.mp4')}
    (folder / rows.column('file')[1]).unlink()
    prepare(listing, clips, out, LIMITS, QUIET, folder, Form(size=32))
    after = {path: path.stat().st_mtime_ns for path in folder.rglob('*.mp4')}
    assert set(before) == set(after)
    assert sum(before[path] != after[path] for path in before) == 1
    with pytest.raises(UserError, match=r'was begun with other settings \(size\)'):
        prepare(listing, clips, out, LIMITS, QUIET, folder, Form(size=64))


@pytest.mark.usefixtures('_here')
def test_a_clip_that_breaks_while_it_is_rewritten_is_dropped_and_counted(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(
        run, 'rewrite', lambda job: Trouble('damaged', 'late') if 'z.mp4' in job.source else rewrite(job)
    )
    report = prepare(folder_listing(clips), clips, tmp_path / 'm.csv', LIMITS, QUIET, tmp_path / 'x', Form(size=32))
    assert counts(report)['rewriting: damaged'] == 1
    assert report.kept == 2


@pytest.mark.usefixtures('_here')
def test_a_full_disk_stops_the_run_with_its_name(clips, tmp_path, monkeypatch):
    def full(job):
        raise OSError(28, 'No space left on device', job.target)

    monkeypatch.setattr(run, 'rewrite', full)
    with pytest.raises(OSError, match='No space left') as stopped:
        prepare(folder_listing(clips), clips, tmp_path / 'm.csv', LIMITS, QUIET, tmp_path / 'x')
    assert stopped.value.errno == 28


def test_places_that_cannot_be_written_are_named(clips, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'file cannot be written to: it is not a folder'):
        prepare(folder_listing(clips), clips, tmp_path / 'file' / 'm.csv', LIMITS, QUIET)
    with pytest.raises(UserError, match=r'must end in .parquet or .csv'):
        prepare(folder_listing(clips), clips, tmp_path / 'm.txt', LIMITS, QUIET)


def test_two_names_that_would_be_one_file_are_refused():
    assert target_name('sub/x.mp4') == 'sub/x.mp4'
    assert target_name('../../etc/x') == 'etc/x.mp4'
    assert target_name('abcdefghijk_000005').split('/')[1] == 'abcdefghijk_000005.mp4'
    manifest = Manifest.from_columns({'file': ['1', '2'], 'clip_id': ['a/x', 'a/./x']}, 'test')
    with pytest.raises(UserError, match=r"clips 'a/x' and 'a/./x' would both be written to a/x.mp4"):
        run._refuse_same_targets(manifest, {i: target_name(manifest[i].clip_id) for i in range(2)})


def test_journal_keeps_whole_lines_and_refuses_other_purposes(tmp_path):
    file = tmp_path / 'j.jsonl'
    with Journal(file, {'of': 'x'}) as journal:
        journal.add('ä', cause=None)
        journal.add('b', cause='c')
    file.write_bytes(file.read_bytes()[:-4])
    with Journal(file, {'of': 'x'}) as journal:
        assert journal.done == {'ä': {'key': 'ä', 'cause': None}}
        journal.add('b', cause='d')
    with Journal(file, {'of': 'x'}) as journal:
        assert journal.done['b']['cause'] == 'd'
    with pytest.raises(UserError, match=r'other settings \(of\).* --fresh'):
        Journal(file, {'of': 'y'})
    with Journal(file, {'of': 'y'}, fresh=True) as journal:
        assert journal.done == {}


def test_a_replaced_file_has_another_key(tmp_path):
    (tmp_path / 'a').write_text('x')
    before = key_of('a', str(tmp_path / 'a'), None, None)
    (tmp_path / 'a').write_text('xy')
    assert key_of('a', str(tmp_path / 'a'), None, None) != before
    assert key_of('a', str(tmp_path / 'gone'), 0.0, 1.0).endswith('0.0, 1.0, 0, 0]')


def test_motion_sees_a_moving_mouth_and_not_a_change_of_slides():
    still = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8).repeat(20, 1, 1, 1)
    assert motion_of(changes_of(still)) == 0
    mouth = still.clone()
    mouth[::2, :, 40:48, 24:32] = 0
    assert motion_of(changes_of(mouth)) > 20
    slides = still.clone()
    slides[10:] = 255 - slides[10:]
    assert motion_of(changes_of(slides)) == 0
    assert motion_of(changes_of(still[:1])) == 0


def test_long_windows_are_judged_by_parts_from_first_to_last():
    assert parts_of(3.0, 13.0) == [(3.0, 10.0)]
    parts = parts_of(10.0, 3610.0)
    assert (len(parts), parts[0], parts[-1]) == (6, (10.0, 5.0), (3605.0, 5.0))


def test_vggsound_listing_takes_splits_from_the_csv_or_from_the_user(tmp_path):
    (tmp_path / 'v').mkdir()
    for name in ('abcdefghijk_000005.mp4', 'ABCDEFGHIJK_000010.webm', 'other.mp4'):
        (tmp_path / 'v' / name).touch()
    (tmp_path / 'v.csv').write_text('abcdefghijk,5,"dog, loud",train\nABCDEFGHIJK,10,rain,test\nzzzzzzzzzzz,0,x,test\n')
    listing = vggsound_listing(tmp_path / 'v', tmp_path / 'v.csv')
    assert listing.listed == 3
    assert listing.manifest.column('split') == ['train', 'test']
    assert listing.manifest.column('group') == ['abcdefghijk', 'ABCDEFGHIJK']
    (tmp_path / 'test.csv').write_text('abcdefghijk_000005.mp4,rain\n')
    with pytest.raises(UserError, match='add --split train or --split test'):
        vggsound_listing(tmp_path / 'v', tmp_path / 'test.csv')
    assert vggsound_listing(tmp_path / 'v', tmp_path / 'test.csv', 'test').manifest[0].split == 'test'
    (tmp_path / 'v' / 'again').mkdir()
    (tmp_path / 'v' / 'again' / 'abcdefghijk_000005.mp4').touch()
    with pytest.raises(UserError, match='1 clips have more than one file'):
        vggsound_listing(tmp_path / 'v', tmp_path / 'v.csv')


@pytest.mark.usefixtures('_here')
def test_windows_labels_and_splits_of_a_manifest_survive(clips, tmp_path):
    table = tmp_path / 't.csv'
    table.write_text(
        'clip_id,file,start_s,end_s,labels,caption,split,group,mine\n'
        'x,a.mp4,0.2,2.2,dog;car horn,"a dog, barking",train,g,7\n'
        'y,a.mp4,0.4,9,,,test,g,8\n'
        'w,gone.mp4,,,,,test,,9\n'
    )
    out = tmp_path / 'm.csv'
    report = prepare(folder_listing(clips, table), clips, out, LIMITS, QUIET)
    assert (report.listed, report.found, report.as_dict()['missing']) == (3, 2, 1)
    rows = Manifest.read(out)
    assert rows[0] == ('x', 'a.mp4', 0.2, 2.2, ['dog', 'car horn'], 'a dog, barking', 'train', 'g')
    assert (rows[1].start_s, rows[1].end_s) == (0.4, pytest.approx(2.5, abs=0.05))
    assert rows.column('mine') == [7, 8]


@pytest.mark.usefixtures('_here')
def test_real_clips_are_kept_and_rewritten(real_data, tmp_path):
    files = sorted(Path(real_data / 'clips').iterdir())[::80]
    root = tmp_path / 'clips'
    root.mkdir()
    for file in files:
        (root / file.name).symlink_to(file)
    report = prepare(
        folder_listing(root), root, tmp_path / 'm.parquet', LIMITS, QUIET, tmp_path / 'small', Form(size=64)
    )
    assert report.kept == len(files) == 5
    rows = Manifest.read(tmp_path / 'm.parquet')
    for i, file in enumerate(files):
        old, new = (
            read_clip(path, 0.5, 1.0, 8, (32, 32), 16_000, 'pyav') for path in (file, tmp_path / 'small' / rows[i].file)
        )
        assert (old.video.float() - new.video.float()).abs().mean() < 8
        assert float(torch.nn.functional.cosine_similarity(old.audio, new.audio, dim=0)) > 0.9
