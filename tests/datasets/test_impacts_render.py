"""IMPACTS: the same seed gives the same clips, and picture, sound and tables tell the same story."""

import csv
import itertools
import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from gmscavp.datasets.impacts_render import Difficulty, files, make_scenes, render_impacts, render_scene, scene_truth
from gmscavp.datasets.impacts_render.galleries import GROUP_SIZE
from gmscavp.datasets.impacts_render.scenes import (
    BACKGROUNDS,
    COLOURS,
    DROP_RANGE,
    FLOOR_Y,
    FPS,
    GRAVITY_RANGE,
    MAX_SPEED,
    MIN_PATTERN_DISTANCE_S,
    SAMPLE_RATE,
    SHAPES,
    SIZE_RANGE,
    Look,
    object_set,
)
from gmscavp.datasets.impacts_render.signals import (
    AMBIENCES,
    PALETTE,
    PITCH_HZ,
    signed_distance,
    soft_limit,
    strike,
)
from gmscavp.errors import UserError

CLEAR = Difficulty(objects=1, silent_movers=0, off_screen_sounds=0, ambient_db=-120, camera_shake=0, pixel_noise=0)
FRAME_TIMES = (np.arange(64) + 0.5) / FPS


def looks_of(scene):
    return [bouncer.look for bouncer in scene.bouncers]


def lone_scene(shape, colour, size=SIZE_RANGE[0], seed=3):
    """One object, no distractors, no ambience; the smallest object falls silent between its impacts."""
    scene = make_scenes(seed, 1, 'semantic', CLEAR)[0]
    return replace(scene, bouncers=(replace(scene.bouncers[0], look=Look(shape, colour, size)),))


def truth_times(scene):
    """[(time_s, ...)] per object, from the line of events.jsonl."""
    return [[impact['time_s'] for impact in thing['impacts']] for thing in scene_truth(scene)['objects']]


def hit(shape, colour, size=9.0, speed=MAX_SPEED, seconds=0.5):
    since = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return strike(Look(shape, colour, size), speed, since, np.random.default_rng(0))


# The seed decides everything.


@pytest.mark.parametrize('gallery', ['semantic', 'temporal', 'mixed'])
def test_same_seed_same_scenes_same_arrays(gallery):
    first, again = make_scenes(5, 10, gallery), make_scenes(5, 10, gallery)
    assert first == again
    for one, other in zip(first[::5], again[::5], strict=True):
        frames, audio = render_scene(one)
        frames_again, audio_again = render_scene(other)
        assert frames.tobytes() == frames_again.tobytes()
        assert audio.tobytes() == audio_again.tobytes()
    assert make_scenes(6, 10, gallery) != first


def test_arrays_have_the_stated_form():
    frames, audio = render_scene(make_scenes(0, 1, 'mixed')[0])
    assert (frames.shape, frames.dtype) == ((64, 64, 64, 3), np.uint8)
    assert (audio.shape, audio.dtype) == ((64_000,), np.float32)


def test_a_short_gallery_begins_a_long_one_and_mixed_is_half_of_each():
    for gallery in ('semantic', 'temporal'):
        assert make_scenes(0, 40, gallery)[:13] == make_scenes(0, 13, gallery)
    assert make_scenes(0, 26, 'mixed') == make_scenes(0, 13, 'semantic') + make_scenes(0, 13, 'temporal')


def test_splits_share_no_stream():
    train = make_scenes(0, 64, 'mixed', split='train')
    test = make_scenes(0, 64, 'semantic', split='test') + make_scenes(0, 64, 'temporal', split='test')
    for distinct in (lambda s: s.clip_id, lambda s: s.noise_seed, lambda s: s.bouncers[0].flights):
        assert not {distinct(scene) for scene in train} & {distinct(scene) for scene in test}
        assert len({distinct(scene) for scene in train + test}) == 192


# What is heard is what events.jsonl says.


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('colour', ['red', 'magenta'])
def test_onsets_in_the_sound_are_the_impacts(shape, colour):
    for seed in range(3):
        scene = lone_scene(shape, colour, seed=seed)
        _, audio = render_scene(scene)
        loud = np.flatnonzero(np.abs(audio) > 0.003) / SAMPLE_RATE
        onsets = loud[np.diff(loud, prepend=-1) > 0.1]
        (times,) = truth_times(scene)
        assert len(onsets) == len(times) >= 2
        assert np.abs(onsets - times).max() < 0.005


