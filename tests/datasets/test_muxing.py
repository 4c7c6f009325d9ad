"""Films written: what is kept is the same bytes at the same times, what is new begins with it, or nothing is written."""

import hashlib
from fractions import Fraction

import av
import numpy as np
import pytest

from gmscavp.datasets.decoding import ClipError, probe
from gmscavp.datasets.muxing import add_pictures_to, picture_track, replace_sound, sound_span, write_wave, writing
from gmscavp.errors import UserError
from tests.media import FRAGMENTED, MOOV_FIRST, click, corner, moving, numbered, read_number, remux, sine, write_cover
from tests.media import write_media as write

RATE = 16_000


def packets(file, kind='video'):
    """[(bytes, seconds shown)] in the order of the file."""
    with av.open(str(file)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(bytes(packet), packet.pts * packet.time_base) for packet in container.demux(stream) if packet.size]


def frames(file):
    """[(seconds, (H, W, 3))] as a player shows them, unturned."""
    with av.open(str(file)) as container:
        return [(frame.pts * frame.time_base, frame.to_ndarray(format='rgb24')) for frame in container.decode(video=0)]


def sound(file):
    """(S,), Hz and the time of the first sample."""
    with av.open(str(file)) as container:
        decoded = list(container.decode(audio=0))
        wave = np.concatenate([frame.to_ndarray() for frame in decoded], axis=1)
        return wave, decoded[0].sample_rate, decoded[0].pts * decoded[0].time_base


def clicks(seconds, at, rate=RATE):
    wave = np.zeros(round(seconds * rate), np.float32)
    for time in at:
        wave[round(time * rate)] = 0.9
    return wave


def span(file, kind):
    with av.open(str(file)) as container:
        stream = getattr(container.streams, kind)[0]
        return float((stream.start_time or 0) * stream.time_base), float(stream.duration * stream.time_base)


SOURCES = {
    'h264.mp4': {},
    'h264.mkv': {},
    'turned.mp4': dict(rotation=90),
    'turned.mkv': dict(rotation=270),
    'shape.mp4': dict(pixel_shape=2),
    'varying.mp4': dict(frame_times=[0, 0.04, 0.1, 0.3, 0.35, 1.0, 1.5, 1.9]),
    'varying.mkv': dict(frame_times=[0, 0.04, 0.1, 0.3, 0.35, 1.0, 1.5, 1.9]),
    'late.mp4': dict(video_start_s=0.5),
    'early.mp4': dict(audio_start_s=0.5),
    'late.mkv': dict(video_start_s=0.5),
    'pieces.mp4': dict(container_options=FRAGMENTED),
    'ntsc.mp4': dict(fps=Fraction(30_000, 1001)),
    'av1.mp4': dict(video_codec='libsvtav1'),
    'vp9.webm': dict(video_codec='libvpx-vp9', audio_codec='libopus', sample_rate=48_000),
    'mpeg4.avi': dict(video_codec='mpeg4', audio_codec='libmp3lame'),
}


@pytest.mark.parametrize('name', SOURCES)
def test_pictures_are_copied_bit_by_bit(tmp_path, name):
    source = write(tmp_path / name, moving(), sine(), duration_s=2.0, **SOURCES[name])
    track, out = picture_track(source), tmp_path / 'out.mp4'
    wave = clicks(track.duration_s, [0.0, 0.5])
    assert replace_sound(source, out, wave, RATE) is None
    old, new = packets(source), packets(out)
    assert [data for data, _ in new] == [data for data, _ in old]
    first = min(time for _, time in old)
    assert [float(time) for _, time in new] == [pytest.approx(float(time - first), abs=1e-9) for _, time in old]
    assert span(out, 'audio') == (0.0, len(wave) / RATE)
    begin, lasts = span(out, 'video')
    assert begin == 0
    assert abs(lasts - track.duration_s) < 1e-3
    was, is_now = probe(source), probe(out)
    assert (is_now.rotation, is_now.width, is_now.height) == (was.rotation, was.width, was.height)


def test_pictures_hidden_by_an_edit_list_stay_hidden(tmp_path):
    whole = write(tmp_path / 'whole.mp4', numbered(), sine())
    source = remux(whole, tmp_path / 'cut.mp4', shift_s=1.3)
    wave = clicks(picture_track(source).duration_s, [0.0])
    assert replace_sound(source, tmp_path / 'out.mp4', wave, RATE) is None
    assert [data for data, _ in packets(tmp_path / 'out.mp4')] == [data for data, _ in packets(source)]
    old, new = frames(source), frames(tmp_path / 'out.mp4')
    assert [time for time, _ in new] == [time for time, _ in old]
    assert read_number(new[0][1].transpose(2, 0, 1)) == read_number(old[0][1].transpose(2, 0, 1)) >= 128


