"""IMPACTS picture and sound: shape is timbre, colour is pitch, size is decay, speed is loudness, place is ambience."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gmscavp.datasets.impacts_render.scenes import (
    FLOOR_Y,
    FPS,
    FRAMES,
    MAX_SPEED,
    SAMPLE_RATE,
    SAMPLES,
    SIDE,
    SIZE_RANGE,
    Look,
    Scene,
)

PALETTE = {
    'red': (222, 40, 36),
    'yellow': (246, 216, 40),
    'green': (48, 196, 72),
    'cyan': (84, 220, 232),
    'blue': (44, 84, 232),
    'magenta': (232, 76, 216),
}
# A factor of 1.6 (eight semitones) apart, and low enough that every timbre keeps its overtones below 8 kHz.
PITCH_HZ = {colour: 220.0 * 1.6**step for step, colour in enumerate(PALETTE)}

MARGIN = 12
CANVAS = SIDE + 2 * MARGIN
SHAKE_REACH = 6
EDGE_BRIGHTNESS = 0.3
LOUDEST = 0.42
ATTACK_S = 0.0006
LOWEST_AMBIENT_HZ = 40.0
KNEE, CEILING = 0.7, 0.94


@dataclass(frozen=True)
class Timbre:
    """Partials as (ratio to the pitch, weight, decay against the first), a tremolo in Hz, or noise around the pitch."""

    partials: tuple[tuple[float, float, float], ...] = ()
    tremolo_hz: float = 0.0
    noise: bool = False


TIMBRES = {
    'disc': Timbre(partials=((1, 1, 1),)),
    'square': Timbre(partials=((1, 1, 1), (3, 0.6, 0.8), (5, 0.36, 0.6), (7, 0.26, 0.5), (9, 0.2, 0.5))),
    # The modes of a round membrane.
    'triangle': Timbre(
        partials=((1, 1, 1), (1.593, 0.8, 0.9), (2.136, 0.7, 0.8), (2.653, 0.6, 0.7), (3.155, 0.4, 0.6))
    ),
    'diamond': Timbre(noise=True),
    'ring': Timbre(partials=((1, 1, 1), (2, 0.5, 1)), tremolo_hz=12.0),
}


@dataclass(frozen=True)
class Ambience:
    """Steady noise: amplitude ~ f^slope, with a hill of `hill` times the rest one octave round `centre_hz`.

    gain_db: above the scene's ambient level.
    """

    name: str
    slope: float
    gain_db: float
    hill: float = 0.0
    centre_hz: float = 1000.0


AMBIENCES = {
    'plain': Ambience('hiss', 0.0, -4),
    'dusk': Ambience('rumble', -1.0, 3),
    'sand': Ambience('surf', -0.5, 0),
    'brick': Ambience('hum', -0.5, -2, hill=12, centre_hz=300),
    'grass': Ambience('rustle', 0.0, -4, hill=12, centre_hz=4500),
}


def render_scene(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Scene -> (64, 64, 64, 3) uint8 frames at 16 frames/s and (64000,) float32 audio at 16 kHz."""
    return draw_frames(scene), synthesise(scene)