def test_faster_is_louder():
    for seed in range(5):
        scene = lone_scene('disc', 'blue', seed=seed)
        _, audio = render_scene(scene)
        impacts = [impact for impact in scene.bouncers[0].impacts if impact.time_s < 3.9]
        starts = [int(impact.time_s * SAMPLE_RATE) for impact in impacts]
        peaks = [np.abs(audio[start : start + 400]).max() for start in starts]
        order = np.argsort([impact.speed for impact in impacts])
        assert np.all(np.diff(np.array(peaks)[order]) > 0)


@pytest.mark.parametrize('colour', COLOURS)
def test_colour_is_pitch(colour):
    _, audio = render_scene(lone_scene('disc', colour, size=9.0))
    strongest = np.abs(np.fft.rfft(audio)).argmax() * SAMPLE_RATE / len(audio)
    assert abs(strongest / PITCH_HZ[colour] - 1) < 0.02


def test_pitches_are_well_apart_within_the_stated_range():
    pitches = np.array([PITCH_HZ[colour] for colour in COLOURS])
    assert pitches[0] >= 200
    assert pitches[-1] <= 3500
    assert (pitches[1:] / pitches[:-1]).min() > 1.5


@pytest.mark.parametrize('colour', COLOURS)
def test_shape_is_timbre_at_every_pitch(colour):
    """Spectra in quarter octaves differ between any two shapes."""
    edges = 100 * 2 ** np.arange(0, 6.4, 0.25)
    frequency = np.fft.rfftfreq(8000, 1 / SAMPLE_RATE)
    spectra = []
    for shape in SHAPES:
        power = np.abs(np.fft.rfft(hit(shape, colour), 8000)) ** 2
        bands = np.sqrt([power[(frequency >= low) & (frequency < low * 2**0.25)].sum() for low in edges])
        spectra.append(bands / np.linalg.norm(bands))
    for one, other in itertools.combinations(spectra, 2):
        assert one @ other < 0.96


def test_size_is_decay():
    lengths = []
    for size in np.linspace(*SIZE_RANGE, 5):
        energy = np.cumsum(hit('disc', 'green', size, seconds=2) ** 2)
        lengths.append(np.searchsorted(energy, 0.9 * energy[-1]) / SAMPLE_RATE)
    assert np.all(np.diff(lengths) > 0)
    assert lengths[-1] > 4 * lengths[0]


def test_nothing_clips_and_the_weakest_impact_stands_out():
    scenes = make_scenes(1, 24, 'mixed')
    assert max(np.abs(render_scene(scene)[1]).max() for scene in scenes) <= 0.95
    assert np.abs(soft_limit(np.array([-9.0, 9.0]))).max() <= 0.95
    slowest = np.sqrt(2 * GRAVITY_RANGE[0] * DROP_RANGE[0])
    noisiest = 10 ** ((Difficulty().ambient_db + max(a.gain_db for a in AMBIENCES.values())) / 20)
    for shape, colour in itertools.product(SHAPES, COLOURS):
        assert np.abs(hit(shape, colour, SIZE_RANGE[0], slowest)).max() > 4 * noisiest


def test_ambience_has_its_place_level_and_colour():
    centroids = []
    frequency = np.fft.rfftfreq(64_000, 1 / SAMPLE_RATE)
    for background in BACKGROUNDS:
        scene = replace(make_scenes(0, 1, 'semantic', CLEAR)[0], bouncers=(), background=background, ambient_db=-40.0)
        _, audio = render_scene(scene)
        level = 10 * np.log10(np.mean(audio.astype(float) ** 2))
        assert abs(level - scene_truth(scene)['ambient_db']) < 0.01
        power = np.abs(np.fft.rfft(audio)) ** 2
        centroids.append((frequency * power).sum() / power.sum())
    assert np.diff(np.sort(centroids)).min() > 100