def test_transport_streams_keep_their_pictures_though_packed_otherwise(tmp_path):
    source = write(tmp_path / 'a.ts', numbered(), sine(), duration_s=2.0)
    assert replace_sound(source, tmp_path / 'out.mp4', clicks(2.0, [0.0]), RATE) is None
    old, new = frames(source), frames(tmp_path / 'out.mp4')
    assert all((x == y).all() for (_, x), (_, y) in zip(old, new, strict=True))
    assert [float(time) for time, _ in new] == pytest.approx([k / 25 for k in range(50)])


@pytest.mark.parametrize(
    ('name', 'settings', 'said'),
    [
        ('vp8.webm', dict(video_codec='libvpx', audio_codec='libopus', sample_rate=48_000), 'cannot hold vp8'),
        ('h264.avi', dict(audio_codec='libmp3lame'), 'no times of their own'),
        ('turned.mkv', dict(video_codec='ffv1', rotation=90), None),
    ],
)
def test_pictures_that_cannot_be_copied_are_encoded_again(tmp_path, name, settings, said):
    source = write(tmp_path / name, moving(), sine(), duration_s=2.0, **settings)
    track = picture_track(source)
    note = replace_sound(source, tmp_path / 'out.mp4', clicks(track.duration_s, [0.0]), RATE)
    assert said is None or said in note
    old, new = frames(source), frames(tmp_path / 'out.mp4')
    assert len(new) == len(old)
    for (_, before), (_, after) in zip(old, new, strict=True):
        assert np.abs(before.astype(int) - after).mean() < 8
    assert abs(span(tmp_path / 'out.mp4', 'video')[1] - track.duration_s) < 1e-3
    assert probe(tmp_path / 'out.mp4').rotation == probe(source).rotation


def test_odd_sides_and_varying_times_survive_encoding_again(tmp_path):
    times = [0.0, 0.1, 0.5, 0.9, 1.5]
    source = write(tmp_path / 'a.mkv', moving((63, 95)), None, video_codec='ffv1', frame_times=times)
    writer_holds = writing._foreign
    try:
        writing._foreign = lambda writer, stream: 'asked for by the test'
        replace_sound(source, tmp_path / 'out.mp4', clicks(1.6, [0.0]), RATE)
    finally:
        writing._foreign = writer_holds
    new = frames(tmp_path / 'out.mp4')
    assert [float(time) for time, _ in new] == pytest.approx(times, abs=1e-3)
    assert new[0][1].shape == (64, 96, 3)


@pytest.mark.parametrize('rate', [16_000, 44_100, 48_000])
def test_sound_begins_with_the_picture_and_lasts_to_the_sample(tmp_path, rate):
    source = write(tmp_path / 'late.mkv', moving(), click([1.0]), duration_s=2.0, video_start_s=0.5)
    wave = clicks(2.0, [0.0, 1.25], rate)
    replace_sound(source, tmp_path / 'out.mp4', wave, rate)
    heard, heard_rate, begins = sound(tmp_path / 'out.mp4')
    assert (heard_rate, begins) == (rate, 0)
    assert span(tmp_path / 'out.mp4', 'audio') == (0.0, 2.0)
    assert abs(np.abs(heard[0, rate:]).argmax() / rate - 0.25) < 0.002
    assert len(packets(tmp_path / 'out.mp4', 'audio')) > 10


def test_a_first_part_shows_every_picture_of_it(tmp_path):
    source = write(tmp_path / 'a.mp4', numbered(), sine())
    replace_sound(source, tmp_path / 'out.mp4', clicks(1.5, [0.0]), RATE, duration_s=1.5)
    numbers = [read_number(picture.transpose(2, 0, 1)) for _, picture in frames(tmp_path / 'out.mp4')]
    wanted = list(range(0, 150, 4))
    assert numbers[: len(wanted)] == wanted
    # No more than those that others are made from.
    assert len(numbers) <= len(wanted) + 4


def test_tags_of_people_stay_and_ours_are_added(tmp_path):
    source = tmp_path / 'a.mkv'
    with av.open(str(source), 'w') as container:
        container.metadata.update(title='Stairs', comment='old', encoder='x')
        stream = container.add_stream('libx264', rate=25)
        stream.width = stream.height = 64
        for k in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), k, np.uint8), format='rgb24')
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    replace_sound(source, tmp_path / 'out.mp4', clicks(2, [0]), RATE, metadata={'comment': 'synthetic'})
    with av.open(str(tmp_path / 'out.mp4')) as container:
        assert container.metadata['title'] == 'Stairs'
        assert container.metadata['comment'] == 'synthetic'


def test_the_same_film_is_the_same_bytes(tmp_path):
    source = write(tmp_path / 'a.mp4', moving(), sine(), duration_s=1.0)
    digests = set()
    for name in ('b.mp4', 'c.mp4'):
        replace_sound(source, tmp_path / name, clicks(1.0, [0.5]), RATE)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize('fault', [KeyboardInterrupt, OSError])