def draw_frames(scene: Scene) -> np.ndarray:
    """Scene -> (T, 64, 64, 3) uint8. Frame k shows the moment in the middle of its time on screen, (k + 0.5) / fps."""
    rng = np.random.default_rng([scene.noise_seed, 0])
    times = (np.arange(FRAMES) + 0.5) / FPS
    shake = _shake(rng, times, scene.camera_shake)
    canvas = _shifted(place_picture(scene.background), shake)
    for mover in scene.movers:
        position = mover.position(times)
        _paint(canvas, mover.look, position, FLOOR_Y - mover.look.size - position[:, 1], shake)
    for bouncer in scene.bouncers:
        height = bouncer.height(times)
        position = np.stack([np.full_like(height, bouncer.x), FLOOR_Y - bouncer.look.size - height], axis=1)
        _paint(canvas, bouncer.look, position, height, shake)
    picture = canvas[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    grain *= np.float32(scene.pixel_noise)
    grain += picture + np.float32(0.5)
    return np.clip(grain, 0, 255, out=grain).astype(np.uint8)


def _shake(rng: np.random.Generator, times: np.ndarray, rms: float) -> np.ndarray:
    """(T,) -> (T, 2) pixels: a hand-held wobble, three slow sines per axis."""
    rates, phases = rng.uniform(0.3, 2.5, (3, 2)), rng.uniform(0, 2 * np.pi, (3, 2))
    return rms * np.sqrt(2 / 3) * np.sin(2 * np.pi * times[:, None, None] * rates + phases).sum(axis=1)


def _shifted(place: np.ndarray, shake: np.ndarray) -> np.ndarray:
    """The place, (C + 2 R, C + 2 R, 3), moved by (T, 2) pixels x, y -> (T, C, C, 3), linear between pixels."""
    moved = np.empty((len(shake), CANVAS, CANVAS, 3), np.float32)
    for k, offset in enumerate(shake):
        whole = np.floor(offset).astype(int)
        x, y = (offset - whole).astype(np.float32)
        column, row = SHAKE_REACH - whole
        window = place[row - 1 : row + CANVAS, column - 1 : column + CANVAS]
        window = (1 - x) * window[:, 1:] + x * window[:, :-1]
        moved[k] = (1 - y) * window[1:] + y * window[:-1]
    return moved


def _paint(canvas: np.ndarray, look: Look, position: np.ndarray, height: np.ndarray, shake: np.ndarray) -> None:
    """Draw an object of (T, 2) positions and (T,) heights over the floor, and its shadow, into (T, C, C, 3)."""
    reach = int(np.ceil(look.size)) + 3
    x, y = (position + shake + MARGIN).T
    floor = np.full_like(x, FLOOR_Y + MARGIN + 1.5) + shake[:, 1]
    rows, columns, dx, dy = _patches(x, floor, reach, 5)
    depth = 0.55 * np.exp(-height / 12)[:, None, None]
    shade = 1 - depth * np.exp(-((dx / (0.9 * look.size)) ** 2) - (dy / 1.6) ** 2)
    for k, (row, column) in enumerate(zip(rows, columns, strict=True)):
        canvas[k, row : row + 10, column : column + 2 * reach] *= shade[k, :, :, None]

    rows, columns, dx, dy = _patches(x, y, reach, reach)
    distance = signed_distance(look.shape, dx, dy, look.size)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    fill = np.clip(-0.5 - distance, 0, 1)[..., None]
    ink = cover * np.array(PALETTE[look.colour], np.float32) * (EDGE_BRIGHTNESS + (1 - EDGE_BRIGHTNESS) * fill)
    for k, (row, column) in enumerate(zip(rows, columns, strict=True)):
        patch = canvas[k, row : row + 2 * reach, column : column + 2 * reach]
        patch *= 1 - cover[k]
        patch += ink[k]


def _patches(
    x: np.ndarray, y: np.ndarray, reach_x: int, reach_y: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First row and column (T,) of the patch round each centre, and its pixels' (T, 2 reach_y, 2 reach_x) dx and dy."""
    columns = np.clip(np.rint(x).astype(int) - reach_x, 0, CANVAS - 2 * reach_x)
    rows = np.clip(np.rint(y).astype(int) - reach_y, 0, CANVAS - 2 * reach_y)
    dx = (columns - x)[:, None, None] + (np.arange(2 * reach_x) + 0.5)[None, None, :]
    dy = (rows - y)[:, None, None] + (np.arange(2 * reach_y) + 0.5)[None, :, None]
    shape = (len(x), 2 * reach_y, 2 * reach_x)
    return rows, columns, np.broadcast_to(dx, shape).astype(np.float32), np.broadcast_to(dy, shape).astype(np.float32)


def signed_distance(shape: str, dx: np.ndarray, dy: np.ndarray, size: float) -> np.ndarray:
    """Pixels from a point to the outline, negative inside. Every shape reaches exactly from -size to size in dy."""
    match shape:
        case 'disc':
            return np.hypot(dx, dy) - size
        case 'square':
            side = 0.9 * size
            return np.maximum(np.abs(dx) - side, np.abs(dy) - size)
        case 'triangle':
            return np.maximum(dy - size, (2 * np.abs(dx) - 1.1 * (dy + size)) / np.hypot(2, 1.1))
        case 'diamond':
            return (np.abs(dx) / 0.75 + np.abs(dy) - size) / np.hypot(1 / 0.75, 1)
        case 'ring':
            return np.abs(np.hypot(dx, dy) - 0.72 * size) - 0.28 * size
    raise ValueError(f'unknown shape {shape!r}')


@lru_cache(maxsize=16)
def place_picture(name: str) -> np.ndarray:
    """Name of a background -> (C + 2 R, C + 2 R, 3) float32: the place without objects, R wider than the canvas."""
    side = CANVAS + 2 * SHAKE_REACH
    y, x = np.mgrid[:side, :side].astype(np.float32) + np.float32(0.5 - MARGIN - SHAKE_REACH)
    grain = np.random.default_rng(len(name)).standard_normal((side, side))
    match name:
        case 'plain':
            wall = _colour(np.ones_like(y), (116, 118, 124))
        case 'dusk':
            down = y / FLOOR_Y
            wall = _colour(1 - down, (34, 36, 78)) + _colour(down, (150, 96, 92))
        case 'sand':
            soft = grain + np.roll(grain, 1, axis=0) + np.roll(grain, 1, axis=1)
            wall = _colour(1 + 0.07 * soft, (156, 138, 104))
        case 'brick':
            course = np.floor(y / 6)
            mortar = (y % 6 < 1) | ((x + 6 * (course % 2)) % 12 < 1)
            wall = _colour(np.where(mortar, 1.35, 1 + 0.04 * grain), (104, 70, 60))
        case 'grass':
            blades = np.roll(grain, 1, axis=0) + np.roll(grain, 2, axis=0) + np.roll(grain, 3, axis=0) + grain
            wall = _colour(1 + 0.1 * blades, (56, 78, 48))
        case _:
            raise ValueError(f'unknown background {name!r}')
    floor = (y >= FLOOR_Y)[..., None]
    picture = np.where(floor, 0.62 * wall + 8, wall).astype(np.float32)
    picture.setflags(write=False)
    return picture


def _colour(brightness: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(H, W) times (3,) -> (H, W, 3)."""
    return brightness[..., None] * np.array(colour, np.float32)


def synthesise(scene: Scene) -> np.ndarray:
    """Scene -> (S,) float32 in [-0.94, 0.94]: every impact at its exact time, and the ambience of the place."""
    audio = _ambience(scene)
    struck = [(b.look, impact.time_s, impact.speed) for b in scene.bouncers for impact in b.impacts]
    struck += [(sound.look, sound.time_s, sound.speed) for sound in scene.off_screen]
    for index, (look, time_s, speed) in enumerate(struck):
        first = int(np.ceil(time_s * SAMPLE_RATE))
        # Nine decay times: the tail has fallen by 78 dB where it is cut.
        count = max(0, min(SAMPLES - first, int(9 * decay_s(look.size) * SAMPLE_RATE)))
        since = (first + np.arange(count)) / SAMPLE_RATE - time_s
        rng = np.random.default_rng([scene.noise_seed, 2, index])
        audio[first : first + count] += strike(look, speed, since, rng)
    return soft_limit(audio).astype(np.float32)


def decay_s(size: float) -> float:
    """Pixels -> seconds in which an impact falls to 1/e: 0.035 for the smallest object, 0.2 for the largest."""
    return float(0.035 * (0.2 / 0.035) ** ((size - SIZE_RANGE[0]) / (SIZE_RANGE[1] - SIZE_RANGE[0])))


def loudness(speed: float) -> float:
    """Pixels per second -> peak amplitude, in proportion."""
    return LOUDEST * speed / MAX_SPEED


def strike(look: Look, speed: float, since: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) seconds since the impact -> (N,) samples of its sound. rng: for the noise timbre."""
    timbre, pitch, decay = TIMBRES[look.shape], PITCH_HZ[look.colour], decay_s(look.size)
    if timbre.noise:
        tone = _band_noise(rng, len(since), pitch) * np.exp(-since / decay)
    else:
        # A partial at or above the Nyquist frequency would fold back as a false one.
        audible = [partial for partial in timbre.partials if partial[0] * pitch < 0.48 * SAMPLE_RATE]
        tone = np.zeros_like(since)
        for ratio, weight, length in audible:
            tone += weight * np.sin(2 * np.pi * pitch * ratio * since) * np.exp(-since / (decay * length))
        tone /= sum(weight for _, weight, _ in audible) ** 0.7
    if timbre.tremolo_hz:
        tone *= 0.6 + 0.4 * np.cos(2 * np.pi * timbre.tremolo_hz * since)
    # Low notes need more amplitude to sound as loud.
    return loudness(speed) * (pitch / 700) ** -0.2 * (1 - np.exp(-since / ATTACK_S)) * tone


def _band_noise(rng: np.random.Generator, count: int, pitch: float) -> np.ndarray:
    """(count,) noise of RMS 0.45 around the pitch, its spectrum a bell with a standard deviation of a fifth of it."""
    length = max(count, 64)
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequency = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum * np.exp(-0.5 * ((frequency - pitch) / (0.2 * pitch)) ** 2), length)
    return 0.45 * noise[:count] / np.sqrt(np.mean(noise**2))


def _ambience(scene: Scene) -> np.ndarray:
    """(S,) noise in the colour and at the level of the scene's place."""
    ambience = AMBIENCES[scene.background]
    rng = np.random.default_rng([scene.noise_seed, 1])
    frequency = np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(frequency, LOWEST_AMBIENT_HZ) / ambience.centre_hz)
    gain = (1 + ambience.hill * np.exp(-2 * octaves**2)) * 2.0 ** (ambience.slope * octaves)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(SAMPLES)) * gain, SAMPLES)
    level = 10 ** ((scene.ambient_db + ambience.gain_db) / 20)
    return level * noise / np.sqrt(np.mean(noise**2))


def soft_limit(audio: np.ndarray) -> np.ndarray:
    """Leave samples below KNEE as they are and bend what is above so that nothing passes CEILING."""
    over = np.maximum(np.abs(audio) - KNEE, 0)
    return np.sign(audio) * (np.minimum(np.abs(audio), KNEE) + (CEILING - KNEE) * np.tanh(over / (CEILING - KNEE)))