def test_off_screen_sounds_are_heard_and_silent_movers_are_not():
    quiet = replace(CLEAR, silent_movers=2)
    scene = replace(make_scenes(0, 1, 'semantic', quiet)[0], bouncers=())
    assert np.abs(render_scene(scene)[1]).max() < 1e-4
    assert np.ptp(render_scene(scene)[0].astype(int), axis=0).max() > 50

    scene = replace(make_scenes(0, 1, 'semantic', replace(CLEAR, off_screen_sounds=1))[0], bouncers=())
    frames, audio = render_scene(scene)
    assert np.ptp(frames, axis=0).max() == 0
    (sound,) = scene_truth(scene)['distractors']
    assert abs(np.flatnonzero(np.abs(audio) > 0.003)[0] / SAMPLE_RATE - sound['time_s']) < 0.005


# What is seen is what events.jsonl says.


@pytest.mark.parametrize('shape', SHAPES)
def test_the_object_is_lowest_at_its_impacts(shape):
    for seed in range(3):
        scene = lone_scene(shape, 'yellow', size=7.0, seed=seed)
        frames, _ = render_scene(scene)
        middle = middles(frames, 'yellow')
        (times,) = truth_times(scene)
        for time in times:
            near = np.flatnonzero(np.abs(FRAME_TIMES - time) < 0.2)
            lowest = FRAME_TIMES[near[middle[near, 1].argmax()]]
            assert abs(lowest - time) <= 1 / FPS


def test_the_picture_follows_the_fall_between_pixels():
    scene = lone_scene('disc', 'yellow', size=7.0)
    frames, _ = render_scene(scene)
    (bouncer,) = scene.bouncers
    middle = middles(frames, 'yellow')
    assert np.abs(middle[:, 0] - bouncer.x).max() < 0.25
    assert np.abs(middle[:, 1] - (FLOOR_Y - 7.0 - bouncer.height(FRAME_TIMES))).max() < 0.25


def middles(frames, colour):
    """(T, H, W, 3) -> (T, 2): x, y of the middle of what is painted in the colour."""
    unlike = np.abs(frames.astype(float) - PALETTE[colour]).max(axis=-1)
    weight = np.clip(1 - unlike / 60, 0, 1)
    place = np.arange(64) + 0.5
    total = weight.sum(axis=(1, 2))
    return np.stack([(weight.sum(axis=1) @ place) / total, (weight.sum(axis=2) @ place) / total], axis=1)


@pytest.mark.parametrize('shape', SHAPES)
def test_every_shape_touches_the_floor_with_its_lowest_point(shape):
    y, x = np.mgrid[-12:12:0.05, -12:12:0.05]
    inside = signed_distance(shape, x, y, 7.0) <= 0
    assert abs(y[inside].max() - 7) < 0.1
    assert abs(y[inside].min() + 7) < 0.1


def test_flights_obey_gravity():
    for scene in make_scenes(0, 20, 'mixed'):
        for bouncer in scene.bouncers:
            for (start, speed), (after, _) in itertools.pairwise(bouncer.flights):
                assert after - start == pytest.approx(2 * speed / bouncer.gravity)
            impacts = np.array([impact.time_s for impact in bouncer.impacts])
            assert bouncer.height(impacts).max() < 1e-6
            assert (np.diff(impacts) > 0.4).all()


# Galleries.


def test_semantic_scenes_differ_in_their_objects():
    scenes = make_scenes(0, 512, 'semantic')
    assert len({object_set(looks_of(scene)) for scene in scenes}) == 512
    assert {scene.group for scene in scenes} == {None}


def test_every_set_of_objects_comes_once_before_any_comes_twice():
    small = Difficulty(objects=2, shapes=2, colours=3)
    assert small.object_sets == 3 * 2 + 3 * 4
    sets = [object_set(looks_of(scene)) for scene in make_scenes(0, 2 * 18, 'semantic', small)]
    assert len(set(sets[:18])) == len(set(sets[18:])) == 18