def test_what_is_not_finished_is_not_there(tmp_path, monkeypatch, fault):
    source = write(tmp_path / 'a.mp4', moving(), sine(), duration_s=1.0)
    out = tmp_path / 'out.mp4'
    out.write_bytes(b'before')

    def fail(*arguments):
        yield from ()
        raise fault

    monkeypatch.setattr(writing, 'coded_wave', fail)
    with pytest.raises(fault):
        replace_sound(source, out, clicks(1.0, [0.5]), RATE)
    assert out.read_bytes() == b'before'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.mp4', 'out.mp4']


def test_faults_of_the_file_are_told(tmp_path):
    def refused(name, **settings):
        with pytest.raises(UserError) as told:
            picture_track(write(tmp_path / name, **settings))
        return str(told.value)

    assert 'no video track' in refused('sound.mp4', picture=None, sound=sine())
    assert 'still picture' in refused('one.mp4', picture=corner(), sound=None, frame_times=[0.0])
    (tmp_path / 'a.png').write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(99))
    with pytest.raises(UserError, match=r'still picture.*ffmpeg -loop 1'):
        picture_track(tmp_path / 'a.png')
    with pytest.raises(ClipError, match='no video track'):
        picture_track(write_cover(tmp_path / 'music.mp4'))
    with pytest.raises(ClipError, match='no audio track'):
        sound_span(write(tmp_path / 'mute.mp4', moving(), None, duration_s=1.0))
    whole = write(tmp_path / 'whole.mp4', moving(), sine(), container_options=MOOV_FIRST)
    (tmp_path / 'half.mp4').write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ClipError, match=r'damaged \(the pictures end at'):
        picture_track(tmp_path / 'half.mp4')


SOUNDS = {
    'a.wav': (dict(audio_codec='pcm_s16le'), 'FLAC'),
    'deep.wav': (dict(audio_codec='pcm_s24le', layout='mono'), 'FLAC'),
    'a.flac': (dict(audio_codec='flac'), None),
    'a.m4a': ({}, None),
    'a.mka': (dict(audio_codec='libopus', sample_rate=48_000), None),
    'film.mkv': (dict(), None),
    'a.mp3': (dict(audio_codec='libmp3lame'), None),
}


@pytest.mark.parametrize('name', SOUNDS)
def test_a_given_sound_stays_as_it_is_under_new_pictures(tmp_path, name):
    settings, note = SOUNDS[name]
    picture = moving() if name.startswith('film') else None
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * 48_000)
    source = write(
        tmp_path / name, picture, lambda times: noise[np.round(times * 48_000).astype(int)], duration_s=2.3, **settings
    )
    pictures = (np.full((32, 32, 3), 20 * k, np.uint8) for k in range(10))
    said = add_pictures_to(source, tmp_path / 'out.mp4', pictures, (32, 32), 4)
    assert (said is None) if note is None else (note in said)
    if note is None:
        assert [x for x, _ in packets(tmp_path / 'out.mp4', 'audio')] == [x for x, _ in packets(source, 'audio')]
    (old, old_rate, _), (new, new_rate, begins) = sound(source), sound(tmp_path / 'out.mp4')
    assert (new_rate, begins) == (old_rate, 0)
    # An mp4 says to the sample where sound ends, other files do not. Matroska rounds its beginning to milliseconds.
    assert abs(old.shape[1] - new.shape[1]) <= 2048
    most = 0 if name != 'a.mka' else 48
    shifts = [k for k in range(most + 1) if np.array_equal(old[:, 400:90_000], new[:, 400 - k : 90_000 - k])]
    assert len(shifts) == 1
    assert span(tmp_path / 'out.mp4', 'video') == (0.0, 2.5)


def test_lossless_sound_is_cut_to_the_sample(tmp_path):
    source = write(tmp_path / 'a.wav', None, sine(), audio_codec='pcm_s16le', duration_s=3.0)
    pictures = (np.zeros((32, 32, 3), np.uint8) for _ in range(4))
    add_pictures_to(source, tmp_path / 'out.mp4', pictures, (32, 32), 4, duration_s=0.7)
    old, new = sound(source)[0], sound(tmp_path / 'out.mp4')[0]
    assert new.shape == (1, 2 * round(0.7 * 44_100))
    assert np.array_equal(new, old[:, : new.shape[1]])


def test_waves_come_back_in_16_bits(tmp_path):
    wave = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    write_wave(tmp_path / 'a.wav', wave, RATE, {'comment': 'synthetic'})
    back, rate, _ = sound(tmp_path / 'a.wav')
    assert rate == RATE
    assert np.abs(back[0] / 32767 - wave).max() <= 0.5 / 32767 + 1e-6
    with av.open(str(tmp_path / 'a.wav')) as container:
        assert container.metadata['comment'] == 'synthetic'