def test_a_temporal_group_shares_everything_but_times():
    scenes = make_scenes(0, 5 * GROUP_SIZE, 'temporal')
    assert [scene.group for scene in scenes] == [index // GROUP_SIZE for index in range(len(scenes))]
    for start in range(0, len(scenes), GROUP_SIZE):
        group = scenes[start : start + GROUP_SIZE]
        assert len({timeless(scene) for scene in group}) == 1
        for one, other in itertools.combinations(group, 2):
            assert mean_gap(truth_times(one), truth_times(other)) >= MIN_PATTERN_DISTANCE_S
    assert len({object_set(looks_of(scene)) for scene in scenes}) == 5


def timeless(scene):
    """The scene with all that may differ within a group blanked out."""
    return replace(
        scene,
        clip_id='',
        noise_seed=0,
        bouncers=tuple(replace(bouncer, flights=()) for bouncer in scene.bouncers),
        off_screen=tuple(replace(sound, time_s=0.0, speed=0.0) for sound in scene.off_screen),
    )


def mean_gap(first, second):
    """Seconds to the nearest impact of the same object in the other clip, from every impact of both clips."""
    gaps = []
    for one, other in zip(first, second, strict=True):
        gaps += [min(abs(a - b) for b in other) for a in one]
        gaps += [min(abs(a - b) for a in one) for b in other]
    return sum(gaps) / len(gaps)


def test_difficulty_sets_what_is_in_a_scene():
    easy = Difficulty(objects=2, shapes=2, colours=3, backgrounds=1, silent_movers=3, off_screen_sounds=4)
    for scene in make_scenes(0, 18, 'semantic', easy):
        assert len(scene.bouncers) <= 2
        assert {look.shape for look in looks_of(scene)} <= set(SHAPES[:2])
        assert {look.colour for look in looks_of(scene)} <= set(COLOURS[:3])
        assert (scene.background, len(scene.movers), len(scene.off_screen)) == (BACKGROUNDS[0], 3, 4)


@pytest.mark.parametrize(
    ('wrong', 'said'),
    [
        ({'shapes': 9}, 'shapes'),
        ({'ambient_db': 0}, 'ambient_db'),
        ({'colours': 2}, 'too few'),
        ({'objects': 0}, 'from 1'),
    ],
)
def test_an_impossible_difficulty_is_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        Difficulty(**wrong)


def test_wrong_galleries_and_seeds_are_refused():
    with pytest.raises(UserError, match='semantic, temporal, mixed'):
        make_scenes(0, 1, 'mixd')
    with pytest.raises(UserError, match='negative'):
        make_scenes(-1, 1, 'mixed')


# Files.


@pytest.fixture(scope='module')
def rendering(tmp_path_factory):
    root = tmp_path_factory.mktemp('impacts')
    assert render_impacts(root, train=4, test=3, seed=0, workers=1, progress=False) == root
    return root


def test_tables_agree_with_the_scenes_and_the_files(rendering):
    scenes = make_scenes(0, 4, 'mixed', split='train')
    scenes += make_scenes(0, 3, 'semantic') + make_scenes(0, 3, 'temporal')
    names = sorted(file.name for file in (rendering / 'video').iterdir())
    assert all(re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9_-]{10}_000000\.mp4', name) for name in names)

    events = [json.loads(line) for line in (rendering / 'events.jsonl').read_text().splitlines()]
    assert events == json.loads(json.dumps([scene_truth(scene) for scene in scenes]))
    with open(rendering / 'manifest.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert ','.join(rows[0]) == 'clip_id,file,start_s,end_s,label,caption,split,gallery,group'
    assert [row['split'] for row in rows] == ['train'] * 4 + ['test'] * 6
    assert [row['gallery'] for row in rows[4:]] == ['semantic'] * 3 + ['temporal'] * 3
    assert [row['clip_id'] for row in rows] == [event['clip_id'] for event in events]
    assert sorted(Path(row['file']).name for row in rows) == names
    assert {row['group'] for row in rows} == {'', '0'}

    with open(rendering / 'impacts.csv', newline='') as file:
        official = list(csv.reader(file))
    for (video_id, start, label, split), row in zip(official, rows, strict=True):
        assert row['file'] == f'video/{video_id}_{int(start):06d}.mp4'
        assert (label, split) == (row['label'], row['split'])


def test_files_decode_to_what_was_rendered(rendering):
    for scene in make_scenes(0, 2, 'semantic'):
        frames, audio = render_scene(scene)
        file = str(rendering / 'video' / f'{scene.clip_id}.mp4')
        with av.open(file) as container:
            decoded = np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])
        assert decoded.shape == frames.shape
        # Pixel noise and the halved resolution of colour cost some; the brightness and colour of the whole stay.
        difference = decoded.astype(int) - frames
        assert np.abs(difference).mean() < 7
        assert np.abs(difference.mean(axis=(0, 1, 2))).max() < 2
        with av.open(file) as container:
            heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])[: len(audio)]
        assert len(heard) == len(audio)
        assert np.sum((heard - audio) ** 2) < 0.01 * np.sum(audio**2)


def test_a_stopped_rendering_goes_on_and_keeps_its_files(tmp_path, monkeypatch, rendering):
    write = files.write_clip

    def stop_at_third(file, *arguments, **options):
        if len(list(Path(file).parent.iterdir())) == 2:
            raise KeyboardInterrupt
        write(file, *arguments, **options)

    monkeypatch.setattr(files, 'write_clip', stop_at_third)
    with pytest.raises(KeyboardInterrupt, match='after 2 of 10 clips'):
        render_impacts(tmp_path, train=4, test=3, workers=1, progress=False)
    monkeypatch.undo()
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / 'video').iterdir()}
    assert not (tmp_path / 'manifest.csv').exists()

    (tmp_path / 'video' / '.x_000000.mp4.99.part').write_bytes(b'of a process that was killed')
    render_impacts(tmp_path, train=4, test=3, workers=1, progress=False)
    assert all((tmp_path / 'video' / name).stat().st_mtime_ns == time for name, time in kept.items())
    assert contents(tmp_path) == contents(rendering)


def contents(root):
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob('*') if file.is_file()}


def test_another_rendering_is_refused_or_replaced(tmp_path):
    render_impacts(tmp_path, train=1, test=0, seed=0, workers=1, progress=False)
    before = contents(tmp_path)
    (tmp_path / 'video' / 'my own film.mp4').write_bytes(b'a film')
    with pytest.raises(UserError, match=r'seed 0 instead of 1.*--force'):
        render_impacts(tmp_path, train=1, test=0, seed=1, workers=1, progress=False)
    with pytest.raises(UserError, match='difficulty'):
        render_impacts(tmp_path, train=1, test=0, difficulty=CLEAR, workers=1, progress=False)
    assert before.items() <= contents(tmp_path).items()

    render_impacts(tmp_path, train=1, test=0, seed=1, workers=1, progress=False, force=True)
    clips = {file.stem for file in (tmp_path / 'video').iterdir()}
    assert clips == {make_scenes(1, 1, 'mixed', split='train')[0].clip_id, 'my own film'}


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'manifest.csv').write_text('of another data set')
    with pytest.raises(UserError, match='give another folder'):
        render_impacts(tmp_path, train=1, test=0, workers=1, progress=False, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ['manifest.csv']


def test_a_disk_that_refuses_is_said_in_one_sentence(tmp_path):
    (tmp_path / 'file').write_text('not a folder')
    with pytest.raises(UserError, match='Cannot write'):
        render_impacts(tmp_path / 'file', train=1, test=0, workers=1, progress=False)


def test_processes_render_the_same_bytes(tmp_path):
    for name, workers in (('one', 1), ('two', 2)):
        render_impacts(tmp_path / name, train=10, test=0, workers=workers, progress=False)
    assert contents(tmp_path / 'one') == contents(tmp_path / 'two')


def test_the_tool_says_what_it_wrote_and_what_comes_next(tmp_path, monkeypatch, capsys):
    tool = str(Path(__file__).parents[2] / 'tools' / 'prepare_data.py')
    monkeypatch.setattr(sys, 'path', list(sys.path))
    sizes = ['--train', '2', '--test', '1', '--workers', '1']
    monkeypatch.setattr(sys, 'argv', [tool, 'impacts', *sizes, '--out', str(tmp_path)])
    runpy.run_path(tool, run_name='__main__')
    said = capsys.readouterr().out
    assert '2 training clips and 2 x 1 test clips' in said
    assert 'python tools/train.py configs/gmscavp_impacts.py' in said
    assert len(list((tmp_path / 'video').iterdir())) == 4

    monkeypatch.setattr(sys, 'argv', [tool, 'impacts', '--train', '3', '--out', str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(tool, run_name='__main__')
    assert ended.value.code == 2
    assert '--force' in capsys.readouterr().err
